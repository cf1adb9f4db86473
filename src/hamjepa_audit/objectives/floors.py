"""Budgets and floors that keep phase-space states from collapsing."""

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from hamjepa_audit.device_constants import device_constant
from hamjepa_audit.objectives.projected_spectrum import projected_spectrum
from hamjepa_audit.params.arms import SpectralLimits


class Moments(NamedTuple):
    """Mean and variance of every coordinate, shared by budget, variance floor and mean penalty."""

    rows: int
    """Number of rows."""
    mean: Tensor
    """(D,)."""
    variance: Tensor
    """(D,), biased."""

    def halves(self) -> "tuple[Moments, Moments]":
        """The moments of q and those of p."""
        means, variances = self.mean.chunk(2), self.variance.chunk(2)
        q, p = (Moments(self.rows, *half) for half in zip(means, variances, strict=True))
        return q, p


def moments(rows: Tensor) -> Moments:
    """Moments over rows (N, D)."""
    variance, mean = torch.var_mean(rows, dim=0, correction=0)
    return Moments(len(rows), mean, variance)


def energy_budget(q: Moments, p: Moments, q_target: float, p_target: float) -> Tensor:
    """(mean q^2 - q_target)^2 + (mean p^2 - p_target)^2, second moments not centred.

    Means are over rows and coordinates.
    """
    q_energy, p_energy = ((part.variance + part.mean.square()).mean() for part in (q, p))
    return (q_energy - q_target).square() + (p_energy - p_target).square()


def variance_floor(part: Moments, minimum_std: float, epsilon: float) -> Tensor:
    """Mean over coordinates of max(0, minimum_std - sqrt(var + epsilon))^2, biased variance.

    0 for a single row, which has no variance; epsilon keeps the square root's slope finite.
    """
    if part.rows < 2:
        return part.variance.new_zeros(())
    deviation = torch.sqrt(part.variance + epsilon)
    return torch.relu(minimum_std - deviation).square().mean()


def mean_penalty(states: Moments) -> Tensor:
    """Mean over coordinates of the squared mean over rows."""
    return states.mean.square().mean()


def logdet_floor(
    q: Tensor,
    p: Tensor,
    directions: Tensor,
    ridge: float,
    limits: tuple[SpectralLimits, SpectralLimits],
) -> Tensor:
    """Projected log-det floors of q and p with participation and top-eigenvalue terms.

    max(0, minimum_logdet - logdet)^2 + max(0, minimum_participation - participation)^2
    + max(0, top_share - maximum_top_share)^2, summed over q and p (protocol, "HamJEPA").

    Args:
        q: (N, d); fewer than two rows give 0.
        p: (N, d).
        directions: (2, d, k), for q and for p.
        ridge: added to the covariances' diagonals.
        limits: for q and for p.
    """
    if len(q) < 2:
        return q.new_zeros(())
    spectrum = projected_spectrum(torch.stack([q, p]), directions, ridge)
    # All are ceilings, and computed at once: small operations take a GPU as long as large ones.
    values = torch.stack([-spectrum.logdet, -spectrum.participation, spectrum.top_share], dim=1)
    ceilings = tuple(
        (-limit.minimum_logdet, -limit.minimum_participation, limit.maximum_top_share)
        for limit in limits
    )
    excess = torch.relu(values - device_constant(ceilings, q.device, values.dtype))
    return excess.square().sum().to(q.dtype)


def projection_count(directions: int, dimension: int, rows: int) -> int:
    """K = min(directions, d, N - 1): more would make the covariance singular."""
    return min(directions, dimension, rows - 1)


def orthonormal_directions(dimension: int, count: int, generator: Generator) -> Tensor:
    """Orthonormal columns (dimension, count) float32: Q of a Gaussian matrix, on the CPU."""
    gaussian = torch.randn(dimension, count, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(gaussian).Q.float()
