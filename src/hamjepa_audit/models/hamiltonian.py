"""The separable Hamiltonian H(q, p) = |p|^2 / 2 + V(q) with a learned potential."""

import itertools

from torch import Generator, Tensor, nn
from torch.nn import functional

from hamjepa_audit.models.initialisation import initialise
from hamjepa_audit.models.input_gradient import InputGradient
from hamjepa_audit.models.leapfrog_flow import LeapfrogFlow
from hamjepa_audit.params.arms import PotentialParams


class MultilayerPerceptron(nn.Module):
    """Linear layers with exact GELU between them: (N, sizes[0]) -> (N, sizes[-1])."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(sizes))

    @property
    def layers(self) -> list[nn.Linear]:
        """The linear layers, first to last."""
        return [layer for layer in self.linears if isinstance(layer, nn.Linear)]

    def forward(self, x: Tensor) -> Tensor:
        """(N, sizes[0]) -> (N, sizes[-1])."""
        *hidden, last = self.layers
        for layer in hidden:
            x = functional.gelu(layer(x))
        result: Tensor = last(x)
        return result

    def input_gradient(self, x: Tensor, stiffness: float, scale: float | Tensor) -> Tensor:
        """Stiffness * x + scale * gradient of the scalar output (sizes[-1] = 1): (N, sizes[0]).

        In closed form, one pass forward and one back, instead of autograd's double backward.
        """
        result: Tensor = InputGradient.apply(x, stiffness, scale, *self.slope_parameters())
        return result

    def slope_parameters(self) -> list[Tensor]:
        """What the gradient depends on: the last layer's weights, and all of the others'."""
        *hidden, last = self.layers
        return [last.weight, *(part for layer in hidden for part in (layer.weight, layer.bias))]


class Potential(nn.Module):
    """V(q) = stiffness/2 |q|^2 + residual_scale * ramp * f(q), f an MLP with exact GELU."""

    def __init__(self, params: PotentialParams, dimension: int, generator: Generator) -> None:
        super().__init__()
        self.stiffness = params.stiffness
        self.residual_scale = params.residual_scale
        hidden = [params.hidden_width] * params.hidden_layers
        self.residual = MultilayerPerceptron([dimension, *hidden, 1])
        initialise(self, generator)

    def forward(self, q: Tensor, ramp: float | Tensor = 1.0) -> Tensor:
        """V(q) per row: (N, d) -> (N,)."""
        residual = self.residual_scale * ramp * self.residual(q).squeeze(-1)
        return 0.5 * self.stiffness * q.square().sum(-1) + residual

    def gradient(self, q: Tensor, ramp: float | Tensor = 1.0) -> Tensor:
        """Gradient of V per row: (N, d) -> (N, d)."""
        return self.residual.input_gradient(q, self.stiffness, self.residual_scale * ramp)

    def leapfrog(self, states: Tensor, step: Tensor, steps: int, ramp: float | Tensor) -> Tensor:
        """States [q; p] after leapfrog steps in V, as by `integrators.leapfrog`, for training.

        Args:
            states: (N, 2d).
            step: (N, 1), signed step sizes.
            steps: number of steps, at least 1.
            ramp: as in `forward`.

        Returns:
            (N, 2d), differentiable once.
        """
        scale = self.residual_scale * ramp
        result: Tensor = LeapfrogFlow.apply(
            states, step, steps, self.stiffness, scale, *self.residual.slope_parameters()
        )
        return result


def energy(potential: Potential, states: Tensor, ramp: float | Tensor = 1.0) -> Tensor:
    """H of states [q; p]: (N, 2d) -> (N,)."""
    q, p = states.chunk(2, dim=-1)
    return 0.5 * p.square().sum(-1) + potential(q, ramp)
