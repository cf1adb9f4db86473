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

from hamjepa_audit.checkpoints import load_recorded_encoder
from hamjepa_audit.data.store import verify_store
from hamjepa_audit.errors import UserError
from hamjepa_audit.files import read_parquet, sha256_file, write_parquet
from hamjepa_audit.layout import PROVENANCE
from hamjepa_audit.metrics import METRICS_SCHEMA, TRAINING_SECONDS
from hamjepa_audit.records import read_record
from hamjepa_audit.reporting.collect import collect_study
from hamjepa_audit.states import read_state, saved_states
from hamjepa_audit.table_provenance import check_table_provenance
from hamjepa_audit.training.checkpoints_along import CheckpointsAlong
from hamjepa_audit.training.loop import Trainer
from hamjepa_audit.verification import verify_results
from tests.tiny import STUDY, audit
from tests.unit import whole_results
from tests.unit.fabricated import flip_bit, plan_of, write_measurements
from tests.unit.whole_results import FIRST, LAYOUT, RUN, SECOND, STUDIES, TARGETS, find, problems

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
