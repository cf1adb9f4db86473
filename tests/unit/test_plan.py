"""The plan of a study: what names and contents of batches, measurements and selection depend on."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hamjepa_audit.data.preparation import prepare
from hamjepa_audit.data.store import load_manifest
from hamjepa_audit.errors import UserError
from hamjepa_audit.layout import Layout
from hamjepa_audit.params import load_study
from hamjepa_audit.params.studies import StudyParams
from hamjepa_audit.plans import identity, study as plans
from hamjepa_audit.plans.study import ALL_STEPS, Batch, StudyPlan
from tests.tiny import STUDY, copy_params, edit

FEATURES = "features"
CIFAR100 = (
    "its arms are sigreg, identity, mlp, mlp_parameter_matched, mlp_dt_scaled, hamjepa, "
    "each with 30 or 80 epochs"
)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """The tiny study's parameters, with one intermediate checkpoint per run."""
    copy_params(tmp_path / "params")
    edit(tmp_path / "params/studies" / f"{STUDY}.yaml", "epochs", [4])
    edit(tmp_path / "params/studies" / f"{STUDY}.yaml", "checkpoints.every_epochs", 2)
    return Layout(params=tmp_path / "params", data=tmp_path / "data", results=tmp_path / "results")


def study_of(layout: Layout, changes: Mapping[str, Any] | None = None) -> StudyParams:
    for keys, value in (changes or {}).items():
        edit(layout.params / "studies" / f"{STUDY}.yaml", keys, value)
    return load_study(layout.params, STUDY)


def plan_of(layout: Layout, changes: Mapping[str, Any] | None = None) -> StudyPlan:
    return StudyPlan(layout, study_of(layout, changes), "data")


def places(plan: StudyPlan) -> dict[str, Path]:
    """Paths of all measurements, and of the features, of an arm with a predictor."""
    batch = plan.batch("hamjepa", 4)
    return {step: batch.measurement(step) for step in batch.steps} | {FEATURES: batch.features}


@pytest.mark.parametrize(
    ("keys", "value", "renamed"),
    [
        ("evaluation.knn.top5_from_k", 3, {"knn", "trajectory"}),
        ("evaluation.probe.seed", 7, {"probe", "trajectory"}),
        ("evaluation.geometry.pairs", 7, {"geometry", "curves", "trajectory"}),
        ("evaluation.dynamics.seed", 7, {"dynamics"}),
        ("evaluation.view_seed", 7, {FEATURES, "geometry", "curves", "trajectory", "dynamics"}),
        ("evaluation.feature_batch_size", 7, set()),
        ("checkpoints.every_epochs", 1, {"trajectory"}),
    ],
)
def test_a_measurement_is_named_by_what_decides_its_numbers_and_by_nothing_else(
    layout: Layout, keys: str, value: object, renamed: set[str]
) -> None:
    before = places(plan_of(layout))
    assert set(before) == {*ALL_STEPS, FEATURES}
    after = places(plan_of(layout, {keys: value}))
    assert {step for step in before if before[step] != after[step]} == renamed


def test_other_numerics_of_evaluation_rename_every_measurement(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = places(plan_of(layout))
    monkeypatch.setattr(identity, "EVALUATION_NUMERICS", identity.EVALUATION_NUMERICS + 1)
    after = places(plan_of(layout))
    assert all(before[step].parent == after[step].parent for step in before)
    assert not set(before.values()) & set(after.values())


def test_the_order_of_seeds_renames_no_batch(layout: Layout) -> None:
    before = plan_of(layout, {"seeds": [0, 1, 2]})
    assert set(plan_of(layout, {"seeds": [2, 0, 1]}).batches) == set(before.batches)


def test_a_batch_is_of_one_arm_and_number_of_epochs(params_folder: Path) -> None:
    study = load_study(params_folder, "cifar100")
    plan = StudyPlan(Layout(params=params_folder), study, "data")
    for epochs in study.epochs:
        batch = plan.batch("mlp", epochs)
        assert {(run.arm.name, run.epochs) for run in batch.runs} == {("mlp", epochs)}
        assert [run.seed for run in batch.runs] == list(study.seeds)


def test_too_few_classes_for_an_accuracy_are_said_before_anything_is_trained(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare(study_of(layout).data, layout.raw, layout.data)
    manifest = load_manifest(prepared.parent)
    four = manifest.model_copy(update={"classes": manifest.classes[:4]})
    for accuracy in ("knn_top5@50", "linear_probe_top5"):
        study = study_of(layout, {"statistics.gain.accuracies": ["knn_top1@best", accuracy]})
        assert plans.data_digest(layout, study) == manifest.digest
        with monkeypatch.context() as context:
            context.setattr(plans, "load_manifest", lambda folder: four)
            told = f"'{accuracy}', but data set '{study.data.name}' has only 4 classes: name"
            with pytest.raises(UserError, match=f"statistics.gain.accuracies has {told}"):
                plans.data_digest(layout, study)


@pytest.mark.parametrize(
    ("arm", "epochs", "told"),
    [
        ("hamjepo", 30, f"has no arm 'hamjepo': {CIFAR100}; did you mean 'hamjepa'?"),
        ("quadratic 2", 30, f"has no arm 'quadratic 2': {CIFAR100}"),
        ("mlp", 31, f"has no arm 'mlp' with 31 epochs: {CIFAR100}"),
    ],
)
def test_arms_and_epochs_that_a_study_lacks_are_told_apart(
    params_folder: Path, arm: str, epochs: int, told: str
) -> None:
    plan = StudyPlan(Layout(params=params_folder), load_study(params_folder, "cifar100"), "data")
    with pytest.raises(UserError, match=re.escape(told) + "$"):
        plan.batch(arm, epochs)


def test_a_batch_is_adopted_once_all_its_runs_are_here_without_weights_and_measured(
    layout: Layout,
) -> None:
    def touch(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    batch: Batch = plan_of(layout).batch("sigreg", 4)
    for step in batch.steps:
        touch(batch.measurement(step))
    for name in batch.run_ids:
        assert not batch.adopted
        touch(layout.without_weights(name))
        assert not batch.adopted
        touch(layout.record(name))
    assert batch.adopted
    batch.measurement(batch.steps[-1]).unlink()
    assert not batch.adopted


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        ("arms", ["sigreg", "mlp", "identity", "hamjepa"]),
        ("arm_overrides.mlp", {"title": "MLP by another name"}),
        ("figure_arms", ["sigreg", "hamjepa"]),
        ("statistics.confidence", 0.9),
        ("evaluation.probe.seed", 7),
        ("seeds", [0]),
    ],
)
def test_a_selection_changes_with_what_tables_and_figures_are_made_of(
    layout: Layout, keys: str, value: object
) -> None:
    before = plan_of(layout).selection()
    assert plan_of(layout).selection() == before
    assert plan_of(layout, {keys: value}).selection() != before


def test_a_selection_changes_with_the_data_and_with_how_tables_are_made(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(layout)
    selections = [StudyPlan(layout, study, digest).selection() for digest in ("data", "others")]
    assert selections[0]["data_digest"] != selections[1]["data_digest"]
    monkeypatch.setattr(plans, "REPORT_VERSION", plans.REPORT_VERSION + 1)
    assert StudyPlan(layout, study, "data").selection() != selections[0]
