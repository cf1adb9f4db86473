"""The command line: one clear line per error that a user can fix, and no files left behind."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from hamjepa_audit.cli.main import PANELS, main
from hamjepa_audit.errors import UserError
from hamjepa_audit.training import device
from tests.tiny import SEEDS, STUDY, audit, edit, files_below

MEASURING = ("extract", "knn", "probe", "geometry", "trajectory", "dynamics")
RUN = ("--study", STUDY, "--epochs", "2", "--threads", "1")


def use_parquet(
    place: Path, labels: tuple[list[int], list[int]], image: bytes | None = None
) -> None:
    """Points the tiny study at two Parquet files below data/raw."""
    from io import BytesIO

    from PIL import Image

    raw = place / "data" / "raw"
    raw.mkdir(parents=True)
    buffer = BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "PNG")
    content = buffer.getvalue() if image is None else image
    for split, values in zip(("train", "test"), labels, strict=True):
        rows = [{"image": {"bytes": content, "path": "x.png"}, "label": v} for v in values]
        pq.write_table(pa.Table.from_pylist(rows), raw / f"{split}.parquet")
    source = {
        "name": STUDY, "source": "parquet", "image_size": 16, "digest": None,
        "train": [{"path": "train.parquet", "sha256": None}],
        "test": [{"path": "test.parquet", "sha256": None}],
    }  # fmt: skip
    edit(place / "params" / "studies" / f"{STUDY}.yaml", "data", source)


def unknown_key(place: Path) -> None:
    edit(place / "params/studies/digits.yaml", "optimisation.learning_rat", 1.0)


def wrong_type(place: Path) -> None:
    edit(place / "params/studies/digits.yaml", "encoder.width", "wide")


def out_of_range(place: Path) -> None:
    edit(place / "params/studies/digits.yaml", "views.flip_probability", 1.5)


def missing_file(place: Path) -> None:
    use_parquet(place, ([0, 1], [0, 1]))
    (place / "data/raw/test.parquet").unlink()


def truncated_parquet(place: Path) -> None:
    use_parquet(place, ([0, 1], [0, 1]))
    path = place / "data/raw/train.parquet"
    path.write_bytes(path.read_bytes()[:-20])


def not_an_image(place: Path) -> None:
    use_parquet(place, ([0, 1], [0, 1]), image=b"these bytes are no image")


def mismatched_classes(place: Path) -> None:
    use_parquet(place, ([0, 1, 2], [0, 1]))


def nothing(place: Path) -> None:
    pass


def no_write_permission(place: Path) -> None:
    # A file instead of the folder also stops root, who can ignore permissions.
    (place / "data").write_text("not a folder")


@pytest.mark.faults
@pytest.mark.parametrize(
    ("spoil", "command", "expected"),
    [
        (unknown_key, ("prepare", "--study", STUDY),
         "unknown key 'optimisation.learning_rat': did you mean 'learning_rate'?"),
        (wrong_type, ("prepare", "--study", STUDY), "encoder.width is 'wide'"),
        (out_of_range, ("prepare", "--study", STUDY), "views.flip_probability is 1.5"),
        (missing_file, ("prepare", "--study", STUDY), "test.parquet"),
        (truncated_parquet, ("prepare", "--study", STUDY), "train.parquet"),
        (not_an_image, ("prepare", "--study", STUDY), "row 0"),
        (mismatched_classes, ("prepare", "--study", STUDY), "class '2'"),
        (nothing, ("pretrain", *RUN, "--arm", "hamjepa", "--seed", "-1"), "seed is -1"),
        (nothing, ("pretrain", *RUN, "--arm", "hamjpea", "--seed", "0"), "did you mean 'hamjepa'?"),
        (no_write_permission, ("prepare", "--study", STUDY), "data"),
        (nothing, ("pretrain", *RUN, "--arm", "hamjepa", "--seed", "0"), "is not prepared"),
        (nothing, ("tables", "--study", STUDY), "missing file results/studies/digits"),
        (nothing, ("tables", "--study", "digit"), "did you mean 'digits'?"),
        (nothing, ("pretrain", "--studdy", STUDY), "No such option"),
        (nothing, ("pretrain", *RUN, "--arm", "hamjepa", "--seed", "one"), "--seed"),
        (nothing, ("pretrain", *RUN, "--arm", "hamjepa", "--seed", "0", "--runs-per-gpu", "0"),
         "--runs-per-gpu"),
        (nothing, ("pretrain", *RUN, "--arm", "hamjepa", "--seed", "0", "--trial-steps", "0"),
         "--trial-steps"),
        (nothing, ("knn", *RUN, "--arm", "hamjepa", "--threads", "0"), "--threads"),
        (nothing, ("knn", *RUN, "--arm", "hamjepa", "--threads", "100000"), "1024"),
        (nothing, ("prepare", "--study", STUDY, "--threads", "0"), "--threads"),
        (nothing, ("dynamics", *RUN, "--arm", "sigreg"), "'sigreg' of study 'digits' has no pred"),
    ],
)  # fmt: skip
def test_bad_input_gives_one_line_and_leaves_nothing_behind(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spoil,
    command: tuple[str, ...],
    expected: str,
) -> None:
    spoil(place)
    before = files_below(place)
    status, stderr = audit(monkeypatch, capsys, *command)
    assert status == 2
    *progress, line = stderr.strip().splitlines()
    assert line.startswith("error: ") and expected in line
    assert not any("Traceback" in text for text in progress)
    assert files_below(place) == before


def test_debug_shows_the_traceback(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, stderr = audit(monkeypatch, capsys, "--debug", "tables", "--study", "digit")
    assert status == 2
    assert "Traceback" in stderr and "UserError" in stderr


def test_a_run_that_exists_can_be_evaluated_and_a_missing_one_is_named(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(monkeypatch, capsys, "prepare", "--study", STUDY)[0] == 0
    status, stderr = audit(
        monkeypatch, capsys, "extract", "--study", STUDY, "--arm", "hamjepa", "--epochs", "2"
    )
    assert status == 2
    assert "hamjepa-audit pretrain --study digits --arm hamjepa --epochs 2 --seed 0" in stderr


def test_a_damaged_store_is_noticed_before_training(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(monkeypatch, capsys, "prepare", "--study", STUDY)[0] == 0
    images = place / "data" / STUDY / "train_images.npy"
    content = bytearray(images.read_bytes())
    content[5000] ^= 1
    images.write_bytes(bytes(content))
    command = ("pretrain", *RUN, "--arm", "sigreg", "--seed", "0")
    status, stderr = audit(monkeypatch, capsys, *command)
    assert status == 2
    assert "train" in stderr.splitlines()[-1]
    assert files_below(place / "results") == set()


@pytest.mark.parametrize(
    ("key", "value"),
    [("optimisation.batch_size", 5000), ("evaluation.knn.neighbours", [20, 5000])],
)
def test_too_few_images_are_said_before_anything_is_trained(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    key: str, value: object,
) -> None:  # fmt: skip
    assert audit(monkeypatch, capsys, "prepare", "--study", STUDY)[0] == 0
    edit(place / f"params/studies/{STUDY}.yaml", key, value)
    command = ("pretrain", *RUN, "--arm", "sigreg", "--seed", "0")
    status, stderr = audit(monkeypatch, capsys, *command)
    assert status == 2 and f"{key} asks for 5000 training images" in stderr


def test_a_seed_that_the_study_does_not_have_is_said(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(monkeypatch, capsys, "prepare", "--study", STUDY)[0] == 0
    command = ("pretrain", *RUN, "--arm", "sigreg", "--trial-steps", "1", "--seed")
    for seed in (99, SEEDS[0]):
        status, stderr = audit(monkeypatch, capsys, *command, str(seed))
        assert status == 0
        assert (f"seed {seed} is not among those of study '{STUDY}'" in stderr) == (seed == 99)


def test_the_params_of_a_study_s_first_run_are_shown_by_default(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["hamjepa-audit", "params", "show", "--study", "cifar100", "--arm", "hamjepa"]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit):
        main()
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["arm"]["objective"]["predictor"]["step_size"] == 0.05
    assert (shown["epochs"], shown["seed"]) == (30, 0)


def test_the_schema_of_parameters_is_printed_or_written(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["hamjepa-audit", "params", "schema"])
    with pytest.raises(SystemExit):
        main()
    printed = capsys.readouterr().out
    described = json.loads(printed)["properties"]
    assert {"data", "encoder", "optimisation", "arms", "seeds"} <= described.keys()
    assert audit(monkeypatch, capsys, "params", "schema", "--out", "schema.json") == (0, "")
    assert (place / "schema.json").read_text() == printed


def test_params_are_shown_of_the_run_that_is_asked_for(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "sys.argv",
        ["hamjepa-audit", "params", "show", "--study", "cifar100", "--arm", "sigreg",
         "--epochs", "80", "--seed", "2"],
    )  # fmt: skip
    with pytest.raises(SystemExit):
        main()
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["arm"]["name"], shown["epochs"], shown["seed"]) == ("sigreg", 80, 2)


def test_raw_and_prepared_data_lie_where_the_options_say(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_parquet(place, ([0, 1], [0, 1]))
    (place / "data" / "raw").rename(place / "pictures")
    (place / "data").rmdir()
    (place / "params").rename(place / "settings")
    folders = ("--params", "settings", "--raw", "pictures", "--data", "stores")
    assert audit(monkeypatch, capsys, *folders, "prepare", "--study", STUDY)[0] == 0
    assert (place / "stores" / STUDY / "manifest.json").exists()
    assert not (place / "data").exists()


@pytest.mark.parametrize("command", ["pretrain", *MEASURING, "theory", "bench"])
def test_every_command_that_computes_has_as_many_threads_as_it_is_given(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    """Rounding may depend on the number of threads."""

    def refuse(threads: int | None) -> None:
        raise UserError(f"{threads} threads")

    monkeypatch.setattr(device, "make_deterministic", refuse)
    monkeypatch.setattr("hamjepa_audit.plans.study.data_digest", lambda *_: 64 * "0")
    run = [] if command in ("theory", "bench") else [*RUN[:-2], "--arm", "hamjepa"]
    run += ["--seed", "0", "--device", "cpu"] if command == "pretrain" else []
    status, stderr = audit(monkeypatch, capsys, command, *run, "--threads", "3")
    assert (status, stderr) == (2, "error: 3 threads\n")


def test_commands_without_torch_do_not_import_it() -> None:
    import subprocess
    import sys

    program = (
        "import sys; from hamjepa_audit.cli.main import app; import hamjepa_audit.reporting.tables;"
        "import hamjepa_audit.reporting.theory_figures, hamjepa_audit.reporting.theory_tables;"
        "import hamjepa_audit.params.theory, hamjepa_audit.theory_schemas;"
        "import hamjepa_audit.plans.study; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("module", ["collect", "headlines"])
def test_what_only_writes_numbers_does_not_wait_for_matplotlib(module: str) -> None:
    import subprocess
    import sys

    code = f"import sys, hamjepa_audit.reporting.{module}; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.faults
def test_a_command_without_arguments_shows_its_help_and_no_empty_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in ((), ("runs",), ("params",)):
        assert audit(monkeypatch, capsys, *arguments) == (2, "")


def test_the_help_groups_the_steps_in_the_order_of_the_workflow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["hamjepa-audit", "--help"])
    with pytest.raises(SystemExit) as stopped:
        main()
    told = capsys.readouterr().out
    places = [told.index(f"─ {name} ─") for name in ("Options", *PANELS)]
    assert not stopped.value.code and places == sorted(places) and "─ Commands ─" not in told


def test_a_manifest_that_can_not_be_read(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(monkeypatch, capsys, "prepare", "--study", STUDY)[0] == 0
    manifest = place / "data" / STUDY / "manifest.json"
    manifest.unlink()
    manifest.mkdir()
    status, stderr = audit(monkeypatch, capsys, "pretrain", *RUN, "--arm", "sigreg", "--seed", "0")
    assert status == 2 and f"can't read data/{STUDY}/manifest.json: Is a directory" in stderr


def test_a_checkout_that_is_not_installed_has_the_same_commands() -> None:
    import subprocess
    import sys

    command = [sys.executable, "-m", "hamjepa_audit", "params", "--help"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Usage: python -m hamjepa_audit params" in found.stdout
