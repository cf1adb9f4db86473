"""Log-determinant, participation and top eigenvalue of projected covariances."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from hamjepa_audit.cuda_graphs import alongside

GUARD = 1e-12
"""Added to the denominators of participation and top share, as in the author's code."""


class ProjectedSpectrum(NamedTuple):
    """Spectrum of projected covariances with ridge, one entry per batch element."""

    logdet: Tensor
    """log det(C) / k."""
    participation: Tensor
    """tr(C)^2 / tr(C^2) / k, in (0, 1]."""
    top_share: Tensor
    """lmax(C) / tr(C), in (0, 1]."""


def projected_spectrum(rows: Tensor, directions: Tensor, ridge: float) -> ProjectedSpectrum:
    """Spectrum of C = covariance (n - 1) of rows projected on k directions, plus ridge * I.

    In float64 from the projection on, because rounding of huge features would fill collapsed
    directions; without an eigendecomposition, which is slow on a GPU and makes the host wait.
    All statistics are of C *with* the ridge (protocol, "Where a reading goes wrong").

    Args:
        rows: (..., N, d), N >= 2.
        directions: (..., d, k), orthonormal columns.
        ridge: added to the diagonal.

    Returns:
        Tensors of shape (...), differentiable once. `logdet` is NaN where the factorisation fails:
        of rows that aren't finite, or of far larger ones than it is exact for.
    """
    rows = rows.double()
    projected = (rows - rows.mean(dim=-2, keepdim=True)) @ directions.double()
    scaled = projected.mT / math.sqrt(projected.shape[-2] - 1)
    k = scaled.shape[-2]
    covariance = scaled @ scaled.mT + ridge * _identity(scaled)
    with alongside(rows.device, lane=2) as wait_for_top:
        top = _top_eigenvalue(covariance)
    logdet: Tensor = _LogDeterminant.apply(scaled, ridge, covariance.detach())
    trace = _trace(covariance)
    participation = trace.square() / (covariance.square().sum(dim=(-2, -1)) + GUARD) / k
    wait_for_top()
    return ProjectedSpectrum(logdet / k, participation, top / (trace + GUARD))


class _LogDeterminant(Function):
    """Logarithm of det(F F^T + ridge * I), exact also for one huge and one collapsed direction.

    Exact to 1e-4 for features of up to 1e10; from 4e9 on HamJEPA's budget overflows float32.
    `matrix` is that sum, in which rounding may have drowned the ridge. For any invertible L its
    log det is 2 log det(L) + log det(L^-1 F F^T L^-T + ridge L^-1 L^-T). Here L is the Cholesky
    factor of the matrix, raised so that it is definite whatever its rounding. The second matrix,
    computed from F itself, has no large eigenvalues in which its small ones could drown.

    The gradient with respect to F is 2 (F F^T + ridge * I)^-1 F; autograd would go through the
    second factorisation, which takes a GPU several times as long.
    """

    @staticmethod
    def forward(ctx: Any, factor: Tensor, ridge: float, matrix: Tensor) -> Tensor:
        """The logarithm (...), NaN where a factorisation fails.

        Args:
            ctx: keeps what `backward` needs.
            factor: F, (..., k, N) float64.
            ridge: above 0.
            matrix: (..., k, k).
        """
        k, count = factor.shape[-2:]
        identity = _identity(factor)
        rounding = (count + k) * torch.finfo(matrix.dtype).eps * _trace(matrix)
        first = torch.linalg.cholesky_ex(matrix + rounding[..., None, None] * identity)
        inverse = torch.linalg.solve_triangular(first.L, identity, upper=False)
        whitened = inverse @ factor
        second = torch.linalg.cholesky_ex(whitened @ whitened.mT + ridge * (inverse @ inverse.mT))
        factors = torch.stack([first.L, second.L]).diagonal(dim1=-2, dim2=-1)
        # The error codes stay on the device; torch.linalg.cholesky would wait to read them.
        definite = (first.info == 0) & (second.info == 0)
        ctx.save_for_backward(factor, inverse, second.L)
        return torch.where(definite, 2 * factors.log().sum(dim=(0, -1)), torch.nan)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of F times `upstream` (...).

        Raises:
            RuntimeError: second derivatives are requested (create_graph=True).
        """
        if torch.is_grad_enabled():
            raise RuntimeError(
                "projected_spectrum has no second derivative: leave out create_graph"
            )
        factor, inverse, second = ctx.saved_tensors
        # The product of both factors' inverses: root^T root is the inverse of the sum.
        root = torch.linalg.solve_triangular(second, inverse, upper=False)
        return 2 * upstream[..., None, None] * (root.mT @ (root @ factor)), None, None


def _top_eigenvalue(matrix: Tensor) -> Tensor:
    """Largest eigenvalue of positive definite matrices (..., k, k).

    The mean of the eigenvalues l_i with weights l_i^m, m = 2^20: relative to the largest it is
    low by at most the sum over the others of (1 - x) x^m, x = l_i / lmax, which is below
    1 / (e m) for each and 0 to rounding where they are 0.004% smaller. The gradient is that of the
    largest eigenvalue, or of the mean over several that can't be told apart.
    """
    with torch.no_grad():
        power = matrix
        for _ in range(4):  # rescaled in between, before k^-32 of the scale could underflow
            power = torch.linalg.matrix_power(power / _trace(power)[..., None, None], 32)
        weights = power / _trace(power)[..., None, None]
    return (matrix * weights).sum(dim=(-2, -1))


def _trace(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1).sum(dim=-1)


def _identity(factor: Tensor) -> Tensor:
    return torch.eye(factor.shape[-2], dtype=factor.dtype, device=factor.device)
