"""SIGReg: sliced Epps-Pulley statistics against the standard normal."""

import torch
from torch import Generator, Tensor
from torch.nn import functional


def epps_pulley(samples: Tensor, knots: int, maximum_frequency: float) -> Tensor:
    """Epps-Pulley statistic of each column against N(0, 1) (protocol, "SIGReg").

    N * sum_j w_j [(mean cos(t_j x) - exp(-t_j^2/2))^2 + (mean sin(t_j x))^2] with t_j equally
    spaced on [0, T], w_j the trapezoid's weight, doubled for the negative half line, times
    exp(-t_j^2/2).

    Args:
        samples: (..., N, K): N samples of K projections; leading axes are independent tests.
        knots: number of t_j, at least 2.
        maximum_frequency: T.

    Returns:
        (..., K). It grows with N for samples that aren't standard normal.
    """
    frequencies = torch.linspace(
        0.0, maximum_frequency, knots, dtype=samples.dtype, device=samples.device
    )
    target = torch.exp(-0.5 * frequencies.square())
    weights = _trapezoid_weights(frequencies) * target
    angles = samples.unsqueeze(-1) * frequencies
    real = angles.cos().mean(dim=-3) - target
    imaginary = angles.sin().mean(dim=-3)
    return samples.shape[-2] * ((real.square() + imaginary.square()) @ weights)


def _trapezoid_weights(frequencies: Tensor) -> Tensor:
    """Trapezoid weights on [0, T], doubled; the end points count once."""
    spacing = frequencies[1] - frequencies[0]
    weights = (2 * spacing).expand_as(frequencies).clone()
    weights[0] = weights[-1] = spacing
    return weights


def sigreg(states: Tensor, directions: Tensor, knots: int, maximum_frequency: float) -> Tensor:
    """Mean Epps-Pulley statistic over views and directions.

    Args:
        states: (V, B, D); each view is tested by itself, N = B.
        directions: (D, M), columns of unit length.
        knots: as in `epps_pulley`.
        maximum_frequency: as in `epps_pulley`.

    Returns:
        A scalar.
    """
    return epps_pulley(states @ directions, knots, maximum_frequency).mean()


def unit_directions(dimension: int, count: int, generator: Generator) -> Tensor:
    """(dimension, count) float32 columns, uniform on the unit sphere, on the generator's device."""
    raw = torch.randn(dimension, count, generator=generator, device=generator.device)
    return functional.normalize(raw, dim=0)
