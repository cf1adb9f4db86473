"""Parameters: what is accepted, what is refused and how that is said, what a run id depends on."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, strategies as st

from hamjepa_audit.errors import UserError
from hamjepa_audit.identity import run_id, study_runs
from hamjepa_audit.params import RunParams, load_study, resolve_run, study_names
from hamjepa_audit.params.loading import merge

STUDIES = ("cifar100", "digits", "imagenet100", "tinyimagenet100")


@pytest.fixture
def folder(tmp_path: Path, params_folder: Path) -> Path:
    """A copy of the parameters that a test may spoil."""
    return Path(shutil.copytree(params_folder, tmp_path / "params"))


def edit(path: Path, keys: str, value: Any) -> None:
    """Sets a dotted key of a YAML file."""
    tree = yaml.safe_load(path.read_text())
    node = tree
    *parents, last = keys.split(".")
    for key in parents:
        node = node.setdefault(key, {})
    node[last] = value
    path.write_text(yaml.safe_dump(tree))


def message(folder: Path, study: str = "digits") -> str:
    with pytest.raises(UserError) as caught:
        load_study(folder, study)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_studies_and_their_sizes(params_folder: Path) -> None:
    assert set(STUDIES) <= set(study_names(params_folder))
    studies = {name: load_study(params_folder, name) for name in STUDIES}
    assert studies["cifar100"].epochs == (30, 80)
    assert studies["imagenet100"].epochs == (45,)
    assert len(studies["digits"].seeds) == 5
    for study in studies.values():
        assert [arm.name for arm in study.arms] == ["sigreg", "hamjepa", "mlp", "identity"]


def test_the_papers_cifar_settings(params_folder: Path) -> None:
    """PROTOCOL: the column "CIFAR-100", beside the defaults that the files state."""
    study = load_study(params_folder, "cifar100")
    arms = {arm.name: arm for arm in study.arms}
    objective = arms["hamjepa"].objective
    assert objective.kind == "phase_space"
    assert (objective.variance_floor.weight, objective.logdet_floor.weight) == (0.5, 0.5)
    assert (objective.prediction.matching, objective.prediction.momentum_weight) == ("q", 0.2)
    assert objective.prediction.backward == "time_reversed"
    assert arms["sigreg"].readouts == ("all",)
    assert arms["sigreg"].clipping is None
    assert study.optimisation.batch_size == 512


def test_the_papers_imagenet_settings_reach_the_ablations(params_folder: Path) -> None:
    """PROTOCOL: the column "ImageNet-100"; the ablations inherit HamJEPA's overrides."""
    arms = {arm.name: arm for arm in load_study(params_folder, "imagenet100").arms}
    for name in ("hamjepa", "mlp", "identity"):
        objective = arms[name].objective
        assert objective.kind == "phase_space"
        assert objective.prediction.matching == "qp"
        assert objective.prediction.backward == "forward"
        assert objective.variance_floor.parts == ("q",)
        assert objective.logdet_floor.q.minimum_logdet == -1.2
        assert arms[name].clipping is not None
        assert arms[name].clipping.scope == "encoder"
    assert arms["hamjepa"].predictor_learning_rate == 5e-5
    assert arms["sigreg"].readouts == ("q", "p", "qp")


def test_ablations_differ_from_hamjepa_in_the_predictor_alone(params_folder: Path) -> None:
    arms = {arm.name: arm for arm in load_study(params_folder, "cifar100").arms}
    reference = arms["hamjepa"].model_dump()
    for name in ("mlp", "identity"):
        other = arms[name].model_dump()
        for tree in (reference, other):
            tree["objective"].pop("predictor", None)
            tree.pop("name", None), tree.pop("title", None)
        assert other == reference


@pytest.mark.parametrize(
    ("file", "keys", "value", "expected"),
    [
        ("studies/digits.yaml", "optimisation.batch_sise", 3,
         "unknown key 'optimisation.batch_sise': did you mean 'batch_size'?"),
        ("arms/hamjepa.yaml", "objective.budget.wieght", 1.0,
         "unknown key 'arms.1.objective.budget.wieght': did you mean 'weight'?"),
        ("studies/digits.yaml", "data.tset_fraction", 0.1,
         "unknown key 'data.tset_fraction': did you mean 'test_fraction'?"),
        ("studies/digits.yaml", "optimisation.batch_size", "many",
         "optimisation.batch_size is 'many': input should be a valid integer"),
        ("studies/digits.yaml", "optimisation.batch_size", 1,
         "optimisation.batch_size is 1: input should be greater than or equal to 2"),
        ("studies/digits.yaml", "seeds", [0, -1], "seeds.1 is -1"),
        ("studies/digits.yaml", "seeds", [0, 0], "seeds has duplicates"),
        ("studies/digits.yaml", "encoder.stem", "cfar", "'cifar' or 'imagenet'"),
        ("studies/digits.yaml", "optimisation.warmup_epochs", 12, "must be shorter than the run"),
        ("studies/digits.yaml", "optimisation.learning_rate", float("nan"), "learning_rate is nan"),
        ("studies/digits.yaml", "views.crop_scale", [0.9, 0.5], "crop_scale must be [low, high]"),
        ("studies/digits.yaml", "arms", ["hamjpea"], "did you mean 'hamjepa'?"),
        ("studies/digits.yaml", "extends", "cifar10", "did you mean 'cifar100'?"),
        ("arms/sigreg.yaml", "objective.kind", "phase_space", "objective"),
        ("arms/hamjepa.yaml", "extends", "mlp", "extends itself"),
        ("arms/hamjepa.yaml", "state", "joint", "needs state 'phase_space'"),
    ],
)  # fmt: skip
def test_one_line_says_what_is_wrong(
    folder: Path, file: str, keys: str, value: Any, expected: str
) -> None:
    edit(folder / file, keys, value)
    assert expected in message(folder)


def test_missing_key_file_and_study(folder: Path) -> None:
    (folder / "studies/digits.yaml").write_text("title: nothing else\n")
    assert "key 'data' is missing" in message(folder)
    assert "did you mean 'digits'?" in message(folder, "digit")
    (folder / "protocol.yaml").unlink()
    assert "missing parameter file" in message(folder)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\na: 2\n", "key 'a' is given twice"),
        ("a: [1\n", "not valid YAML"),
        ("- 1\n", "must hold a mapping"),
    ],
)
def test_yaml_that_is_no_parameter_file(folder: Path, text: str, expected: str) -> None:
    (folder / "studies/digits.yaml").write_text(text)
    assert expected in message(folder)


def test_a_run_must_belong_to_its_study(params_folder: Path) -> None:
    study = load_study(params_folder, "digits")
    for arguments, expected in (
        (("hamjpea", 12, 0), "did you mean 'hamjepa'?"),
        (("hamjepa", 13, 0), "allowed [12]"),
        (("hamjepa", 12, -1), "seed is -1"),
    ):
        with pytest.raises(UserError) as caught:
            resolve_run(study, *arguments)
        assert expected in str(caught.value)


def test_every_run_has_its_own_id(params_folder: Path) -> None:
    runs = [run for name in STUDIES for run in study_runs(load_study(params_folder, name))]
    assert len({run_id(run, "data") for run in runs}) == len(runs)


def changed(run: RunParams, keys: str, value: Any) -> RunParams:
    tree = json.loads(run.model_dump_json())
    node = tree
    *parents, last = keys.split(".")
    for key in parents:
        node = node[key]
    assert node[last] != value
    node[last] = value
    return RunParams.model_validate_json(json.dumps(tree))


def test_a_run_id_changes_with_what_decides_the_numbers_and_with_nothing_else(
    params_folder: Path,
) -> None:
    run = resolve_run(load_study(params_folder, "digits"), "hamjepa", 12, 0)
    name = run_id(run, "data")
    assert name.startswith("digits-hamjepa-e12-s0-")
    for keys, value in (
        ("optimisation.learning_rate", 1e-3),
        ("views.flip_probability", 0.1),
        ("encoder.width", 9),
        ("arm.objective.predictor.step_size", 0.1),
        ("arm.clipping", None),
        ("seed", 1),
        ("epochs", 13),
    ):
        assert run_id(changed(run, keys, value), "data")[-12:] != name[-12:], keys
    assert run_id(run, "other data") != name
    for keys, value in (
        ("arm.title", "another title"),
        ("evaluation.knn.top5_from_k", 5),
        ("data.split_seed", 7),  # the prepared data's digest stands for this
    ):
        assert run_id(changed(run, keys, value), "data") == name, keys


trees = st.recursive(
    st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner), max_leaves=8
)


@given(
    st.dictionaries(st.sampled_from("abc"), trees), st.dictionaries(st.sampled_from("abc"), trees)
)
def test_merging_is_override_and_idempotent(base: dict[str, Any], top: dict[str, Any]) -> None:
    merged = merge(base, top)
    assert set(merged) == set(base) | set(top)
    assert merge(merged, top) == merged
    assert merge(base, {}) == base
