"""Budgets and floors that keep phase-space states from collapsing."""

from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.autograd import Function

from hamjepa_audit.device_constants import device_constant
from hamjepa_audit.first_derivatives import refuse_second_derivative
from hamjepa_audit.objectives.projected_spectrum import projected_spectrum
from hamjepa_audit.params.arms import SpectralLimits


class Moments(NamedTuple):
    """Mean and variance of every coordinate, shared by budget, variance floor and mean penalty."""

    rows: int
    """Number of rows."""
    mean: Tensor
    """(..., D)."""
    variance: Tensor
    """(..., D), biased."""


def moments(rows: Tensor) -> Moments:
    """Moments over rows (N, ..., D), differentiable once."""
    mean, variance = _MeanAndVariance.apply(rows)
    return Moments(len(rows), mean, variance)


class _MeanAndVariance(Function):
    """Over the first axis. The gradient takes one pass over the rows, autograd's takes five."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
        variance, mean = torch.var_mean(rows, dim=0, correction=0)
        ctx.save_for_backward(rows, mean)
        return mean, variance

    @staticmethod
    def backward(ctx: Any, of_mean: Tensor, of_variance: Tensor) -> Tensor:
        refuse_second_derivative("moments")
        rows, mean = ctx.saved_tensors
        slope = of_variance * (2 / len(rows))
        return torch.addcmul((of_mean / len(rows)).addcmul_(slope, mean, value=-1), slope, rows)


def energy_budget(halves: Moments, q_target: float, p_target: float) -> Tensor:
    """(mean q^2 - q_target)^2 + (mean p^2 - p_target)^2, second moments not centred.

    Means are over rows and coordinates; moments are those of q and p, (2, d).
    """
    energies = torch.addcmul(halves.variance, halves.mean, halves.mean).mean(dim=-1)
    targets = device_constant((q_target, p_target), energies.device, energies.dtype)
    return (energies - targets).square().sum()


def variance_floor(part: Moments, minimum_std: float, epsilon: float) -> Tensor:
    """Mean over coordinates of max(0, minimum_std - sqrt(var + epsilon))^2, biased variance.

    0 for a single row, which has no variance; epsilon keeps the square root's slope finite.

    Returns:
        (...) for moments (..., D).
    """
    if part.rows < 2:
        return part.variance.new_zeros(part.variance.shape[:-1])
    deviation = torch.sqrt(part.variance + epsilon)
    return torch.relu(minimum_std - deviation).square().mean(dim=-1)


def mean_penalty(states: Moments) -> Tensor:
    """Mean over coordinates of the squared mean over rows."""
    return states.mean.square().mean()


def logdet_floor(
    halves: Tensor,
    directions: Tensor,
    ridge: float,
    limits: tuple[SpectralLimits, SpectralLimits],
) -> Tensor:
    """Projected log-det floors of q and p with participation and top-eigenvalue terms.

    max(0, minimum_logdet - logdet)^2 + max(0, minimum_participation - participation)^2
    + max(0, top_share - maximum_top_share)^2, summed over q and p (protocol, "HamJEPA").

    Args:
        halves: q and p, (2, N, d); fewer than two rows give 0.
        directions: (2, d, k), for q and for p.
        ridge: added to the covariances' diagonals.
        limits: for q and for p.
    """
    if halves.shape[1] < 2:
        return halves.new_zeros(())
    spectrum = projected_spectrum(halves, directions, ridge)
    # All are ceilings, and computed at once: small operations take a GPU as long as large ones.
    values = torch.stack([-spectrum.logdet, -spectrum.participation, spectrum.top_share], dim=1)
    ceilings = tuple(
        (-limit.minimum_logdet, -limit.minimum_participation, limit.maximum_top_share)
        for limit in limits
    )
    excess = torch.relu(values - device_constant(ceilings, halves.device, values.dtype))
    return excess.square().sum().to(halves.dtype)


def projection_count(directions: int, dimension: int, rows: int) -> int:
    """K = min(directions, d, N - 1): more would make the covariance singular."""
    return min(directions, dimension, rows - 1)


def orthonormal_directions(dimension: int, count: int, generator: Generator) -> Tensor:
    """Orthonormal columns (dimension, count) float32: Q of a Gaussian matrix, on the CPU."""
    gaussian = torch.randn(dimension, count, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(gaussian).Q.float()
