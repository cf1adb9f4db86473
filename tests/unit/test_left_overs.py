"""Left-over results of other parameters, runs or data don't reach tables."""

import shutil
from pathlib import Path

import pytest
import torch

from hamjepa_audit.bookkeeping.measurements import write_measurement
from hamjepa_audit.data.preparation import prepare
from hamjepa_audit.data.store import load_manifest
from hamjepa_audit.errors import UserError
from hamjepa_audit.evaluation import steps
from hamjepa_audit.evaluation.steps import extract, measure_geometry, measure_knn, measure_probe
from hamjepa_audit.evaluation.trajectory import measure_trajectory
from hamjepa_audit.files import sha256_file, write_bytes
from hamjepa_audit.params import load_study
from hamjepa_audit.parquet import read_parquet, write_parquet
from hamjepa_audit.plans.study import Batch
from hamjepa_audit.reporting.collect import collect_study
from hamjepa_audit.training.session import training_images
from tests.tiny import STUDY, audit, edit
from tests.unit import whole_results
from tests.unit.fabricated import flip_bit, plan_of, write_measurements, write_record, write_run
from tests.unit.whole_results import LAYOUT, TARGETS, problems

whole, place = whole_results.whole, whole_results.place


def left_over_batch() -> tuple[Batch, Batch]:
    """Changes the parameters; returns a batch before the change, and the one that replaces it."""
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
    assert status == 2 and f"{file} has rows of {min(before.run_ids)}" in stderr
    command = f"snakemake --cores all results/tables --config studies='[{STUDY}]'"
    assert f"delete it and run: {command} (it is made again only if" in stderr


@pytest.mark.faults
def test_a_left_over_history_does_not_reach_the_tables(place: Path) -> None:
    before, now = left_over_batch()
    shutil.copy(LAYOUT.run_history(before.run_ids[0]), LAYOUT.run_history(now.run_ids[0]))
    with pytest.raises(UserError, match=f"has rows of {before.run_ids[0]}"):
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
    told = (
        f"{{}} was measured on another checkpoint.safetensors than the one in {checkpoint.parent}"
    )
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
@pytest.mark.parametrize("wrong", ["fewer", "more"])
def test_a_measurement_is_of_the_checkpoints_of_exactly_its_runs(place: Path, wrong: str) -> None:
    batch, other, *_ = plan_of(LAYOUT, STUDY).batches.values()
    knn = batch.measurement("knn")
    named = batch.run_ids[:-1] if wrong == "fewer" else (*batch.run_ids, other.run_ids[0])
    checkpoints = {
        name: {"checkpoint.safetensors": sha256_file(LAYOUT.checkpoint(name))} for name in named
    }
    write_measurement(knn, [read_parquet(knn)], checkpoints)
    assert any(f"{knn} was measured on {min(named)}" in line for line in problems())
    with pytest.raises(UserError, match="was measured on"):
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
def test_predictors_are_not_measured_on_states_that_are_not_finite(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (batch,) = [b for b in plan_of(LAYOUT, STUDY).batches.values() if b.arm == "hamjepa"]
    view = torch.full((4, 8), torch.nan)
    monkeypatch.setattr(steps, "_features", lambda *_: (view, view))
    with pytest.raises(UserError, match="not all finite"):
        steps.measure_predictors(batch, torch.device("cpu"))


@pytest.mark.faults
def test_nothing_is_named_after_data_that_were_prepared_again_meanwhile(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, *_ = plan_of(LAYOUT, STUDY).batches.values()
    store, cpu = LAYOUT.store(STUDY), torch.device("cpu")
    monkeypatch.setattr("hamjepa_audit.evaluation.trajectory._require_checkpoints", lambda _: None)
    study = LAYOUT.params / "studies" / f"{STUDY}.yaml"
    edit(study, "data.split_seed", 1)
    edit(study, "data.digest", None)
    prepare(load_study(LAYOUT.params, STUDY).data, LAYOUT.raw, LAYOUT.data)
    assert load_manifest(store).digest != batch.data_digest
    for work in (
        lambda: extract(batch, cpu),
        lambda: measure_trajectory(batch, cpu),
        lambda: training_images(LAYOUT, batch.runs[0], batch.data_digest, cpu),
    ):
        with pytest.raises(UserError, match=f"but had {batch.data_digest} when this command"):
            work()


@pytest.mark.faults
def test_data_of_another_description_are_not_trained_on(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = LAYOUT.params / "studies" / f"{STUDY}.yaml"
    edit(study, "data.digest", None)
    assert audit(monkeypatch, capsys, "prepare", "--study", STUDY)[0] == 0
    train = ("pretrain", "--study", STUDY, "--arm", "sigreg", "--epochs", "2", "--seed", "0")
    assert audit(monkeypatch, capsys, *train, "--trial-steps", "1")[0] == 0
    edit(study, "data.split_seed", 1)
    status, stderr = audit(monkeypatch, capsys, *train, "--trial-steps", "1")
    assert status == 2 and f"run: hamjepa-audit prepare --study {STUDY}" in stderr
    assert audit(monkeypatch, capsys, "prepare", "--study", STUDY)[0] == 0
    assert audit(monkeypatch, capsys, *train, "--trial-steps", "1")[0] == 0


@pytest.mark.faults
def test_an_arm_without_a_predictor_has_none_to_measure(place: Path) -> None:
    (batch,) = [b for b in plan_of(LAYOUT, STUDY).batches.values() if b.arm == "sigreg"]
    with pytest.raises(UserError, match="has no predictor; name another arm"):
        batch.require("dynamics")


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
        with pytest.raises(UserError, match="are not those with which"):
            measure(batch, cpu)
    flip_bit(labels, -8, 0)
    before = sha256_file(measured)
    assert sha256_file(measure_knn(batch, cpu)) == before
    write_bytes(LAYOUT.checkpoint(batch.run_ids[0]), b"trained again, elsewhere")
    write_record(LAYOUT, batch.runs[0], batch.data_digest)
    for measure in (measure_knn, measure_probe, lambda batch, _: measure_geometry(batch)):
        with pytest.raises(UserError, match=f"another checkpoint than {batch.run_ids[0]} has now"):
            measure(batch, cpu)
