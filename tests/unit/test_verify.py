"""Every kind of damage to every kind of file is reported by `verify` and refused by readers."""

import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from hamjepa_audit.bookkeeping.records import differences, read_record, require_one_kind_of_device
from hamjepa_audit.bookkeeping.states import read_state, saved_states
from hamjepa_audit.bookkeeping.table_provenance import check_table_provenance
from hamjepa_audit.bookkeeping.verification import verify_results
from hamjepa_audit.checkpoints import load_model, recorded_checkpoint
from hamjepa_audit.data.store import verify_store
from hamjepa_audit.errors import UserError
from hamjepa_audit.files import (
    read_json,
    read_sealed_json,
    sha256_file,
    write_json,
    write_sealed_json,
)
from hamjepa_audit.layout import PROVENANCE
from hamjepa_audit.metrics import METRICS_SCHEMA, TRAINING_SECONDS
from hamjepa_audit.parquet import MARK, read_parquet, write_parquet
from hamjepa_audit.reporting.collect import collect_study
from hamjepa_audit.training.checkpoints_along import CheckpointsAlong
from hamjepa_audit.training.loop import Trainer
from tests.tiny import STUDY, audit
from tests.unit import whole_results
from tests.unit.fabricated import flip_bit, plan_of, write_measurements
from tests.unit.whole_results import (
    BATCHES,
    FIRST,
    LAYOUT,
    RUN,
    SECOND,
    STUDIES,
    TARGETS,
    find,
    problems,
)

whole, place = whole_results.whole, whole_results.place

DAMAGES = ("flip", "cut", "empty", "swap")


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
    load_model(run, recorded_checkpoint(LAYOUT, run, path.parent.name))


def read_along(path: Path) -> None:
    """Reads intermediate checkpoints as a resumed run does."""
    name = path.parent.name
    trainer = cast(Trainer, SimpleNamespace(position=SimpleNamespace(epoch=2)))
    digests = read_state(*saved_states(path.parent))["checkpoints"]
    CheckpointsAlong(LAYOUT, name, [1]).require(trainer, digests)


def reader_of(target: str) -> Callable[[Path], object]:
    """The function that reads such a file on the way to the tables."""
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
    assert status == 2 and stderr.splitlines()[-1].startswith(
        "error: mismatches below results: 1; "
    )
    status, stderr = audit(monkeypatch, capsys, "verify", "--study", "cifar100")
    assert status == 2 and "error: nothing was made of cifar100: run snakemake" in stderr


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


def test_data_that_are_not_prepared_are_not_checked(place: Path) -> None:
    shutil.rmtree(LAYOUT.store(STUDY))
    verified = verify_results(LAYOUT, [STUDY])
    assert verified.problems == []
    assert f"the data in {LAYOUT.store(STUDY)}, which are not prepared" in verified.unchecked


def test_what_a_killed_process_left_unfinished_is_not_verified(place: Path) -> None:
    left = LAYOUT.results / "published" / ".digits.host.1.x"
    left.mkdir(parents=True)
    for name in ("metrics.parquet", "provenance.json"):
        (left / name).write_text("half")
    assert verify_results(LAYOUT).problems == []


def test_rows_of_other_runs_and_rows_that_are_missing(place: Path) -> None:
    metrics = Path(STUDIES) / "metrics.parquet"
    write_parquet(metrics, read_parquet(metrics).slice(1))
    (line,) = [line for line in problems() if str(metrics) in line]
    assert "does not hold exactly the rows" in line
    batch, *_ = plan_of(LAYOUT, STUDY).batches.values()
    knn = batch.measurement("knn")
    write_parquet(knn, read_parquet(knn).slice(1))
    assert any(str(knn) in line and "has another name" in line for line in problems())
    write_measurements(batch)
    probe = batch.measurement("probe")
    shutil.copy(knn, probe)
    assert any(
        str(probe) in line and f"holds the measurement {knn.stem}" in line for line in problems()
    )


def test_a_measurement_that_gives_a_run_another_seed_is_noticed(place: Path) -> None:
    batch, *_ = plan_of(LAYOUT, STUDY).batches.values()
    knn = batch.measurement("knn")
    table = read_parquet(knn)
    seeds = pc.subtract(pa.scalar(1), table["seed"])
    write_parquet(knn, table.set_column(table.column_names.index("seed"), "seed", seeds))
    (line,) = [line for line in problems() if str(knn) in line and "measure again" in line]
    assert (
        f"rows of {batch.run_ids[0]} have the study, arm, epochs and seed of "
        f"{STUDY}-sigreg-e{batch.epochs}-s1" in line
    )


def test_tables_of_no_sources_are_not_taken_for_whole(place: Path) -> None:
    nothing = read_json(LAYOUT.selection(STUDY)) | {"measurements": [], "runs": []}
    write_json(LAYOUT.selection(STUDY), nothing)
    for kind in ("metrics", "curves", "history"):
        told = f"{LAYOUT.study_table(STUDY, kind)} does not hold exactly the rows of its 0 sources"
        assert any(told in line for line in problems())


def test_a_study_is_verified_without_those_whose_names_begin_as_its_own(place: Path) -> None:
    for folder in ("runs", "state", "evaluation"):
        other = Path("results") / folder / f"{STUDY}_controls-mlp-e2-s0-0123456789ab"
        other.mkdir()
        (other / "step-0000000001.json").write_text("{}")
        (other / "knn-0123456789ab.parquet").touch()
    assert problems() and not verify_results(LAYOUT, [STUDY]).problems


def test_a_table_that_no_provenance_names_is_read_and_said_to_be_unnamed(place: Path) -> None:
    theory = LAYOUT.theory() / "notes.md"
    theory.parent.mkdir()
    theory.touch()
    mine = LAYOUT.tables(STUDY) / "mine.parquet"
    shutil.copy(LAYOUT.tables(STUDY) / "seeds.parquet", mine)
    verified = verify_results(LAYOUT)
    assert verified.problems == []
    assert [line.split(", ")[0] for line in verified.unchecked] == [
        f"1 files in {mine.parent}", f"1 files in {theory.parent}",
    ]  # fmt: skip
    assert verify_results(LAYOUT, [STUDY]).unchecked == verified.unchecked[:1]
    flip_bit(mine, 40, 1)
    for found in (verify_results(LAYOUT), verify_results(LAYOUT, [STUDY])):
        assert len(found.problems) == 1 and str(mine) in found.problems[0]


def test_a_record_moved_to_another_run_is_noticed(place: Path) -> None:
    folders = [find(RUN.format(run)) for run in (FIRST, SECOND)]
    folders[0].rename("aside")
    shutil.copytree(folders[1], folders[0])
    assert any(str(folders[0]) in line and folders[1].name in line for line in problems())


@pytest.mark.faults
@pytest.mark.parametrize("mark", [0, -1])
def test_a_seal_is_known_for_one_with_one_of_its_marks_damaged(place: Path, mark: int) -> None:
    path = LAYOUT.metrics()
    content = path.read_bytes()
    found = [match.start() for match in re.finditer(MARK, content)]
    flip_bit(path, found[mark], 0)
    with pytest.raises(UserError, match="do not match the digest in it"):
        read_parquet(path)


@pytest.mark.faults
def test_a_record_with_other_spaces_is_not_what_was_written(place: Path) -> None:
    path = find(TARGETS["record"][0])
    path.write_text(path.read_text().replace(": ", ":  ", 1))
    with pytest.raises(UserError, match="was changed or damaged"):
        read_sealed_json(path)


def test_a_record_that_calls_itself_another_run_is_noticed(place: Path) -> None:
    path, other = (find(TARGETS["record"][number]) for number in (0, 1))
    record = read_sealed_json(path)
    write_sealed_json(path, record | {"run_id": other.parent.name})
    with pytest.raises(UserError, match="is the record of"):
        read_record(LAYOUT, path.parent.name)


def test_runs_of_two_kinds_of_device_are_not_compared(place: Path) -> None:
    first, *others = plan_of(LAYOUT, STUDY).runs
    require_one_kind_of_device(LAYOUT, [first, *others])
    path = LAYOUT.record(first)
    write_sealed_json(path, read_sealed_json(path) | {"device": {"type": "cuda"}})
    with pytest.raises(UserError, match=f"{others[0]} on cpu, {first} on cuda"):
        require_one_kind_of_device(LAYOUT, [first, *others])


def test_runs_on_other_data_differ(place: Path) -> None:
    record = read_record(LAYOUT, next(iter(plan_of(LAYOUT, STUDY).runs)))
    (found,) = differences(record, record | {"data_digest": "another"})
    assert found == ("data_digest", record["data_digest"], "another")


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


def test_a_selection_of_runs_that_do_not_exist_is_noticed(place: Path) -> None:
    """As after `runs prune`, which deletes the runs' evaluation, too."""
    for pattern in (RUN.format(FIRST), BATCHES[0]):
        shutil.rmtree(find(pattern))
    (line,) = [line for line in problems() if "do not exist (1, such as" in line]
    assert line.startswith(f"results/studies/{STUDY}/selection.json names runs")
    assert f"run: snakemake --cores all results/tables --config studies='[{STUDY}]'" in line
    (LAYOUT.params / f"studies/{STUDY}.yaml").unlink()
    (line,) = [line for line in problems() if "do not exist (1, such as" in line]
    assert line.endswith(f"run: hamjepa-audit runs prune --study {STUDY} --yes")


def test_joint_metrics_of_a_study_that_was_pruned_are_noticed(place: Path) -> None:
    shutil.rmtree(LAYOUT.selection(STUDY).parent)
    (line,) = [line for line in problems() if "no longer exist" in line]
    assert f"results/metrics.parquet was made from tables of {STUDY}" in line
