"""Predictors: maps from the state of one view to that of the other."""

from abc import ABC, abstractmethod
from typing import Protocol, assert_never

import torch
from torch import Generator, Tensor, nn

from hamjepa_audit.models.hamiltonian import MultilayerPerceptron, Potential
from hamjepa_audit.models.initialisation import initialise
from hamjepa_audit.models.integrators import Integrator, euler, leapfrog, symplectic_euler
from hamjepa_audit.params.arms import (
    AdditiveCouplingParams,
    HamiltonianParams,
    IdentityParams,
    Predictor,
    ResidualMLPParams,
)

INTEGRATORS: dict[str, Integrator] = {
    "leapfrog": leapfrog,
    "symplectic_euler": symplectic_euler,
    "euler": euler,
}


class StatePredictor(Protocol):
    """A map of states, applied forward (+1) or backward (-1) in time, chosen per row."""

    def __call__(self, states: Tensor, direction: Tensor, ramp: float | Tensor) -> Tensor:
        """Predicted states.

        Args:
            states: (N, 2d), [q; p].
            direction: (N, 1), +1 or -1.
            ramp: share of the predictor's learned part that is switched on, in [0, 1].

        Returns:
            (N, 2d).
        """


def build_predictor(params: Predictor, state_dimension: int, generator: Generator) -> nn.Module:
    """The predictor that `params` names; it satisfies StatePredictor."""
    match params:
        case HamiltonianParams():
            return HamiltonianPredictor(params, state_dimension, generator)
        case AdditiveCouplingParams():
            return AdditiveCouplingPredictor(params, state_dimension, generator)
        case ResidualMLPParams():
            return ResidualMLPPredictor(params, state_dimension, generator)
        case IdentityParams():
            return IdentityPredictor()
        case _:
            assert_never(params)


class SeparablePredictor(nn.Module, ABC):
    """A flow that kicks p by a force on q, and drifts q by p; the step size is not learned."""

    def __init__(
        self, integrate: Integrator, steps: int, step_size: float, stiffness: float
    ) -> None:
        super().__init__()
        self.integrate = integrate
        self.steps = steps
        self.step_size = step_size
        self.stiffness = stiffness

    def forward(self, states: Tensor, direction: Tensor, ramp: float | Tensor) -> Tensor:
        """See StatePredictor."""
        q, p = states.chunk(2, dim=-1)
        step = self.step_size * direction
        q, p = self.integrate(lambda x: self.restoring_force(x, ramp), q, p, step, self.steps)
        return torch.cat([q, p], dim=-1)

    @abstractmethod
    def restoring_force(self, q: Tensor, ramp: float | Tensor) -> Tensor:
        """The negative force, stiffness * q and a learned part: (N, d) -> (N, d)."""


class HamiltonianPredictor(SeparablePredictor):
    """The flow of a learned Hamiltonian under an integrator."""

    def __init__(
        self, params: HamiltonianParams, state_dimension: int, generator: Generator
    ) -> None:
        integrate, stiffness = INTEGRATORS[params.kind], params.potential.stiffness
        super().__init__(integrate, params.steps, params.step_size, stiffness)
        self.potential = Potential(params.potential, state_dimension // 2, generator)
        self.potential.requires_grad_(params.potential.trained)

    def forward(self, states: Tensor, direction: Tensor, ramp: float | Tensor) -> Tensor:
        """See StatePredictor."""
        # The closed form keeps the values of all steps for its backward pass.
        if self.integrate is leapfrog and torch.is_grad_enabled():
            return self.potential.leapfrog(states, self.step_size * direction, self.steps, ramp)
        return super().forward(states, direction, ramp)

    def restoring_force(self, q: Tensor, ramp: float | Tensor) -> Tensor:
        """The potential's gradient, (N, d) -> (N, d)."""
        return self.potential.gradient(q, ramp)


class AdditiveCouplingPredictor(SeparablePredictor):
    """Leapfrog with the force -(stiffness q + r g(q)), where g need not be a gradient.

    Each half kick and drift shifts one half of the state by a function of the other (additive
    coupling, Dinh et al. 2014): volume is preserved and -dt inverts the map, as in HamJEPA, but it
    is not symplectic, because the Jacobian of g is not symmetric.
    """

    def __init__(
        self, params: AdditiveCouplingParams, state_dimension: int, generator: Generator
    ) -> None:
        super().__init__(leapfrog, params.steps, params.step_size, params.force.stiffness)
        self.residual_scale = params.force.residual_scale
        half = state_dimension // 2
        hidden = [params.force.hidden_width] * params.force.hidden_layers
        self.residual = MultilayerPerceptron([half, *hidden, half])
        initialise(self, generator)

    def restoring_force(self, q: Tensor, ramp: float | Tensor) -> Tensor:
        """Stiffness * q + r g(q), (N, d) -> (N, d)."""
        return self.stiffness * q + self.residual_scale * ramp * self.residual(q)


class ResidualMLPPredictor(nn.Module):
    """s <- s + step_scale * g([s; direction]), one g for all steps and both directions.

    Our reading of the paper's ablation "MLP-HJEPA", whose code was never published.
    """

    def __init__(
        self, params: ResidualMLPParams, state_dimension: int, generator: Generator
    ) -> None:
        super().__init__()
        self.steps = params.steps
        self.step_scale = params.step_scale
        hidden = [params.hidden_width] * params.hidden_layers
        self.residual = MultilayerPerceptron([state_dimension + 1, *hidden, state_dimension])
        initialise(self, generator)

    def forward(self, states: Tensor, direction: Tensor, ramp: float | Tensor) -> Tensor:
        """See StatePredictor; `ramp` is ignored."""
        for _ in range(self.steps):
            residual = self.residual(torch.cat([states, direction], dim=-1))
            states = states + self.step_scale * residual
        return states


class IdentityPredictor(nn.Module):
    """The control: returns the state unchanged."""

    def forward(self, states: Tensor, direction: Tensor, ramp: float | Tensor) -> Tensor:
        """See StatePredictor."""
        return states


def residual_ramp(predictor: Predictor, epoch: int) -> float:
    """Share of the learned force that is switched on in an epoch (from 1).

    It is epoch / ramp_epochs, at most 1; always 1 without a ramp.
    """
    match predictor:
        case HamiltonianParams():
            epochs = predictor.potential.residual_ramp_epochs
        case AdditiveCouplingParams():
            epochs = predictor.force.residual_ramp_epochs
        case _:
            epochs = 0
    return min(1.0, epoch / epochs) if epochs else 1.0
