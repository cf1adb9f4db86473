"""The objective of an arm: its unweighted terms, their weights and their sum."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import assert_never

import torch
from torch import Tensor, nn

from hamjepa_audit.cuda_graphs import alongside
from hamjepa_audit.device_constants import device_constant, sent
from hamjepa_audit.models.predictors import build_predictor, residual_ramp
from hamjepa_audit.objectives.floors import (
    Moments,
    energy_budget,
    logdet_floor,
    mean_penalty,
    moments,
    orthonormal_directions,
    projection_count,
    variance_floor,
)
from hamjepa_audit.objectives.prediction import (
    lejepa_prediction,
    phase_space_prediction,
    view_distance,
)
from hamjepa_audit.objectives.rdmreg import rectified_generalised_gaussian, sliced_wasserstein
from hamjepa_audit.objectives.sigreg import sigreg, unit_directions
from hamjepa_audit.objectives.vicreg import covariance_penalty, variance_hinge
from hamjepa_audit.params.arms import (
    Objective,
    PhaseSpaceObjectiveParams,
    RDMRegObjectiveParams,
    SIGRegObjectiveParams,
    VICRegObjectiveParams,
)
from hamjepa_audit.randomness import Stream, device_generator, generator, numpy_generator


def build_objective(params: Objective, state_dimension: int, seed: int) -> "ArmObjective":
    """The objective that `params` names, with the initial weights of `seed`."""
    match params:
        case PhaseSpaceObjectiveParams():
            return PhaseSpaceObjective(params, state_dimension, seed)
        case SIGRegObjectiveParams():
            return SIGRegObjective(params, seed)
        case VICRegObjectiveParams():
            return VICRegObjective(params)
        case RDMRegObjectiveParams():
            return RDMRegObjective(params, seed)
        case _:
            assert_never(params)


class ArmObjective(nn.Module, ABC):
    """The loss that an arm minimises. Its parameters, if any, are those of the predictor."""

    weights: Mapping[str, float]
    """Weight of each term in the sum."""

    def terms(self, states: Tensor, step: int, epoch: int) -> dict[str, Tensor]:
        """Unweighted terms at a step from 0, in an epoch from 1, of states as in `terms_given`."""
        draws = self.draws(states.shape, step, states.device, states.dtype)
        return self.terms_given(states, draws, self.ramp(epoch))

    def draws(
        self, shape: torch.Size, step: int, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        """The random tensors that the terms need; none by default.

        Args:
            shape: shape (V, B, D) of the states.
            step: optimiser step from 0, which determines the numbers.
            device: the states' device.
            dtype: the states' dtype.
        """
        return ()

    def ramp(self, epoch: int) -> float:
        """Share of the predictor's learned part that is switched on in an epoch (from 1)."""
        return 1.0

    @abstractmethod
    def terms_given(
        self, states: Tensor, draws: Sequence[Tensor], ramp: float | Tensor
    ) -> dict[str, Tensor]:
        """Unweighted terms. On a GPU this is recorded and replayed (see `cuda_graphs.Recording`).

        Args:
            states: (V, B, D), at least float32, outside autocast.
            draws: as from `draws`.
            ramp: as from `ramp`.

        Returns:
            Scalars by name; the names are those of `weights`.
        """

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of the terms.

        Raises:
            ValueError: `terms` and `weights` have different names.
        """
        if terms.keys() != self.weights.keys():
            raise ValueError(f"terms are {sorted(terms)}, but weights {sorted(self.weights)}")
        weights = tuple(self.weights[name] for name in terms)
        return _weighted_sum(torch.stack([*terms.values()]), weights)


class SIGRegObjective(ArmObjective):
    """Weighted sum of LeJEPA's prediction loss and SIGReg (protocol, "SIGReg")."""

    def __init__(self, params: SIGRegObjectiveParams, seed: int) -> None:
        super().__init__()
        self.params = params
        self.seed = seed
        self.weights = {"prediction": params.prediction_weight, "sigreg": params.weight}

    def draws(
        self, shape: torch.Size, step: int, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        """Directions (D, M), new at every step."""
        source = device_generator(device, Stream.SIGREG_DIRECTIONS, self.seed, step)
        return (unit_directions(shape[-1], self.params.directions, source).to(dtype),)

    def terms_given(
        self, states: Tensor, draws: Sequence[Tensor], ramp: float | Tensor
    ) -> dict[str, Tensor]:
        """See ArmObjective."""
        (directions,) = draws
        statistic = sigreg(states, directions, self.params.knots, self.params.maximum_frequency)
        return {"prediction": lejepa_prediction(states, len(states)), "sigreg": statistic}


class VICRegObjective(ArmObjective):
    """VICReg on the two views (Bardes et al. 2022, eq. 6 and algorithm 1)."""

    def __init__(self, params: VICRegObjectiveParams) -> None:
        super().__init__()
        self.params = params
        self.weights = {
            "invariance": params.invariance_weight,
            "variance": params.variance_weight,
            "covariance": params.covariance_weight,
        }

    def terms_given(
        self, states: Tensor, draws: Sequence[Tensor], ramp: float | Tensor
    ) -> dict[str, Tensor]:
        """See ArmObjective; variance and covariance are summed over the views."""
        minimum_std, epsilon = self.params.minimum_std, self.params.epsilon
        return {
            "invariance": view_distance(states),
            "variance": variance_hinge(states, minimum_std, epsilon).sum(),
            "covariance": covariance_penalty(states).sum(),
        }


class RDMRegObjective(ArmObjective):
    """Rectified LpJEPA: invariance plus weight * RDMReg, mean over the views (arXiv 2602.01456).

    Our choices: both views are compared with the same target sample, as large as the batch; sample
    and directions are redrawn at every step; the distance is squared.
    """

    def __init__(self, params: RDMRegObjectiveParams, seed: int) -> None:
        super().__init__()
        self.params = params
        self.seed = seed
        self.weights = {"invariance": 1.0, "rdmreg": params.weight}

    def draws(
        self, shape: torch.Size, step: int, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        """Directions (D, M) and a target sample (B, D), new at every step."""
        _, batch, dimension = shape
        params = self.params
        source = device_generator(device, Stream.RDMREG_DIRECTIONS, self.seed, step)
        directions = unit_directions(dimension, params.directions, source)
        target = rectified_generalised_gaussian(
            batch,
            dimension,
            params.shape,
            params.location,
            params.scale,
            numpy_generator(Stream.RDMREG_TARGET, self.seed, step),
        )
        return directions.to(dtype), sent(target.to(dtype), device)

    def terms_given(
        self, states: Tensor, draws: Sequence[Tensor], ramp: float | Tensor
    ) -> dict[str, Tensor]:
        """See ArmObjective; states must be rectified already."""
        directions, target = draws
        distance = sliced_wasserstein(states, target, directions)
        return {"invariance": view_distance(states), "rdmreg": distance}


class PhaseSpaceObjective(ArmObjective):
    """Prediction by a map of states, energy budget, floors, mean penalty (protocol, "HamJEPA")."""

    def __init__(self, params: PhaseSpaceObjectiveParams, state_dimension: int, seed: int) -> None:
        super().__init__()
        self.params = params
        self.seed = seed
        self.predictor = build_predictor(
            params.predictor, state_dimension, generator(Stream.PREDICTOR_WEIGHTS, seed)
        )
        self.weights = {
            "prediction": 1.0,
            "budget": params.budget.weight,
            "variance_floor": params.variance_floor.weight,
            "logdet_floor": params.logdet_floor.weight,
            "mean_penalty": params.mean_penalty.weight,
        }
        self._directions: tuple[tuple[int, int], Tensor] | None = None

    def draws(
        self, shape: torch.Size, step: int, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        """Orthonormal directions (2, d, k) of the floors, one matrix each for q and p.

        They are redrawn only every few steps.
        """
        views, batch, dimension = shape
        draw = step // self.params.logdet_floor.redraw_every_steps
        k = projection_count(self.params.logdet_floor.directions, dimension // 2, views * batch)
        if self._directions is None or self._directions[0] != (draw, k):
            drawn = [
                orthonormal_directions(
                    dimension // 2, k, generator(Stream.FLOOR_DIRECTIONS, self.seed, draw, part)
                )
                for part in range(2)
            ]
            self._directions = ((draw, k), sent(torch.stack(drawn).to(dtype), device))
        return (self._directions[1],)

    def ramp(self, epoch: int) -> float:
        """See ArmObjective."""
        return residual_ramp(self.params.predictor, epoch)

    def terms_given(
        self, states: Tensor, draws: Sequence[Tensor], ramp: float | Tensor
    ) -> dict[str, Tensor]:
        """See ArmObjective."""
        (directions,) = draws
        halves = states.flatten(0, 1).unflatten(-1, (2, -1))
        with alongside(states.device, lane=1) as wait_for_spectrum:
            spectral = self.params.logdet_floor
            limits = (spectral.q, spectral.p)
            floored = logdet_floor(halves.transpose(0, 1), directions, spectral.ridge, limits)
        with alongside(states.device, lane=3) as wait_for_moments:
            budget, variance, mean = self._terms_of_moments(moments(halves))
        prediction = phase_space_prediction(states, self.predictor, self.params.prediction, ramp)
        wait_for_spectrum()
        wait_for_moments()
        return {
            "prediction": prediction,
            "budget": budget,
            "variance_floor": variance,
            "logdet_floor": floored,
            "mean_penalty": mean,
        }

    def _terms_of_moments(self, halves: Moments) -> tuple[Tensor, Tensor, Tensor]:
        """Budget, variance floors and mean penalty, from the moments (2, d) of q and p."""
        budget, floor = self.params.budget, self.params.variance_floor
        counted = tuple(float(floor.parts.count(part)) for part in ("q", "p"))
        floors = variance_floor(halves, floor.minimum_std, floor.epsilon)
        return (
            energy_budget(halves, budget.q_target, budget.p_target),
            _weighted_sum(floors, counted),
            mean_penalty(halves),
        )


def _weighted_sum(values: Tensor, weights: tuple[float, ...]) -> Tensor:
    """The sum of values (n,) with constant weights."""
    return (values * device_constant(weights, values.device, values.dtype)).sum()
