"""Damage of every kind to every kind of file: `verify` names it, and no reader takes it."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from hamjepa_audit import provenance
from hamjepa_audit.audit_plan import AuditPlan, joint_tables
from hamjepa_audit.data.preparation import prepare
from hamjepa_audit.data.store import verify_store
from hamjepa_audit.errors import UserError
from hamjepa_audit.evaluation.steps import (
    extract,
    measure_geometry,
    measure_knn,
    measure_probe,
)
from hamjepa_audit.files import (
    read_parquet,
    read_sealed_json,
    sha256_file,
    write_bytes,
    write_parquet,
    write_sealed_json,
    write_text,
)
from hamjepa_audit.layout import PROVENANCE, Layout
from hamjepa_audit.metrics import METRICS_SCHEMA, TRAINING_SECONDS
from hamjepa_audit.params import load_study
from hamjepa_audit.plan import Batch
from hamjepa_audit.records import read_record
from hamjepa_audit.reporting import collect_study
from hamjepa_audit.states import read_state, saved_states, write_state
from hamjepa_audit.table_provenance import (
    check_selections,
    check_table_provenance,
    write_audit_provenance,
    write_copy_provenance,
    write_study_provenance,
)
from hamjepa_audit.training.checkpoint import (
    CheckpointsAlong,
    load_recorded_encoder,
    save_checkpoint,
)
from hamjepa_audit.training.loop import Trainer
from hamjepa_audit.training.model import build_model
from hamjepa_audit.verification import verify_results
from tests.tiny import STUDY, audit, copy_params, edit
from tests.unit.fabricated import (
    flip_bit,
    plan_of,
    write_measurements,
    write_record,
    write_results,
    write_run,
)

LAYOUT = Layout()
FIRST, SECOND = "*-sigreg-*-s0-*", "*-hamjepa-*-s1-*"
RUN, STUDIES, TABLES = "results/runs/{}", f"results/studies/{STUDY}", f"results/tables/{STUDY}"
BATCHES = ("results/evaluation/*-sigreg-*", "results/evaluation/*-mlp-*")

# The file that is damaged, and the one that it is swapped with.
TARGETS = {
    "images": (f"data/{STUDY}/train_images.npy", f"data/{STUDY}/test_images.npy"),
    "labels": (f"data/{STUDY}/test_labels.npy", f"data/{STUDY}/train_labels.npy"),
    "manifest": (f"data/{STUDY}/manifest.json", f"data/{STUDY}/test_labels.npy"),
    "checkpoint": tuple(f"{RUN.format(run)}/checkpoint.safetensors" for run in (FIRST, SECOND)),
    "record": tuple(f"{RUN.format(run)}/run.json" for run in (FIRST, SECOND)),
    "history": tuple(f"{RUN.format(run)}/history.parquet" for run in (FIRST, SECOND)),
    "state": tuple(f"results/state/{run}/step-*.safetensors" for run in (FIRST, SECOND)),
    "state record": tuple(f"results/state/{run}/step-*.json" for run in (FIRST, SECOND)),
    "unfinished checkpoint": tuple(
        f"results/state/{run}/checkpoint_e0001.safetensors" for run in (FIRST, SECOND)
    ),
    "table": (f"{TABLES}/summary.md", f"{TABLES}/seeds.md"),
    "provenance": (f"{TABLES}/provenance.json", f"{TABLES}/seeds.md"),
    "gain": (f"{TABLES}/gain.csv", f"{TABLES}/gain.tex"),
    "claims": ("results/tables/claims.csv", "results/tables/claims.tex"),
    "statements": ("results/tables/statements.parquet", "results/tables/claims.parquet"),
    "means": ("results/metrics.json", "results/accuracy.csv"),
    "accuracies": ("results/accuracy.csv", "results/tables/claims.md"),
    "knn": tuple(f"{batch}/knn-*.parquet" for batch in BATCHES),
    "curves": tuple(f"{batch}/curves-*.parquet" for batch in BATCHES),
    "study metrics": (f"{STUDIES}/metrics.parquet", f"{STUDIES}/curves.parquet"),
    "joint metrics": ("results/metrics.parquet", f"{STUDIES}/history.parquet"),
}
DAMAGES = ("flip", "cut", "empty", "swap")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results and data without a fault."""
    folder = tmp_path_factory.mktemp("whole")
    copy_params(folder / "params")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare(load_study(LAYOUT.params, STUDY).data, LAYOUT.raw, LAYOUT.data)
        plan = plan_of(LAYOUT, STUDY)
        write_results(plan)
        for name, run in plan.runs.items():
            save_checkpoint(build_model(run), LAYOUT.checkpoint(name))
            write_record(LAYOUT, run, plan.data_digest)
            write_bytes(LAYOUT.unfinished_checkpoint(name, 1), name.encode() * 40)
            along = {
                path.name: sha256_file(path) for path in [LAYOUT.unfinished_checkpoint(name, 1)]
            }
            content = {"step": 12, "checkpoints": along}
            write_state(LAYOUT.state(name), 12, content, name.encode() * 50)
        for batch in plan.batches.values():
            write_measurements(batch)
        audit = AuditPlan.load(LAYOUT)
        audit.write_selection()
        for path in (*plan.tables(), *joint_tables(LAYOUT)):
            if path.suffix == ".parquet":
                write_parquet(path, pa.table({"of": [path.stem]}))
            else:
                write_text(path, f"{path.name}\n")
        write_study_provenance(plan)
        write_audit_provenance(audit, [plan])
    return folder


@pytest.fixture
def place(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that may be damaged, which is worked in."""
    folder = Path(shutil.copytree(whole, tmp_path / "place"))
    monkeypatch.chdir(folder)
    return folder


def find(pattern: str) -> Path:
    (path,) = Path().glob(pattern)
    return path


def damage(kind: str, path: Path, other: Path, chance: random.Random) -> None:
    match kind:
        case "flip":
            flip_bit(path, chance.randrange(path.stat().st_size), chance.randrange(8))
        case "cut":
            path.write_bytes(path.read_bytes()[: chance.randrange(1, path.stat().st_size)])
        case "empty":
            path.write_bytes(b"")
        case _:
            content = path.read_bytes()
            path.write_bytes(other.read_bytes())
            other.write_bytes(content)


def read_checkpoint(path: Path) -> None:
    run = plan_of(LAYOUT, STUDY).runs[path.parent.name]
    load_recorded_encoder(LAYOUT, run, path.parent.name, torch.device("cpu"))


def read_along(path: Path) -> None:
    """What goes on with a run reads them so."""
    name = path.parent.name
    trainer = cast(Trainer, SimpleNamespace(position=SimpleNamespace(epoch=2)))
    digests = read_state(*saved_states(path.parent))["checkpoints"]
    CheckpointsAlong(LAYOUT, name, [1]).require(trainer, digests)


def reader_of(target: str) -> Callable[[Path], object]:
    """What reads such a file on the way to the tables."""
    if target in ("images", "labels", "manifest"):
        return lambda path: verify_store(path.parent)
    if target == "checkpoint":
        return read_checkpoint
    if target in ("state", "state record"):
        return lambda path: read_state(*saved_states(path.parent))
    if target == "unfinished checkpoint":
        return read_along
    if target in ("claims", "statements", "means", "accuracies"):
        return lambda _: check_table_provenance(LAYOUT.audit_tables() / PROVENANCE)
    if target in ("table", "provenance", "gain"):
        return lambda path: check_table_provenance(path.with_name("provenance.json"))
    if target == "record":
        return lambda path: read_record(LAYOUT, path.parent.name)
    if target in ("study metrics", "joint metrics"):
        return lambda path: read_parquet(path, METRICS_SCHEMA)
    return lambda path: collect_study(plan_of(LAYOUT, STUDY))


def problems() -> list[str]:
    return verify_results(LAYOUT).problems


@pytest.mark.faults
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_named_and_not_read(place: Path, target: str, kind: str) -> None:
    path, other = map(find, TARGETS[target])
    damage(kind, path, other, random.Random(f"{target} {kind}"))
    assert any(str(path) in line or str(path.parent) in line for line in problems())
    with pytest.raises(UserError) as caught:
        reader_of(target)(path)
    assert "\n" not in str(caught.value)


@pytest.mark.faults
@pytest.mark.parametrize("target", ["record", "state record", "provenance", "knn", "manifest"])
def test_no_bit_may_differ(place: Path, target: str) -> None:
    path = find(TARGETS[target][0])
    content, chance = path.read_bytes(), random.Random(target)
    for _ in range(300):
        flip_bit(path, chance.randrange(len(content)), chance.randrange(8))
        with pytest.raises(UserError):
            reader_of(target)(path)
        path.write_bytes(content)
    assert problems() == []


def test_whole_results_verify(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verified = verify_results(LAYOUT)
    assert verified.problems == [] and verified.unchecked == []
    kinds = ("stores", "runs", "states", "measurements", "tables", "provenances")
    assert all(verified.checked[kind] for kind in kinds)
    assert verify_results(LAYOUT, [STUDY]).problems == []
    assert audit(monkeypatch, capsys, "verify")[0] == 0
    shutil.rmtree(find(RUN.format(FIRST)))
    status, stderr = audit(monkeypatch, capsys, "verify", "--study", STUDY)
    assert status == 2 and stderr.splitlines()[-1].startswith("error: 2 mismatches below results")
    assert audit(monkeypatch, capsys, "verify", "--study", "cifar100")[0] == 2


def test_published_results_verify_without_their_runs(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("results").rename("published")
    shutil.rmtree("published/runs")
    shutil.rmtree("data")
    status, stderr = audit(monkeypatch, capsys, "--results", "published", "verify")
    assert status == 0 and "not checked: the rows of published/studies" in stderr
    flip_bit(Path("published/metrics.parquet"), 1000, 3)
    assert audit(monkeypatch, capsys, "--results", "published", "verify")[0] == 2


def test_rows_of_other_runs_and_rows_that_are_missing(place: Path) -> None:
    metrics = Path(STUDIES) / "metrics.parquet"
    write_parquet(metrics, read_parquet(metrics).slice(1))
    (line,) = [line for line in problems() if str(metrics) in line]
    assert "does not hold exactly the rows" in line
    batch, *_ = plan_of(LAYOUT, STUDY).batches.values()
    knn = batch.measurement("knn")
    write_parquet(knn, read_parquet(knn).slice(1))
    assert any(str(knn) in line and "rows of the batch" in line for line in problems())
    write_measurements(batch)
    probe = batch.measurement("probe")
    shutil.copy(knn, probe)
    assert any(
        str(probe) in line and f"holds the measurement {knn.stem}" in line for line in problems()
    )


def test_a_record_moved_to_another_run_is_noticed(place: Path) -> None:
    folders = [find(RUN.format(run)) for run in (FIRST, SECOND)]
    folders[0].rename("aside")
    shutil.copytree(folders[1], folders[0])
    assert any(str(folders[0]) in line and folders[1].name in line for line in problems())


def test_an_incomplete_run_or_store_is_noticed(place: Path) -> None:
    record = find(TARGETS["record"][0])
    record.unlink()
    Path(TARGETS["manifest"][0]).unlink()
    lines = problems()
    assert any(f"missing file {record}" in line for line in lines)
    assert any("manifest.json is missing" in line for line in lines)


def test_sealed_parquet_is_parquet_and_the_same_bytes_again(place: Path) -> None:
    path = Path("results/metrics.parquet")
    table = pq.read_table(path)
    assert table.equals(read_parquet(path, sealed=True)) and table.schema.metadata is None
    write_parquet(Path("again.parquet"), table)
    assert sha256_file(Path("again.parquet")) == sha256_file(path)
    pq.write_table(table, "foreign.parquet")
    assert read_parquet(Path("foreign.parquet")).equals(table)
    with pytest.raises(UserError, match="do not match"):
        read_parquet(Path("foreign.parquet"), sealed=True)


def test_provenance_says_what_tables_are_made_of(place: Path) -> None:
    plan = plan_of(LAYOUT, STUDY)
    content = read_sealed_json(LAYOUT.tables(STUDY) / "provenance.json")
    assert set(content["runs"]) == set(plan.runs)
    assert content["params"] == {STUDY: plan.study.model_dump(mode="json")}
    assert {"commit", "uncommitted_changes", "lock_sha256", "packages"} <= set(content["made_with"])
    (environment,) = content["environments"]
    assert environment["packages"] == {"torch": "2.14.1"}
    for name, run in content["runs"].items():
        assert (run["arm"], run["seed"]) == (plan.runs[name].arm.name, plan.runs[name].seed)
        assert run["environment"] == 0 and run["data_digest"] == plan.data_digest
        assert run["started"] < run["ended"]
    before = sha256_file(LAYOUT.tables(STUDY) / "provenance.json")
    assert sha256_file(write_study_provenance(plan)) == before
    LAYOUT.record(next(iter(plan.runs))).unlink()
    with pytest.raises(UserError, match="missing file results/runs"):
        write_study_provenance(plan)


def left_over_batch() -> tuple[Batch, Batch]:
    """A batch that the parameters gave until just now, and the one in its place."""
    (before,) = [b for b in plan_of(LAYOUT, STUDY).batches.values() if b.arm == "sigreg"]
    edit(LAYOUT.params / "arms" / "sigreg.yaml", "objective.weight", 0.05)
    plan = plan_of(LAYOUT, STUDY)
    (now,) = [batch for batch in plan.batches.values() if batch.arm == "sigreg"]
    for run in now.runs:
        write_run(LAYOUT, run, plan.data_digest)
    write_measurements(now)
    return before, now


@pytest.mark.faults
@pytest.mark.parametrize("step", ["knn", "curves"])
def test_a_left_over_measurement_does_not_reach_the_tables(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], step: str
) -> None:
    before, now = left_over_batch()
    assert audit(monkeypatch, capsys, "collect", "--study", STUDY)[0] == 0
    file = now.measurement(step)
    shutil.copy(before.measurement(step), file)
    status, stderr = audit(monkeypatch, capsys, "collect", "--study", STUDY)
    assert status == 2 and f"{file} holds rows of {min(before.run_ids)}" in stderr
    assert f"delete it, and `snakemake --cores all {file}`" in stderr


@pytest.mark.faults
def test_a_left_over_history_does_not_reach_the_tables(place: Path) -> None:
    before, now = left_over_batch()
    shutil.copy(LAYOUT.run_history(before.run_ids[0]), LAYOUT.run_history(now.run_ids[0]))
    with pytest.raises(UserError, match=f"holds rows of {before.run_ids[0]}"):
        collect_study(plan_of(LAYOUT, STUDY))


@pytest.mark.faults
def test_measurements_of_another_checkpoint_or_of_none_that_is_said_are_refused(
    place: Path,
) -> None:
    batch, *_ = plan_of(LAYOUT, STUDY).batches.values()
    knn, curves = batch.measurement("knn"), batch.measurement("curves")
    checkpoint = LAYOUT.checkpoint(batch.run_ids[0])
    checkpoint.write_bytes(b"trained again, elsewhere")
    write_record(LAYOUT, batch.runs[0], batch.data_digest)
    told = f"{{}} was measured on another checkpoint.safetensors than {checkpoint.parent} holds"
    assert {told.format(knn), told.format(curves)} <= {line.split(";")[0] for line in problems()}
    with pytest.raises(UserError, match="was measured on another checkpoint"):
        collect_study(plan_of(LAYOUT, STUDY))
    write_measurements(batch)
    assert problems() == []
    write_parquet(knn, read_parquet(knn).replace_schema_metadata(None))
    assert any(f"{knn} does not say which checkpoints" in line for line in problems())
    with pytest.raises(UserError, match="does not say which checkpoints"):
        collect_study(plan_of(LAYOUT, STUDY))


@pytest.mark.faults
def test_a_measurement_made_in_another_way_is_refused_in_its_place(place: Path) -> None:
    (batch, *_), probe = plan_of(LAYOUT, STUDY).batches.values(), "evaluation.probe.epochs"
    before = batch.measurement("probe")
    edit(LAYOUT.params / "studies" / f"{STUDY}.yaml", probe, 3)
    now, *_ = plan_of(LAYOUT, STUDY).batches.values()
    shutil.copy(before, now.measurement("probe"))
    assert any(f"holds the measurement {before.stem}" in line for line in problems())


@pytest.mark.faults
def test_features_are_measured_only_with_their_labels_and_checkpoint(place: Path) -> None:
    cpu = torch.device("cpu")
    batch, *_ = plan_of(LAYOUT, STUDY).batches.values()
    extract(batch, cpu)
    measured = measure_knn(batch, cpu)
    assert not any(str(measured) in line for line in problems())
    labels = Path(TARGETS["labels"][0])
    flip_bit(labels, -8, 0)
    for measure in (measure_knn, measure_probe):
        with pytest.raises(UserError, match="are not those that they were when"):
            measure(batch, cpu)
    flip_bit(labels, -8, 0)
    before = sha256_file(measured)
    assert sha256_file(measure_knn(batch, cpu)) == before
    write_bytes(LAYOUT.checkpoint(batch.run_ids[0]), b"trained again, elsewhere")
    write_record(LAYOUT, batch.runs[0], batch.data_digest)
    for measure in (measure_knn, measure_probe, lambda batch, _: measure_geometry(batch)):
        with pytest.raises(UserError, match=f"another checkpoint than that of {batch.run_ids[0]}"):
            measure(batch, cpu)


def test_provenance_names_the_tables_of_the_plan_and_removes_others(place: Path) -> None:
    folder, foreign = LAYOUT.tables(STUDY), LAYOUT.tables(STUDY) / "notes.md"
    write_text(foreign, "mine")
    assert any("1 files in" in x and str(foreign) in x for x in verify_results(LAYOUT).unchecked)
    edit(LAYOUT.params / "studies" / f"{STUDY}.yaml", "arms", ["sigreg", "identity"])
    plan = plan_of(LAYOUT, STUDY)
    with pytest.raises(UserError, match=r"selection.json is not what the parameters give now"):
        write_study_provenance(plan)
    plan.write_selection()
    content = read_sealed_json(write_study_provenance(plan))
    assert set(content["files"]) == {path.name for path in plan.tables()}
    assert not list(folder.glob("gain.*")) and foreign.exists()
    assert set(read_sealed_json(write_copy_provenance([plan], folder))["files"]) == {
        *content["files"], foreign.name,
    }  # fmt: skip


def test_without_a_provenance_tables_are_said_to_be_unchecked(place: Path) -> None:
    (LAYOUT.audit_tables() / PROVENANCE).unlink()
    (line,) = verify_results(LAYOUT).unchecked
    assert line.startswith("16 files in results/tables, such as results/tables/claim_differences")


def test_a_selection_planned_anew_makes_tables_stale_and_is_not_dated(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(monkeypatch, capsys, "restore")[0] == 0
    edit(LAYOUT.params / "studies" / f"{STUDY}.yaml", "statistics.confidence", 0.9)
    selection = plan_of(LAYOUT, STUDY).write_selection()
    written = selection.stat().st_mtime_ns
    status, stderr = audit(monkeypatch, capsys, "restore")
    assert status == 2 and stderr.count("\n") == 1
    assert f"was not made of {selection} as it is now" in stderr
    assert selection.stat().st_mtime_ns == written
    assert any(f"{TABLES} was not made of {selection}" in line for line in problems())
    assert any(f"results/tables was not made of {selection}" in line for line in problems())


def test_provenance_of_an_older_version_is_refused(place: Path) -> None:
    path = LAYOUT.audit_tables() / PROVENANCE
    write_sealed_json(path, read_sealed_json(path) | {"schema": 1})
    with pytest.raises(UserError, match="is of version 1 of provenances"):
        check_selections(LAYOUT, path)


def test_without_git_nothing_is_said_of_the_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(provenance.code_and_environment()["uncommitted_changes"], bool)
    monkeypatch.setenv("PATH", "")
    said = provenance.code_and_environment()
    assert said["commit"] is None and said["uncommitted_changes"] is None


def test_what_training_took_is_among_the_metrics_and_verified(place: Path) -> None:
    path = LAYOUT.study_table(STUDY, "metrics")
    metrics = read_parquet(path, METRICS_SCHEMA).to_pandas()
    times = metrics[metrics["metric"] == TRAINING_SECONDS].set_index("run_id")
    plan = plan_of(LAYOUT, STUDY)
    assert set(times.index) == set(plan.runs) and set(times["unit"]) == {"seconds"}
    assert set(times["readout"]) == {"all"}
    for name, run in plan.runs.items():
        assert times["value"][name] == 3.5 + run.seed
        assert times["checkpoint_epoch"][name] == run.epochs
    metrics.loc[metrics["metric"] == TRAINING_SECONDS, "value"] += 1
    write_parquet(path, pa.Table.from_pandas(metrics, METRICS_SCHEMA, preserve_index=False))
    assert any(f"{path} does not hold exactly the rows" in line for line in problems())
