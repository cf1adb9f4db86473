"""Dynamics of trained predictors, compared with closed forms of linear maps and plain sums."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hamjepa_audit.evaluation import dynamics
from hamjepa_audit.evaluation.dynamics import (
    Trained,
    dynamics_measurements,
    reversal_error,
    rollout,
)
from hamjepa_audit.models.predictors import build_predictor
from hamjepa_audit.params import load_study, resolve_run
from hamjepa_audit.params.arms import PredictionParams
from hamjepa_audit.plans.identity import evaluation_digest
from hamjepa_audit.theory.symplectic import jacobian
from tests.unit.test_controls import predictor_of, predictor_params, seeded

DIMENSION = 12
PREDICTION = PredictionParams(matching="q", momentum_weight=0.2, backward="time_reversed")
VIEWS = torch.randn(2, 30, DIMENSION, dtype=torch.float64, generator=seeded(5))


def measured(params_folder: Path, arm: str, predictor: nn.Module) -> dict[tuple[str, str], float]:
    """Measurements by readout and metric, for 12 epochs, which is after the ramp."""
    study = load_study(params_folder, "digits_controls").model_copy(update={"epochs": (12,)})
    run = resolve_run(study, arm, 12, 0)
    rows = dynamics_measurements(run, predictor, *VIEWS)
    assert {row.unit for row in rows} == {"dimensionless"}
    assert len({(row.readout, row.metric) for row in rows}) == len(rows)
    return {(row.readout, row.metric): row.value for row in rows}


def test_the_jacobian_of_a_linear_map_is_its_matrix() -> None:
    matrix = torch.randn(3, 5, dtype=torch.float64, generator=seeded())
    found = jacobian(lambda rows: rows @ matrix.T, torch.ones(5, dtype=torch.float64))
    assert torch.allclose(found, matrix)


def test_the_jacobian_is_autograds(params_folder: Path) -> None:
    trained = Trained(predictor_of(params_folder, "mlp"), 1.0, PREDICTION)
    expected = torch.autograd.functional.jacobian(
        lambda s: trained.forward(s[None])[0], VIEWS[0, 0]
    )
    assert torch.allclose(jacobian(trained.forward, VIEWS[0, 0]), expected)


def quadratic(params_folder: Path, arm: str) -> nn.Module:
    """An integrator of H = |p|^2/2 + 0.05 |q|^2 with dt 0.3 and two steps."""
    params: Any = predictor_params(params_folder, arm)
    potential = params.potential.model_copy(update={"residual_scale": 0.0})
    return build_predictor(
        params.model_copy(update={"potential": potential}), DIMENSION, seeded()
    ).double()


def test_explicit_euler_on_a_quadratic_potential(params_folder: Path) -> None:
    """Each step multiplies the symplectic form and the energy by 1 + a dt^2."""
    found = measured(params_folder, "euler", quadratic(params_folder, "euler"))
    factor = (1 + 0.1 * 0.3**2) ** 2
    assert found["qp", "map_log_abs_determinant"] == pytest.approx(DIMENSION / 2 * math.log(factor))
    assert found["qp", "map_symplecticity_defect"] == pytest.approx(factor - 1)
    assert found["qp", "map_energy_drift"] == pytest.approx(factor**1000 - 1, rel=1e-9)
    assert found["qp", "map_growth_rate"] == pytest.approx(math.log(factor) / 2, abs=1e-3)
    # Here, the Hamiltonian equals the common energy.
    assert found["qp", "map_common_energy_drift"] == pytest.approx(factor**1000 - 1, rel=1e-9)
    assert found["qp", "map_common_energy_growth"] == pytest.approx(math.log(factor))
    assert found["q", "potential_hessian_min"] == pytest.approx(0.1)
    assert found["q", "potential_hessian_max"] == pytest.approx(0.1)
    assert found["q", "map_learned_force_share"] == 0.0


def test_leapfrog_on_a_quadratic_potential(params_folder: Path) -> None:
    found = measured(params_folder, "hamjepa", quadratic(params_folder, "hamjepa"))
    for metric in ("log_abs_determinant", "symplecticity_defect", "reversal_error"):
        assert abs(found["qp", f"map_{metric}"]) < 1e-12, metric
    assert abs(found["qp", "map_growth_rate"]) < 1e-3
    # The energy that leapfrog conserves exactly differs from H by a share of about a dt^2 / 4.
    assert 1e-4 < found["qp", "map_energy_drift"] < 0.1 * 0.3**2 / 2
    own, common = (found["qp", f"map_{kind}_drift"] for kind in ("energy", "common_energy"))
    assert common == pytest.approx(own, rel=1e-9)
    assert abs(found["qp", "map_common_energy_growth"]) < 1e-5


@pytest.mark.parametrize("arm", ["mlp_dt_scaled", "volume_preserving", "hamjepa", "identity"])
def test_the_common_energy_of_every_map_by_plain_sums(params_folder: Path, arm: str) -> None:
    """Compares with (|p|^2 + 0.1 |q|^2) / 2 along a rollout, state by state."""
    predictor = predictor_of(params_folder, arm)
    states = VIEWS[0, :4]
    ones = states.new_ones(4, 1)

    def energies(rows: Tensor) -> Tensor:
        q, p = rows[:, :6], rows[:, 6:]
        return torch.stack([(x @ x + 0.1 * (y @ y)) / 2 for x, y in zip(p, q, strict=True)])

    recorded = [energies(states)]
    with torch.no_grad():
        for _ in range(7):
            states = predictor(states, ones, 1.0)
            recorded.append(energies(states))
    along = torch.stack(recorded)
    found = rollout(Trained(predictor, 1.0, PREDICTION), VIEWS[0, :4], 7, stiffness=0.1)
    drift = ((along - along[0]).abs() / along[0]).amax(0).mean()
    assert found["map_common_energy_drift"] == pytest.approx(float(drift))
    growth = math.log(float(along[-1].mean() / along[0].mean())) / 7
    assert found["map_common_energy_growth"] == pytest.approx(growth)
    assert ("map_energy_drift" in found) == (arm == "hamjepa")


def test_a_learned_potential_and_its_hessian(params_folder: Path) -> None:
    predictor: Any = predictor_of(params_folder, "hamjepa")
    found = measured(params_folder, "hamjepa", predictor)
    spectra = []
    for row in VIEWS[0]:
        hessian = torch.autograd.functional.hessian(
            lambda q: predictor.potential(q[None])[0], row[: DIMENSION // 2]
        )
        spectra.append(np.linalg.eigvalsh(hessian.numpy()))
    assert np.min(spectra) <= found["q", "potential_hessian_min"] <= np.max(spectra)
    assert any(
        abs(value - found["q", "potential_hessian_max"]) < 1e-12 for value in np.ravel(spectra)
    )
    q = VIEWS[0, :, : DIMENSION // 2]
    force = predictor.potential.gradient(q).detach()
    share = float((force - 0.1 * q).norm() / force.norm())
    assert found["q", "map_learned_force_share"] == pytest.approx(share)


@pytest.mark.parametrize("arm", ["mlp", "volume_preserving", "euler"])
def test_moves_and_errors_are_plain_means(params_folder: Path, arm: str) -> None:
    predictor = predictor_of(params_folder, arm)
    found = measured(params_folder, arm, predictor)
    ones = VIEWS.new_ones(30, 1)
    with torch.no_grad():
        forward = predictor(VIEWS[0], ones, 1.0)
        backward = predictor(VIEWS[1], -ones, 1.0)
        there_and_back = predictor(forward, -ones, 1.0)

    def mean_square(x: Tensor, part: slice) -> float:
        return float(np.mean(x.numpy()[:, part] ** 2))

    parts = {"q": slice(0, 6), "p": slice(6, 12), "qp": slice(0, 12)}
    errors, plain = {}, {}
    for name, part in parts.items():
        moved = math.sqrt(mean_square(forward - VIEWS[0], part))
        plain[name] = mean_square(VIEWS[1] - VIEWS[0], part)
        errors[name] = 0.5 * mean_square(forward - VIEWS[1], part)
        errors[name] += 0.5 * mean_square(backward - VIEWS[0], part)
        assert found[name, "map_displacement"] == pytest.approx(moved)
        assert found[name, "map_view_distance"] == pytest.approx(math.sqrt(plain[name]))
        share = moved / math.sqrt(plain[name])
        assert found[name, "map_displacement_share"] == pytest.approx(share)
        removed = 1 - errors[name] / plain[name]
        assert found[name, "map_error_removed"] == pytest.approx(removed)
    loss = (errors["q"] + 0.2 * errors["p"]) / (plain["q"] + 0.2 * plain["p"])
    assert found["qp", "map_loss_removed"] == pytest.approx(1 - loss)
    reversal = math.sqrt(
        mean_square(there_and_back - VIEWS[0], parts["qp"]) / mean_square(VIEWS[0], parts["qp"])
    )
    assert found["qp", "map_reversal_error"] == pytest.approx(reversal, abs=1e-14)


def test_the_identity_removes_nothing_and_has_no_potential(params_folder: Path) -> None:
    found = measured(params_folder, "identity", predictor_of(params_folder, "identity"))
    for metric in ("map_error_removed", "map_displacement"):
        assert [found[part, metric] for part in ("q", "p", "qp")] == [0.0, 0.0, 0.0]
    for metric in ("log_abs_determinant", "symplecticity_defect", "growth_rate", "loss_removed"):
        assert found["qp", f"map_{metric}"] == 0.0
    names = {metric for _, metric in found}
    assert not {"map_energy_drift", "map_learned_force_share"} & names
    assert found["qp", "map_common_energy_drift"] == 0.0
    assert found["qp", "map_common_energy_growth"] == 0.0
    assert not [name for name in names if name.startswith("potential")]


class Multiple(nn.Module):
    """A map that grows or shrinks all states alike."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, states: Tensor, direction: Tensor, ramp: float) -> Tensor:
        return self.factor * states


@pytest.mark.parametrize(("factor", "drift"), [(10, 0.99e12), (0.1, 0.99)])
def test_a_rollout_that_runs_away_ends_and_its_rate_is_per_application(
    factor: float, drift: float
) -> None:
    found = rollout(Trained(Multiple(factor), 1.0, PREDICTION), VIEWS[0], 10_000, stiffness=0.1)
    assert found.pop("map_common_energy_drift") >= drift
    assert found == {
        "map_growth_rate": pytest.approx(math.log(factor)),
        "map_common_energy_growth": pytest.approx(2 * math.log(factor)),
    }


def test_a_map_that_is_not_undone_by_the_reverse_direction() -> None:
    assert reversal_error(Trained(Multiple(10), 1.0, PREDICTION), VIEWS[0]) == pytest.approx(99.0)


def test_drift_is_relative_to_the_size_of_a_negative_energy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    energies = {
        "map_common_energy": lambda states: states.square().sum(-1),
        "map_energy": lambda states: -states.square().sum(-1),
    }
    monkeypatch.setattr(dynamics, "_energies", lambda *_: energies)
    found = rollout(Trained(Multiple(1.1), 1.0, PREDICTION), VIEWS[0], 3, stiffness=0.1)
    assert found["map_energy_drift"] == pytest.approx(1.1**6 - 1)
    assert found["map_common_energy_drift"] == found["map_energy_drift"]


def test_a_rollout_from_states_that_are_all_zero_has_no_rate() -> None:
    found = rollout(Trained(Multiple(10), 1.0, PREDICTION), torch.zeros(3, 4), 5, stiffness=0.1)
    assert all(math.isnan(value) for value in found.values())


def test_a_forward_backward_flow_is_measured_as_it_was_trained(params_folder: Path) -> None:
    """With 'forward', both flows use +dt; measured two epochs into a ramp of three."""
    predictor = predictor_of(params_folder, "euler")
    study = load_study(params_folder, "digits_controls")
    run = resolve_run(study, "euler", 8, 0).model_copy(update={"epochs": 2})
    tree = run.arm.objective.model_copy(  # type: ignore[union-attr]
        update={"prediction": PREDICTION.model_copy(update={"backward": "forward"})}
    )
    changed = run.model_copy(update={"arm": run.arm.model_copy(update={"objective": tree})})
    both = [
        {(r.readout, r.metric): r.value for r in dynamics_measurements(x, predictor, *VIEWS)}
        for x in (run, changed)
    ]
    assert both[0]["q", "map_error_removed"] != both[1]["q", "map_error_removed"]
    ones = VIEWS.new_ones(30, 1)
    with torch.no_grad():
        errors = [
            (predictor(VIEWS[i], ones, 2 / 3) - VIEWS[1 - i])[:, :6].square().mean() for i in (0, 1)
        ]
    plain = (VIEWS[0] - VIEWS[1])[:, :6].square().mean()
    removed = 1 - float((errors[0] + errors[1]) / 2 / plain)
    assert both[1]["q", "map_error_removed"] == pytest.approx(removed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arm", "moved_q", "moved_p", "defect"),
    [("hamjepa", 0.10, 0.01, 0.0), ("euler", 0.10, 0.01, 5e-4), ("mlp", 0.14, 0.14, 0.17)],
)
def test_how_small_the_papers_maps_are(
    params_folder: Path, arm: str, moved_q: float, moved_p: float, defect: float
) -> None:
    """The numbers in docs/results.md for initial weights, on full-size standard normal states."""
    study = load_study(params_folder, "cifar100_controls")
    run = resolve_run(study, arm, 30, 0)
    dimension = study.encoder.state_dimension(study.views.size)
    views = torch.randn(2, 16, dimension, dtype=torch.float64, generator=seeded())
    objective: Any = run.arm.objective
    predictor = build_predictor(objective.predictor, dimension, seeded())
    few = run.evaluation.dynamics.model_copy(
        update={"jacobian_states": 1, "rollout_states": 1, "rollout_applications": 1}
    )
    evaluation = run.evaluation.model_copy(update={"dynamics": few})
    changed = run.model_copy(update={"evaluation": evaluation})
    rows = dynamics_measurements(changed, predictor, *views)
    found = {(row.readout, row.metric): row.value for row in rows}
    assert dimension == 2048
    assert found["q", "map_displacement"] == pytest.approx(moved_q, rel=0.1)
    assert found["p", "map_displacement"] == pytest.approx(moved_p, rel=0.1)
    assert found["qp", "map_symplecticity_defect"] == pytest.approx(defect, rel=0.1, abs=1e-12)


def test_measurements_by_another_common_energy_are_other_measurements(params_folder: Path) -> None:
    params = load_study(params_folder, "digits").evaluation.dynamics
    stiffer = params.model_copy(update={"stiffness": 0.2})
    assert params.stiffness == 0.1
    assert evaluation_digest(params) != evaluation_digest(stiffer)


@pytest.mark.parametrize("name", ["digits_controls", "cifar100", "imagenet100"])
def test_the_common_energy_is_of_hamjepas_stiffness(params_folder: Path, name: str) -> None:
    study = load_study(params_folder, name)
    (hamjepa,) = (arm for arm in study.arms if arm.name == "hamjepa")
    potential = hamjepa.objective.predictor.potential  # type: ignore[union-attr]
    assert study.evaluation.dynamics.stiffness == potential.stiffness
