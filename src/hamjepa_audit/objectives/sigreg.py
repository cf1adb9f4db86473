"""SIGReg: sliced Epps-Pulley statistics against the standard normal."""

import math
from typing import Any

import torch
from torch import Generator, Tensor
from torch.autograd import Function
from torch.nn import functional

from hamjepa_audit.first_derivatives import refuse_second_derivative


def epps_pulley(samples: Tensor, knots: int, maximum_frequency: float) -> Tensor:
    """Epps-Pulley statistic of each column against N(0, 1) (protocol, "SIGReg").

    N * sum_j w_j [(mean cos(t_j x) - exp(-t_j^2/2))^2 + (mean sin(t_j x))^2] with t_j equally
    spaced on [0, T], w_j the weight of the trapezoidal rule, doubled for the negative half line,
    times exp(-t_j^2/2). Memory is a few copies of the samples for any number of knots.

    Args:
        samples: (..., N, K): N samples of K projections; leading axes are independent tests.
        knots: number of t_j, at least 2.
        maximum_frequency: T.

    Returns:
        (..., K). It grows with N for samples that aren't standard normal; differentiable once.
    """
    spacing = maximum_frequency / (knots - 1)
    # At frequency 0 both characteristic functions are 1, whatever the samples.
    frequencies = [spacing * knot for knot in range(1, knots)]
    trapezoid = [2 * spacing] * (knots - 2) + [spacing]
    targets = [math.exp(-0.5 * t * t) for t in frequencies]
    weights = [weight * target for weight, target in zip(trapezoid, targets, strict=True)]
    statistic: Tensor = _EppsPulley.apply(samples, frequencies, targets, weights)
    return statistic


class _EppsPulley(Function):
    """The weighted sum over frequencies, one at a time; `backward` recomputes the sines.

    Autograd would keep angles and sines of all frequencies for the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        samples: Tensor,
        frequencies: list[float],
        targets: list[float],
        weights: list[float],
    ) -> Tensor:
        misses = []
        for frequency, target in zip(frequencies, targets, strict=True):
            angles = frequency * samples
            misses.append((angles.cos().mean(dim=-2) - target, angles.sin().mean(dim=-2)))
        ctx.save_for_backward(samples, *(part for miss in misses for part in miss))
        ctx.factors = [2 * weight * t for weight, t in zip(weights, frequencies, strict=True)]
        ctx.frequencies = frequencies
        terms = [
            weight * (real.square() + imaginary.square())
            for weight, (real, imaginary) in zip(weights, misses, strict=True)
        ]
        return samples.shape[-2] * torch.stack(terms).sum(dim=0)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        refuse_second_derivative("epps_pulley")
        samples, *misses = ctx.saved_tensors
        gradient = torch.zeros_like(samples)
        parts = zip(ctx.frequencies, ctx.factors, misses[0::2], misses[1::2], strict=True)
        for frequency, factor, real, imaginary in parts:
            angles = frequency * samples
            gradient.addcmul_(angles.cos(), imaginary.unsqueeze(-2), value=factor)
            gradient.addcmul_(angles.sin_(), real.unsqueeze(-2), value=-factor)
        return gradient * upstream.unsqueeze(-2), None, None, None


def sigreg(states: Tensor, directions: Tensor, knots: int, maximum_frequency: float) -> Tensor:
    """Mean Epps-Pulley statistic over views and directions.

    Args:
        states: (V, B, D); each view is tested separately, N = B.
        directions: (D, M), columns of unit length.
        knots: as in `epps_pulley`.
        maximum_frequency: as in `epps_pulley`.

    Returns:
        A scalar.
    """
    return epps_pulley(states @ directions, knots, maximum_frequency).mean()


def unit_directions(dimension: int, count: int, generator: Generator) -> Tensor:
    """Columns uniform on the unit sphere: (dimension, count) float32, on the generator's device."""
    raw = torch.randn(dimension, count, generator=generator, device=generator.device)
    return functional.normalize(raw, dim=0)
