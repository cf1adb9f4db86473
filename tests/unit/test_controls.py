"""Control arms: what their parameter files change, and what their maps preserve."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hamjepa_audit.models.encoder import TokenEncoder
from hamjepa_audit.models.predictors import build_predictor, residual_ramp
from hamjepa_audit.objectives.arms import build_objective
from hamjepa_audit.params import load_study
from hamjepa_audit.params.arms import ArmParams, Predictor
from hamjepa_audit.params.loading import study_names
from hamjepa_audit.params.studies import EncoderParams
from tests.tiny import edit
from tests.unit.test_params import folder, message  # noqa: F401

CONTROLLED = ("cifar100_controls", "digits_controls", "tinyimagenet100_controls")
DIMENSION = 12


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def predictor_params(params_folder: Path, arm: str, scale: float = 5.0) -> Predictor:
    """The predictor of an arm, with the learned part strong enough to have visible effects."""
    arms = {params.name: params for params in load_study(params_folder, "digits_controls").arms}
    predictor: Any = arms[arm].objective.predictor  # type: ignore[union-attr]
    for part in ("potential", "force"):
        if hasattr(predictor, part) and getattr(predictor, part).residual_scale:
            stronger = getattr(predictor, part).model_copy(update={"residual_scale": scale})
            predictor = predictor.model_copy(update={part: stronger, "step_size": 0.3})
    return predictor


def predictor_of(params_folder: Path, arm: str) -> nn.Module:
    return build_predictor(predictor_params(params_folder, arm), DIMENSION, seeded()).double()


def jacobian(predictor: nn.Module, state: Tensor) -> Tensor:
    forward = torch.ones(1, 1, dtype=torch.float64)
    return torch.autograd.functional.jacobian(lambda s: predictor(s[None], forward, 1.0)[0], state)


def defect(matrix: Tensor) -> float:
    """Largest absolute entry of A' J A - J, computed directly."""
    half = len(matrix) // 2
    form = np.block(
        [[np.zeros((half, half)), np.eye(half)], [-np.eye(half), np.zeros((half, half))]]
    )
    a = matrix.numpy()
    return float(np.abs(a.T @ form @ a - form).max())


STATE = torch.randn(DIMENSION, dtype=torch.float64, generator=seeded(1))


@pytest.mark.parametrize(
    ("arm", "symplectic", "volume", "reversible"),
    [
        ("hamjepa", True, True, True),
        ("quadratic", True, True, True),
        ("frozen", True, True, True),
        ("symplectic_euler", True, True, False),
        ("volume_preserving", False, True, True),
        ("euler", False, False, False),
        ("mlp", False, False, False),
        ("mlp_dt_scaled", False, False, False),
        ("mlp_parameter_matched", False, False, False),
    ],
)
def test_what_each_map_preserves(
    params_folder: Path, arm: str, symplectic: bool, volume: bool, reversible: bool
) -> None:
    predictor = predictor_of(params_folder, arm)
    matrix = jacobian(predictor, STATE)
    signs = torch.ones(1, 1, dtype=torch.float64)
    back = predictor(predictor(STATE[None], signs, 1.0), -signs, 1.0)[0]
    assert (defect(matrix) < 1e-11) == symplectic
    assert (abs(np.log(abs(np.linalg.det(matrix.numpy())))) < 1e-11) == volume
    assert torch.allclose(back, STATE, atol=1e-11) == reversible


def test_explicit_euler_is_the_map_that_its_matrix_says(params_folder: Path) -> None:
    """For V = a |q|^2 / 2, a step is [[I, dt I], [-a dt I, I]], with determinant (1 + a dt^2)^d."""
    params = predictor_params(params_folder, "euler")
    quadratic = params.potential.model_copy(update={"residual_scale": 0.0})  # type: ignore[union-attr]
    predictor = build_predictor(
        params.model_copy(update={"potential": quadratic}), DIMENSION, seeded()
    ).double()
    step = np.kron(np.array([[1, 0.3], [-0.1 * 0.3, 1]]), np.eye(DIMENSION // 2))
    matrix = jacobian(predictor, STATE).numpy()
    assert np.allclose(matrix, step @ step, atol=1e-14)
    assert np.linalg.det(matrix) == pytest.approx((1 + 0.1 * 0.3**2) ** DIMENSION)


def test_symplectic_euler_kicks_first(params_folder: Path) -> None:
    predictor: Any = predictor_of(params_folder, "symplectic_euler")
    q, p = STATE[None].chunk(2, dim=1)
    for _ in range(2):
        p = p - 0.3 * predictor.potential.gradient(q)
        q = q + 0.3 * p
    signs = torch.ones(1, 1, dtype=torch.float64)
    assert torch.allclose(predictor(STATE[None], signs, 1.0), torch.cat([q, p], dim=1))


def test_the_coupling_follows_its_force(params_folder: Path) -> None:
    """Leapfrog with the force written out; at ramp 0.5 the learned part has half its weight."""
    predictor: Any = predictor_of(params_folder, "volume_preserving")
    first, second, last = predictor.residual.layers
    gelu = torch.nn.functional.gelu

    def slope(q: Tensor) -> Tensor:
        return 0.1 * q + 0.5 * 5.0 * last(gelu(second(gelu(first(q)))))

    q, p = STATE[None].chunk(2, dim=1)
    for _ in range(2):
        p = p - 0.15 * slope(q)
        q = q + 0.3 * p
        p = p - 0.15 * slope(q)
    moved = predictor(STATE[None], torch.ones(1, 1, dtype=torch.float64), 0.5)
    assert torch.allclose(moved, torch.cat([q, p], dim=1))


def test_a_frozen_potential_has_nothing_to_train_and_hamjepas_initial_weights(
    params_folder: Path,
) -> None:
    frozen, trained = (predictor_of(params_folder, arm) for arm in ("frozen", "hamjepa"))
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert all(parameter.requires_grad for parameter in trained.parameters())
    for name, value in trained.state_dict().items():
        assert torch.equal(value, frozen.state_dict()[name])


def test_the_coupling_ramps_as_the_potential_does(params_folder: Path) -> None:
    for arm in ("volume_preserving", "hamjepa", "euler"):
        params = predictor_params(params_folder, arm)
        assert [residual_ramp(params, epoch) for epoch in (1, 2, 4)] == [1 / 3, 2 / 3, 1.0]


@pytest.mark.parametrize("name", CONTROLLED)
def test_the_learned_part_is_wholly_on_for_most_of_a_run(params_folder: Path, name: str) -> None:
    """Controls for a part that is in effect only at the end of training would show little."""
    study = load_study(params_folder, name)
    for arm in study.arms:
        if arm.objective.kind == "phase_space":
            for epochs in study.epochs:
                assert residual_ramp(arm.objective.predictor, epochs // 2) == 1.0, arm.name


def test_a_rectified_state_is_the_joint_one_through_a_relu() -> None:
    params = EncoderParams(stem="cifar", width=8, token_channels=6, token_grid=None)
    encoder = TokenEncoder(params, "joint", seeded()).eval()
    images = torch.randn(2, 3, 16, 16, generator=seeded(1))
    joint = encoder(images)
    encoder.state = "rectified"
    assert torch.equal(encoder(images), joint.clamp(min=0))
    assert bool((joint < 0).any())


@pytest.mark.parametrize("name", CONTROLLED)
def test_what_the_baselines_controls_change(params_folder: Path, name: str) -> None:
    """Each changes only what its name says, so that a difference has one cause."""
    arms = {
        arm.name: arm.model_dump(exclude={"name", "title"})
        for arm in load_study(params_folder, name).arms
    }
    sigreg, clipping = arms["sigreg"], arms["hamjepa"]["clipping"]
    assert sigreg["clipping"] is None and clipping["maximum_norm"] == 1.0
    assert arms["sigreg_clip"] == sigreg | {"clipping": clipping}
    assert sigreg["state"] == "joint"
    assert arms["sigreg_split"] == sigreg | {"state": "phase_space"}
    changed = {"prediction_weight": 0.98, "directions": 1024, "knots": 17}
    assert arms["sigreg_lejepa"] == sigreg | {"objective": sigreg["objective"] | changed}


def test_a_split_names_coordinates_and_changes_none() -> None:
    """The split state has the joint state's coordinates in another order."""
    params = EncoderParams(stem="cifar", width=8, token_channels=6, token_grid=None)
    encoder = TokenEncoder(params, "joint", seeded()).eval()
    images = torch.randn(2, 3, 16, 16, generator=seeded(1))
    joint = encoder(images)
    encoder.state = "phase_space"
    split = encoder(images)
    assert torch.equal(joint.sort(dim=1).values, split.sort(dim=1).values)
    assert not torch.equal(joint, split)


def test_lejepas_total_is_a_mean_of_its_terms(params_folder: Path) -> None:
    """(1 - lambda) prediction + lambda SIGReg; the baseline's prediction has weight 1."""
    arms = {arm.name: arm for arm in load_study(params_folder, "digits_controls").arms}
    states = torch.randn(2, 20, 8, dtype=torch.float64, generator=seeded(3))
    for name, whole in (("sigreg_lejepa", 1 - 0.02), ("sigreg", 1.0)):
        objective = build_objective(arms[name].objective, 8, seed=0)
        terms = objective.terms(states, 0, 1)
        expected = whole * float(terms["prediction"]) + 0.02 * float(terms["sigreg"])
        assert float(objective.total(terms)) == pytest.approx(expected, rel=1e-12)


def test_weights_of_lejepa_that_contradict_each_other_are_refused(folder: Path) -> None:  # noqa: F811
    """If the arm gets another weight, the stored value of 1 - weight is wrong."""
    path = "arm_overrides.sigreg_lejepa.objective.weight"
    edit(folder / "studies" / "digits_controls.yaml", path, 0.05)
    said = message(folder, "digits_controls")
    assert "prediction_weight is 0.98 but weight is 0.05" in said
    assert "give it 1 (the paper's) or 1 - weight = 0.95 (LeJEPA's)" in said
    path = "arm_overrides.sigreg_lejepa.objective.prediction_weight"
    edit(folder / "studies" / "digits_controls.yaml", path, 0.95)
    load_study(folder, "digits_controls")


@pytest.mark.parametrize("name", CONTROLLED)
def test_every_control_study_has_the_same_arms(params_folder: Path, name: str) -> None:
    study = load_study(params_folder, name)
    arms = [arm.name for arm in study.arms]
    assert arms == [arm.name for arm in load_study(params_folder, CONTROLLED[0]).arms]
    assert arms[0] == "sigreg" and arms[-1] == "hamjepa" and len(arms) == len(set(arms)) == 26
    assert len(study.seeds) == 3
    assert study.figure_arms is not None and set(study.figure_arms) < set(arms)


def test_controls_of_a_study_are_the_arms_of_the_study_it_extends(params_folder: Path) -> None:
    """With the same epochs, their runs differ only in the name of the study.

    The digits' controls run for fewer epochs, and so differ in the ramp, too.
    """
    for name in CONTROLLED:
        ours = load_study(params_folder, name)
        base = load_study(params_folder, name.removesuffix("_controls"))
        common = {arm.name: arm for arm in base.arms}
        assert set(common) < {arm.name for arm in ours.arms}
        for arm in ours.arms:
            theirs = common.get(arm.name, arm)
            if name != "digits_controls":
                assert arm == theirs
            else:
                assert without_ramp(arm) == without_ramp(theirs)


def without_ramp(arm: ArmParams) -> dict[str, Any]:
    tree = arm.model_dump()
    potential = tree["objective"].get("predictor", {}).get("potential", {})
    potential.pop("residual_ramp_epochs", None)
    return tree


def test_integrators_share_the_settings_of_a_study(params_folder: Path) -> None:
    arms = {arm.name: arm.model_dump() for arm in load_study(params_folder, "digits_controls").arms}
    reference = arms["hamjepa"]["objective"]["predictor"]
    for name in ("euler", "symplectic_euler"):
        assert arms[name]["objective"]["predictor"] == reference | {"kind": name}


def test_what_is_wrong_with_a_selection(folder: Path) -> None:  # noqa: F811
    study = folder / "studies" / "digits_controls.yaml"
    text = study.read_text()
    study.write_text(text.replace("selection: controls", "selection: control"))
    assert "no selection 'control'" in message(folder, "digits_controls")
    assert "did you mean 'controls'?" in message(folder, "digits_controls")
    study.write_text(text + "figure_arms: [hamjpea]\n")
    assert "figure_arms has 'hamjpea': did you mean 'hamjepa'?" in message(
        folder, "digits_controls"
    )
    rdmreg = folder / "arms" / "rdmreg.yaml"
    study.write_text(text)
    rdmreg.write_text(rdmreg.read_text().replace("state: rectified", "state: joint"))
    assert "needs state 'rectified'" in message(folder, "digits_controls")


def test_studies_of_controls_are_there(params_folder: Path) -> None:
    assert set(CONTROLLED) <= set(study_names(params_folder))
