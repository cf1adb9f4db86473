"""Measurements of a trained predictor on held-out states, to compare with its theory."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hamjepa_audit.evaluation.readouts import readout
from hamjepa_audit.metrics import Measurement
from hamjepa_audit.models.hamiltonian import Potential, energy
from hamjepa_audit.models.predictors import (
    HamiltonianPredictor,
    SeparablePredictor,
    residual_ramp,
)
from hamjepa_audit.objectives.prediction import phase_space_prediction
from hamjepa_audit.params.arms import PhaseSpaceObjectiveParams, PredictionParams, Readout
from hamjepa_audit.params.studies import RunParams
from hamjepa_audit.randomness import Stream, generator
from hamjepa_audit.theory.symplectic import jacobian, log_abs_determinant, symplecticity_defect

PARTS: tuple[Readout, ...] = ("q", "p", "qp")
HESSIAN_QUANTILES = {"min": 0.0, "q10": 0.1, "q50": 0.5, "q90": 0.9, "max": 1.0}
RUNAWAY = 1e6
"""A rollout stops when states are this many times as large, or as small, as at its start."""


class Trained(NamedTuple):
    """A predictor at the end of training."""

    predictor: nn.Module
    """In float64; it satisfies StatePredictor."""
    ramp: float
    """Share of the learned part that was switched on at the end."""
    prediction: PredictionParams

    def __call__(self, states: Tensor, direction: Tensor) -> Tensor:
        """(N, 2d) states and (N, 1) directions, +1 or -1, to (N, 2d) states."""
        moved: Tensor = self.predictor(states, direction, self.ramp)
        return moved

    def forward(self, states: Tensor) -> Tensor:
        """Applies the map once, forward in time: (N, 2d) -> (N, 2d)."""
        return self(states, states.new_ones(len(states), 1))


def dynamics_measurements(
    run: RunParams, predictor: nn.Module, view_a: Tensor, view_b: Tensor
) -> list[Measurement]:
    """All measurements of a run's predictor, dimensionless.

    For q, p and qp: `map_displacement`, `map_view_distance`, `map_displacement_share`,
    `map_error_removed`. For qp: `map_loss_removed`, `map_log_abs_determinant`,
    `map_symplecticity_defect`, `map_reversal_error`, `map_growth_rate`,
    `map_common_energy_drift`, `map_common_energy_growth`, and for maps of a Hamiltonian
    `map_energy_drift`. For q, for maps with a force: `map_learned_force_share`; with a
    potential: `potential_hessian_` with min, q10, q50, q90, max.

    Args:
        run: the run's parameters; its arm must predict states.
        predictor: trained, on the device of the views; converted to float64 in place.
        view_a: (N, 2d) states of one view of held-out images, any floating dtype.
        view_b: (N, 2d) of another view of the same images.

    Raises:
        ValueError: the arm has no predictor.
    """
    objective, params = run.arm.objective, run.evaluation.dynamics
    if not isinstance(objective, PhaseSpaceObjectiveParams):
        raise ValueError(f"arm '{run.arm.name}' has no predictor")
    trained = Trained(
        predictor.double().requires_grad_(False),
        residual_ramp(objective.predictor, run.epochs),
        objective.prediction,
    )
    view_a, view_b = view_a.double(), view_b.double()
    order = torch.randperm(len(view_a), generator=generator(Stream.DYNAMICS, params.seed))
    chosen = view_a[order.to(view_a.device)]
    some, more = chosen[: params.jacobian_states], chosen[: params.rollout_states]
    jacobians = [jacobian(trained.forward, state) for state in some]
    whole = {
        "map_loss_removed": loss_removed(trained, view_a, view_b),
        "map_log_abs_determinant": _mean([log_abs_determinant(matrix) for matrix in jacobians]),
        "map_symplecticity_defect": _mean([symplecticity_defect(matrix) for matrix in jacobians]),
        "map_reversal_error": reversal_error(trained, view_a),
        **rollout(trained, more, params.rollout_applications, params.stiffness),
    }
    rows = [*_moves(trained, view_a, view_b)]
    rows += [Measurement("qp", name, value, "dimensionless") for name, value in whole.items()]
    quantiles = hessian_quantiles(trained, readout(some, "q"))
    of_force = {**learned_force_share(trained, view_a), **quantiles}
    return rows + [
        Measurement("q", name, value, "dimensionless") for name, value in of_force.items()
    ]


@torch.no_grad()
def reversal_error(trained: Trained, states: Tensor) -> float:
    """Rms error of mapping states (N, 2d) forward and back, relative to their rms."""
    forward = states.new_ones(len(states), 1)
    back = trained(trained(states, forward), -forward)
    return float(_rms(back - states) / _rms(states))


@torch.no_grad()
def loss_removed(trained: Trained, view_a: Tensor, view_b: Tensor) -> float:
    """Share of the prediction loss that the map removes: 1 - loss / loss of the identity.

    The loss is the arm's own, with its matching and both flow directions.
    """
    views = torch.stack([view_a, view_b])
    identity = phase_space_prediction(views, lambda s, *_: s, trained.prediction, trained.ramp)
    own = phase_space_prediction(views, trained.predictor, trained.prediction, trained.ramp)
    return 1 - float(own / identity)


@torch.no_grad()
def rollout(
    trained: Trained, states: Tensor, applications: int, stiffness: float
) -> dict[str, float]:
    """Applies the map repeatedly, far beyond what it was trained for.

    Args:
        trained: the predictor.
        states: (N, 2d) float64 initial states.
        applications: number of applications; fewer if states diverge or vanish.
        stiffness: stiffness of the common energy.

    Returns:
        `map_growth_rate`: log growth per application of the states' root mean square, from the
        first to the last; `map_common_energy_growth`: that of the mean common energy. Where states
        only oscillate, they tell at which point of the oscillation the rollout ends: values of
        about 1 / applications are no growth. `map_common_energy_drift` and, for maps of a
        Hamiltonian, `map_energy_drift` of their own energy: mean over states of the largest
        |H - H_0| / |H_0| of the rollout. The rollout stops when states are RUNAWAY times as large
        or as small as at the start; rates and drifts then cover the applications so far.
    """
    energies = _energies(trained, stiffness)
    size, done = _rms(states), 0
    smallest, largest = size / RUNAWAY, size * RUNAWAY
    start = {name: of(states) for name, of in energies.items()}
    now = start
    drifts = {name: torch.zeros_like(value) for name, value in start.items()}
    while done == 0 or (done < applications and bool(smallest < _rms(states) < largest)):
        states = trained.forward(states)
        done += 1
        now = {name: of(states) for name, of in energies.items()}
        for name, value in now.items():
            relative = (value - start[name]).abs() / start[name].abs()
            drifts[name] = torch.maximum(drifts[name], relative)
    common = "map_common_energy"
    return {
        "map_growth_rate": math.log(float(_rms(states) / size)) / done,
        f"{common}_growth": math.log(float(now[common].mean() / start[common].mean())) / done,
        **{f"{name}_drift": float(drift.mean()) for name, drift in drifts.items()},
    }


def _energies(trained: Trained, stiffness: float) -> dict[str, Callable[[Tensor], Tensor]]:
    """The energies recorded in a rollout, (N, 2d) -> (N,), by the prefix of their metrics.

    A common one for all maps, so that they can be compared, and a Hamiltonian map's own.
    """

    def common(states: Tensor) -> Tensor:
        q, p = states.chunk(2, dim=-1)
        return 0.5 * (p.square().sum(-1) + stiffness * q.square().sum(-1))

    energies: dict[str, Callable[[Tensor], Tensor]] = {"map_common_energy": common}
    if isinstance(trained.predictor, HamiltonianPredictor):
        potential = trained.predictor.potential
        energies["map_energy"] = lambda states: energy(potential, states, trained.ramp)
    return energies


@torch.no_grad()
def learned_force_share(trained: Trained, states: Tensor) -> dict[str, float]:
    """`map_learned_force_share`: rms of the learned part of the force over rms of the force.

    Empty if the map has no force.
    """
    predictor = trained.predictor
    if not isinstance(predictor, SeparablePredictor):
        return {}
    q = readout(states, "q")
    force = predictor.restoring_force(q, trained.ramp)
    return {"map_learned_force_share": float(_rms(force - predictor.stiffness * q) / _rms(force))}


def hessian_quantiles(trained: Trained, positions: Tensor) -> dict[str, float]:
    """Quantiles of the eigenvalues of the potential's Hessian, pooled over positions (N, d).

    Empty if the map has no potential.
    """
    if not isinstance(trained.predictor, HamiltonianPredictor):
        return {}
    potential: Potential = trained.predictor.potential
    eigenvalues = torch.cat(
        [
            torch.linalg.eigvalsh(jacobian(lambda x: potential.gradient(x, trained.ramp), q))
            for q in positions
        ]
    )
    points = eigenvalues.new_tensor(list(HESSIAN_QUANTILES.values()))
    values = torch.quantile(eigenvalues, points).tolist()
    names = (f"potential_hessian_{name}" for name in HESSIAN_QUANTILES)
    return dict(zip(names, values, strict=True))


@torch.no_grad()
def _moves(trained: Trained, view_a: Tensor, view_b: Tensor) -> list[Measurement]:
    """How far the map moves each part of view a, and how much prediction error that removes.

    The error is the part's mean square over both flow directions, as in training.
    """
    start, target = torch.cat([view_a, view_b]), torch.cat([view_b, view_a])
    direction = start.new_ones(len(start), 1)
    if trained.prediction.backward == "time_reversed":
        direction[len(view_a) :] = -1.0
    moved = trained(start, direction)
    move, gap, error = (moved - start)[: len(view_a)], target - start, target - moved
    rows = []
    for part in PARTS:
        displacement, distance, missed = (_rms(readout(x, part)) for x in (move, gap, error))
        values = {
            "map_displacement": displacement,
            "map_view_distance": distance,
            "map_displacement_share": displacement / distance,
            "map_error_removed": 1 - (missed / distance).square(),
        }
        rows += [Measurement(part, key, float(x), "dimensionless") for key, x in values.items()]
    return rows


def _rms(values: Tensor) -> Tensor:
    return values.square().mean().sqrt()


def _mean(values: list[Tensor]) -> float:
    return float(torch.stack(values).mean())
