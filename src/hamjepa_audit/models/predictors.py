"""Predictors: maps of one view's state that are to land on the other's."""

from typing import Protocol

import torch
from torch import Generator, Tensor, nn

from hamjepa_audit.models.hamiltonian import MultilayerPerceptron, Potential
from hamjepa_audit.models.initialisation import initialise
from hamjepa_audit.models.integrators import leapfrog
from hamjepa_audit.params.arms import (
    IdentityParams,
    LeapfrogParams,
    Predictor,
    ResidualMLPParams,
)


class StatePredictor(Protocol):
    """A map of states, run forward (+1) or backward (-1) in time, row by row."""

    def __call__(self, states: Tensor, direction: Tensor, ramp: float) -> Tensor:
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
        case LeapfrogParams():
            return LeapfrogPredictor(params, state_dimension, generator)
        case ResidualMLPParams():
            return ResidualMLPPredictor(params, state_dimension, generator)
        case IdentityParams():
            return IdentityPredictor()


class LeapfrogPredictor(nn.Module):
    """The leapfrog map of a learned Hamiltonian; the step size is never learned."""

    def __init__(self, params: LeapfrogParams, state_dimension: int, generator: Generator) -> None:
        super().__init__()
        self.steps = params.steps
        self.step_size = params.step_size
        self.potential = Potential(params.potential, state_dimension // 2, generator)

    def forward(self, states: Tensor, direction: Tensor, ramp: float) -> Tensor:
        """See StatePredictor."""
        q, p = states.chunk(2, dim=-1)
        step = self.step_size * direction
        q, p = leapfrog(lambda x: self.potential.gradient(x, ramp), q, p, step, self.steps)
        return torch.cat([q, p], dim=-1)


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

    def forward(self, states: Tensor, direction: Tensor, ramp: float) -> Tensor:
        """See StatePredictor; an MLP has no ramp."""
        for _ in range(self.steps):
            residual = self.residual(torch.cat([states, direction], dim=-1))
            states = states + self.step_scale * residual
        return states


class IdentityPredictor(nn.Module):
    """The control: the state itself."""

    def forward(self, states: Tensor, direction: Tensor, ramp: float) -> Tensor:
        """See StatePredictor."""
        return states


def residual_ramp(predictor: Predictor, epoch: int) -> float:
    """Share of the potential's residual in an epoch (from 1): epoch / ramp_epochs, at most 1."""
    if not isinstance(predictor, LeapfrogParams) or predictor.potential.residual_ramp_epochs == 0:
        return 1.0
    return min(1.0, epoch / predictor.potential.residual_ramp_epochs)
