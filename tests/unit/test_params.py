"""Parameters: accepted values, errors and their messages, and what a run id depends on."""

import json
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from hamjepa_audit.errors import UserError
from hamjepa_audit.params import RunParams, load_study, resolve_run, study_names
from hamjepa_audit.params.audit import AuditParams
from hamjepa_audit.params.base import Params
from hamjepa_audit.params.config import ConfigParams
from hamjepa_audit.params.generated import GeneratedParams
from hamjepa_audit.params.loading import merge, validate
from hamjepa_audit.params.reading import read_yaml
from hamjepa_audit.params.theory import TheoryParams
from hamjepa_audit.plans.identity import run_id, study_runs
from tests.tiny import ARMS, edit

STUDIES = ("cifar100", "digits", "imagenet100", "tinyimagenet100")


@pytest.fixture
def folder(tmp_path: Path, params_folder: Path) -> Path:
    """A copy of the parameters that a test may change."""
    return Path(shutil.copytree(params_folder, tmp_path / "params"))


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
    other_mlps = {"mlp_parameter_matched", "mlp_dt_scaled"}
    for name, study in studies.items():
        arms = [arm.name for arm in study.arms]
        assert [arm for arm in arms if arm not in other_mlps] == list(ARMS)
        assert other_mlps <= set(arms) if name == "cifar100" else len(arms) == len(ARMS)


LIMITS = "minimum_logdet", "minimum_participation", "maximum_top_share"
CIFAR = {
    "predictor": {
        "kind": "leapfrog", "steps": 2, "step_size": 0.05,
        "potential": {"stiffness": 0.1, "hidden_width": 256, "hidden_layers": 2,
                      "residual_scale": 0.02, "residual_ramp_epochs": 10, "trained": True},
    },
    "prediction": {"matching": "q", "momentum_weight": 0.2, "backward": "time_reversed"},
    "budget": {"weight": 0.2, "q_target": 1.0, "p_target": 1.0},
    "variance_floor": {"weight": 0.5, "minimum_std": 0.2, "epsilon": 1e-4, "parts": ("q", "p")},
    "logdet_floor": {
        "weight": 0.5, "directions": 128, "ridge": 1e-4, "redraw_every_steps": 16,
        "q": dict(zip(LIMITS, (-1.5, 0.12, 0.35), strict=True)),
        "p": dict(zip(LIMITS, (-1.5, 0.16, 0.30), strict=True)),
    },
    "mean_penalty": {"weight": 0.05},
}  # fmt: skip
IMAGENET = {
    "predictor": {"potential": {"residual_ramp_epochs": 0}},
    "prediction": {"matching": "qp", "momentum_weight": 0.0, "backward": "forward"},
    "variance_floor": {"weight": 1.0, "parts": ("q",)},
    "logdet_floor": {
        "weight": 1.0,
        "q": dict(zip(LIMITS, (-1.2, 0.25, 0.10), strict=True)),
        "p": dict(zip(LIMITS, (-1.2, 0.25, 0.10), strict=True)),
    },
}
"""HamJEPA's settings for CIFAR-100 in docs/protocol.md, and those that differ for ImageNet-100."""


def settings(params_folder: Path, study: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of a study and of its arms as nested dictionaries."""
    tree = load_study(params_folder, study).model_dump()
    return tree, {arm["name"]: arm for arm in tree["arms"]}


def test_the_papers_cifar_settings(params_folder: Path) -> None:
    study, arms = settings(params_folder, "cifar100")
    assert arms["hamjepa"]["objective"] == {"kind": "phase_space"} | CIFAR
    assert arms["hamjepa"]["clipping"] == {"maximum_norm": 1.0, "scope": "encoder_and_predictor"}
    assert arms["sigreg"]["objective"] == {
        "kind": "sigreg", "weight": 0.02, "prediction_weight": 1.0, "directions": 64,
        "knots": 9, "maximum_frequency": 3.0,
    }  # fmt: skip
    assert (arms["sigreg"]["state"], arms["sigreg"]["clipping"]) == ("joint", None)
    assert study["encoder"] == {
        "stem": "cifar", "width": 64, "token_channels": 32, "token_grid": None,
    }  # fmt: skip
    assert study["optimisation"] == {
        "batch_size": 512, "learning_rate": 5e-4, "weight_decay": 5e-4, "betas": (0.9, 0.999),
        "warmup_epochs": 10, "warmup_start_factor": 0.01, "final_factor": 0.001,
        "gpu_precision": "bf16",
    }  # fmt: skip
    views = study["views"]
    assert (views["size"], views["crop_scale"], views["blur"]["kernel_size"]) == (32, (0.3, 1.0), 3)
    assert views["jitter"] == {
        "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1, "probability": 0.8,
    }  # fmt: skip
    chances = [views[name]["probability"] for name in ("blur", "solarize")]
    assert [views["flip_probability"], views["grayscale_probability"], *chances] == [
        0.5, 0.2, 0.5, 0.2,
    ]  # fmt: skip


def test_the_papers_imagenet_settings_reach_the_ablations(params_folder: Path) -> None:
    study, arms = settings(params_folder, "imagenet100")
    expected = merge(CIFAR, IMAGENET)
    for name in ("hamjepa", "mlp", "identity"):
        objective = arms[name]["objective"]
        for part in expected:
            if part != "predictor" or name == "hamjepa":
                assert objective[part] == expected[part], (name, part)
        assert arms[name]["clipping"] == {"maximum_norm": 1.0, "scope": "encoder"}
        assert arms[name]["predictor_learning_rate"] == 5e-5
    assert arms["sigreg"]["state"] == "phase_space"
    assert study["encoder"]["stem"] == "imagenet" and study["encoder"]["token_grid"] == 8
    assert study["optimisation"]["batch_size"] == 256
    views = study["views"]
    assert (views["size"], views["crop_scale"], views["blur"]["kernel_size"]) == (224, (0.4, 1), 23)


@pytest.mark.parametrize("study", STUDIES)
def test_ablations_differ_from_hamjepa_in_the_predictor_alone(
    params_folder: Path, study: str
) -> None:
    _, arms = settings(params_folder, study)
    reference = arms["hamjepa"]
    for name in ("mlp", "identity"):
        other = arms[name]
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
         "unknown key 'arms.hamjepa.objective.budget.wieght': did you mean 'weight'?"),
        ("arms/hamjepa.yaml", "clipping.scop", "encoder",
         "unknown key 'arms.hamjepa.clipping.scop': did you mean 'scope'?"),
        ("studies/digits.yaml", "arm_overrides.hamjepa.objective.budget.wieght", 1.0,
         "unknown key 'arm_overrides.hamjepa.objective.budget.wieght': did you mean 'weight'?"),
        ("studies/digits.yaml", "arm_overrides.hamjepa.objective.predictor.steps", "two",
         "arm_overrides.hamjepa.objective.predictor.steps is 'two': input should be a valid int"),
        ("studies/digits.yaml", "arm_overrides.hamjepa.objective.variance_floor.parts", ["q", "x"],
         "arm_overrides.hamjepa.objective.variance_floor.parts.1 is 'x': input should be 'q' or"),
        ("studies/digits.yaml", "arm_overrides.sigreg.objective.prediction_weight", 0.5,
         "arm_overrides.sigreg.objective: prediction_weight is 0.5 but weight is 0.02"),
        ("arms/sigreg.yaml", "objective.knots", 1, "arms.sigreg.objective.knots is 1: input"),
        ("arms/sigreg.yaml", "objective", {"kind": "sigreg"},
         "key 'arms.sigreg.objective.weight' is missing: give it a value"),
        ("studies/digits.yaml", "data.tset_fraction", 0.1,
         "unknown key 'data.tset_fraction': did you mean 'test_fraction'?"),
        ("studies/digits.yaml", "optimisation.batch_size", "many",
         "optimisation.batch_size is 'many': input should be a valid integer"),
        ("studies/digits.yaml", "optimisation.batch_size", 1,
         "optimisation.batch_size is 1: input should be greater than or equal to 2"),
        ("studies/digits.yaml", "seeds", [0, -1], "seeds.1 is -1"),
        ("studies/digits.yaml", "seeds", [], "seeds is empty: give at least 1"),
        ("studies/digits.yaml", "seeds", 3, "seeds is 3: write a list, [3]"),
        ("studies/digits.yaml", "seeds", [0, 0], "seeds: 0 is listed more than once: keep one"),
        ("studies/digits.yaml", "epochs", [12, 12], "epochs: 12 is listed more than once"),
        ("studies/digits.yaml", "figure_arms", ["mpl"], "figure_arms has 'mpl': did you mean"),
        ("studies/digits.yaml", "arm_overrides", {"mpl": {}}, "arm_overrides: no arm 'mpl'"),
        ("studies/digits.yaml", "encoder.width", 4, "width is 4: input should be greater than or"),
        ("studies/digits.yaml", "encoder.stem", "cfar", "'cifar' or 'imagenet'"),
        ("studies/digits.yaml", "optimisation.warmup_epochs", 12, "must be shorter than the run"),
        ("studies/digits.yaml", "optimisation.learning_rate", float("nan"), "learning_rate is nan"),
        ("studies/digits.yaml", "views.crop_scale", [0.9, 0.5], "crop_scale must be [low, high]"),
        ("studies/digits.yaml", "views.size", 32, "views can't be larger"),
        ("studies/digits.yaml", "views.blur.kernel_size", 63, "blur.kernel_size is 63: at most 31"),
        ("protocol.yaml", "optimisation.weight_decay", "5e-4", "'5e-4': input should be a valid "
         "number; write it as 0.0005"),
        ("studies/digits.yaml", "epoch", [3], "unknown key 'epoch': did you mean 'epochs'?"),
        ("studies/digits.yaml", "extend", "cifar100", "did you mean 'extends'?"),
        ("studies/digits.yaml", "name", "digits", "unknown key 'name'"),
        ("protocol.yaml", "evaluation.geometry", {"piars": 3}, "'evaluation.geometry.piars': did"),
        ("protocol.yaml", "statistics.gain.accuracies", ["knn_top1@30"],
         "statistics.gain.accuracies has 'knn_top1@30', which is not measured: name another, or "
         "change evaluation.knn; did you mean 'knn_top1@"),
        ("protocol.yaml", "statistics.gain.accuracies", ["knn_top5@50", "knn_top5@20"],
         "statistics.gain.accuracies has 'knn_top5@20', which is not measured"),
        ("protocol.yaml", "statistics.gain.accuracies", ["knn_top5@best"],
         "'knn_top5@best', which is not measured: name another, or change evaluation.knn; did you"),
        ("protocol.yaml", "statistics.gain.accuracies", ["linear_probe_top11"],
         "or change evaluation.knn; did you mean 'linear_probe_top1'?"),
        ("protocol.yaml", "statistics.gain.accuracies", ["effective_rank"],
         "has 'effective_rank', which is not measured"),
        ("protocol.yaml", "statistics.gain.accuracies", ["linear_probe_top1"] * 2,
         "statistics.gain.accuracies: 'linear_probe_top1' is listed more than once: keep one"),
        ("studies/digits.yaml", "title", date(2026, 5, 19), "put the value in quotes"),
        ("studies/digits.yaml", "extends", 5, "no study '5'"),
        ("studies/digits.yaml", "arm_overrides", {"mlp": 5}, "arm_overrides.mlp is 5"),
        ("studies/digits.yaml", "arms", ["mlp", "mlp"], "arms: 'mlp' is listed more than once"),
        ("studies/digits.yaml", "arms", ["hamjpea"], "did you mean 'hamjepa'?"),
        ("studies/digits.yaml", "extends", "cifar10", "study 'digits' extends another: no"),
        ("arms/sigreg.yaml", "objective.kind", "phase_space", "objective"),
        *(("arms/sigreg.yaml", "title", title, f"title: {title!r} can't be shown in figures: give")
          for title in ("Cost $x_$", "_hidden", "long" * 11, "", " ", "a\nb", "a\u2028b")),
        ("arms/hamjepa.yaml", "objective.predictor.kind", "leapfro",
         "arms.hamjepa.objective.predictor.kind is 'leapfro': did you mean 'leapfrog'?"),
        ("arms/identity.yaml", "title", "HamJEPA",
         "the arms identity, hamjepa have the same title 'HamJEPA': give each its own"),
        ("studies/digits.yaml", "views.mean", [129, 120, 110], "views.mean.0 is 129: input should"),
        ("studies/digits.yaml", "views.std", [68, 65, 70], "views.std.0 is 68: input should"),
        ("protocol.yaml", "statistics.gain.method", "hamjpea",
         "statistics.gain.method: no arm 'hamjpea'"),
        ("studies/digits.yaml", "data.name", "raw", "data.name: 'raw' is the folder of raw data"),
        ("studies/digits.yaml", "data.source", "digit", "data.source is 'digit': did you mean"),
        ("protocol.yaml", "statistics.gain.baseline", "sigrag",
         "statistics.gain.baseline: no arm 'sigrag'"),
        ("protocol.yaml", "evaluation.knn.neighbours", [5, 20, 5],
         "evaluation.knn.neighbours: 5 is listed more than once"),
        ("arms/hamjepa.yaml", "extends", "mlp", "extends itself"),
        ("arms/hamjepa.yaml", "state", "joint", "needs state 'phase_space'"),
    ],
)  # fmt: skip
def test_one_line_says_what_is_wrong(
    folder: Path, file: str, keys: str, value: Any, expected: str
) -> None:
    edit(folder / file, keys, value)
    assert expected in message(folder)


def test_the_gain_may_be_in_any_accuracy_that_is_measured(folder: Path) -> None:
    named = ["knn_top1@1", "knn_top1@best", "knn_top5@50", "linear_probe_top1", "linear_probe_top5"]
    edit(folder / "protocol.yaml", "statistics.gain.accuracies", named)
    assert load_study(folder, "digits").statistics.gain.accuracies == tuple(named)


@pytest.mark.parametrize(
    ("model", "file", "keys", "value", "expected"),
    [
        (AuditParams, "statistics.yaml", "stands_for.digits.epochs", {"30": "12"},
         "stands_for.digits.epochs.30 is '12': input should be a valid integer; write it as 12"),
        (AuditParams, "statistics.yaml", "stands_for.digits.epoch", 3,
         "unknown key 'stands_for.digits.epoch': did you mean 'epochs'?"),
        (TheoryParams, "theory.yaml", "toy_transport.potentials.harmonic.stifness", 1.0,
         "unknown key 'toy_transport.potentials.harmonic.stifness': did you mean 'stiffness'?"),
    ],
)  # fmt: skip
def test_keys_of_a_mapping_are_named_also_where_they_are_a_kind_elsewhere(
    folder: Path, model: type[Params], file: str, keys: str, value: Any, expected: str
) -> None:
    edit(folder / file, keys, value)
    with pytest.raises(UserError) as caught:
        validate(model, read_yaml(folder / file), file)
    assert str(caught.value) == f"{file}: {expected}"


def test_what_is_no_yaml_file_is_no_study(folder: Path) -> None:
    before = study_names(folder)
    (folder / "studies" / "digits_copy.yaml~").write_text("")
    assert study_names(folder) == before == sorted(before)


@pytest.mark.parametrize(
    ("model", "tree", "words"),
    [
        (ConfigParams, {"studies": ["digits", "digits"], "raw": "raw", "device": "cpu",
                        "runs_per_gpu": 1}, "studies: 'digits' is listed more than once"),
        (GeneratedParams, {"classes": 2, "images": {"val": 1}, "sides": [60, 30], "seed": 0,
                           "jpeg_quality": 90},
         "sides must be [shortest, longest], got [60, 30]"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused(
    model: type[Params], tree: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError) as caught:
        validate(model, tree, "there")
    assert words in str(caught.value)


def test_which_readouts_a_state_has(folder: Path) -> None:
    arms = {arm.name: arm for arm in load_study(folder, "digits_controls").arms}
    parts = ("q", "p", "qp")
    expected = {"sigreg": ("all",), "rdmreg": ("all",), "sigreg_split": parts, "hamjepa": parts}
    assert {name: arms[name].readouts for name in expected} == expected


@pytest.mark.parametrize(
    ("keys", "value"),
    [("optimisation.batch_size", "12.5"), ("seeds", "0"), ("optimisation.learning_rate", "inf")],
)
def test_no_hint_leads_to_the_next_error(folder: Path, keys: str, value: str) -> None:
    edit(folder / "studies/digits.yaml", keys, value)
    assert keys in message(folder) and "write it" not in message(folder)


def test_missing_key_file_and_study(folder: Path) -> None:
    (folder / "studies/digits.yaml").write_text("title: nothing else\n")
    assert "key 'data' is missing" in message(folder)
    assert "did you mean 'digits'?" in message(folder, "digit")
    (folder / "protocol.yaml").unlink()
    assert "missing parameter file" in message(folder)


def test_a_file_that_can_not_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", refuse)
    path = folder / "studies/digits.yaml"
    assert message(folder) == (
        f"can't read {path}: Permission denied; check its permissions and the disk"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\na: 2\n", "key 'a' is given twice"),
        ("a: [1\n", "not valid YAML"),
        ("a: {{width}}\n", "not valid YAML"),
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
        ("study", "another_study"),
        ("arm.name", "another_arm"),
        ("evaluation.knn.top5_from_k", 5),
        ("data.split_seed", 7),  # covered by the prepared data's digest
    ):
        assert run_id(changed(run, keys, value), "data")[-12:] == name[-12:], keys


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
