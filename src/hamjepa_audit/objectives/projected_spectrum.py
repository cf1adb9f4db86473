"""Log-determinant, participation and top eigenvalue of projected covariances."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from hamjepa_audit.cuda_graphs import alongside
from hamjepa_audit.device_constants import device_identity
from hamjepa_audit.first_derivatives import refuse_second_derivative

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
        Tensors of shape (...); rows have first derivatives, directions none. `logdet` is NaN where
        the factorisation fails: of rows that aren't finite, or of far larger ones than it is exact
        for.
    """
    return ProjectedSpectrum(*_Spectrum.apply(rows, directions, ridge))


class _Spectrum(Function):
    """The statistics of C = F^T F + ridge * I, and their gradient in closed form.

    F are the projected rows without their mean, divided by sqrt(n - 1). The gradients with respect
    to C are C^-1 for log det, 2 P (I / tr(C) - C / tr(C^2)) for P = tr(C)^2 / tr(C^2), W for lmax
    with the weights W of `_top_weights`, and I for the trace; dC = G gives dF = 2 F G. Autograd
    would go through the second factorisation and many small operations, which take a GPU several
    times as long.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, directions: Tensor, ridge: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The statistics; see `projected_spectrum`."""
        directions = directions.double()
        factor = rows.double() @ directions
        # Centred when projected, which is less work; of a mean, 16 digits remain.
        factor.sub_(factor.mean(dim=-2, keepdim=True)).div_(math.sqrt(rows.shape[-2] - 1))
        matrix = factor.mT @ factor
        _diagonal(matrix).add_(ridge)
        trace = _diagonal(matrix).sum(dim=-1)
        k = matrix.shape[-1]
        with alongside(rows.device, lane=2) as wait:
            weights = _top_weights(matrix)
            guarded_trace = trace + GUARD
            top_share = (matrix * weights).sum(dim=(-2, -1)) / guarded_trace
            squares = matrix.square().sum(dim=(-2, -1)) + GUARD
            participation = trace.square() / squares / k
        logdet, *inverse = _log_determinant(factor, ridge, matrix, trace)
        wait()
        ctx.dtype = rows.dtype
        ctx.save_for_backward(
            directions, factor, *inverse, matrix, weights,
            trace, squares, participation, guarded_trace, top_share,
        )  # fmt: skip
        return logdet / k, participation, top_share

    @staticmethod
    def backward(
        ctx: Any, of_logdet: Tensor, of_participation: Tensor, of_top_share: Tensor
    ) -> tuple[Tensor, None, None]:
        """The gradient of the rows, given those of the statistics (...).

        Raises:
            RuntimeError: second derivatives are requested (create_graph=True).
        """
        refuse_second_derivative("projected_spectrum")
        directions, factor, first, second, matrix, weights, *scalars = ctx.saved_tensors
        trace, squares, participation, guarded_trace, top_share = scalars
        with alongside(factor.device, lane=2) as wait:
            pull, of_top = 2 * of_participation * participation, of_top_share / guarded_trace
            of_matrix = of_top[..., None, None] * weights
            of_matrix -= (pull / squares)[..., None, None] * matrix
            _diagonal(of_matrix).add_((pull / trace - of_top * top_share)[..., None])
        # The product of both factors' inverses: root^T root is C^-1. Computed from C^-1 itself,
        # the gradient of a collapsed direction would drown in the rounding of a huge one.
        root = torch.linalg.solve_triangular(second, first, upper=False)
        whitened = (factor @ root.mT) * (of_logdet / factor.shape[-1])[..., None, None]
        of_factor = whitened @ root
        wait()
        # Its mean over rows is 0, as that of `factor` is: centring would change nothing.
        of_factor.add_(factor @ of_matrix).mul_(2 / math.sqrt(factor.shape[-2] - 1))
        return (of_factor @ directions.mT).to(ctx.dtype), None, None


def _log_determinant(
    factor: Tensor, ridge: float, matrix: Tensor, trace: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Log det(F^T F + ridge * I), exact also for one huge and one collapsed direction.

    Exact to 1e-4 for features of up to 1e10; from 4e9 on HamJEPA's budget overflows float32.
    `matrix` is that sum, in which rounding may have drowned the ridge. For any invertible L its
    log det is 2 log det(L) + log det(L^-1 F^T F L^-T + ridge L^-1 L^-T). Here L is the Cholesky
    factor of the matrix, raised so that it is definite whatever its rounding. The second matrix,
    computed from F itself, has no large eigenvalues in which its small ones could drown.

    Args:
        factor: F, (..., N, k) float64.
        ridge: above 0.
        matrix: (..., k, k).
        trace: of the matrix, (...).

    Returns:
        The logarithm (...), NaN where a factorisation fails; L^-1 (..., k, k); and the second
        matrix's Cholesky factor (..., k, k).
    """
    rows, k = factor.shape[-2:]
    raised = matrix.clone()
    _diagonal(raised).add_((trace * ((rows + k) * torch.finfo(trace.dtype).eps))[..., None])
    first = torch.linalg.cholesky_ex(raised)
    inverse = torch.linalg.solve_triangular(first.L, device_identity(k, raised.device), upper=False)
    whitened = inverse @ factor.mT
    second = torch.linalg.cholesky_ex(whitened @ whitened.mT + ridge * (inverse @ inverse.mT))
    # The error codes stay on the device; torch.linalg.cholesky would wait to read them.
    failed = (first.info | second.info) != 0
    root = (_diagonal(first.L) * _diagonal(second.L)).log().sum(dim=-1)
    return (2 * root).masked_fill_(failed, torch.nan), inverse, second.L


def _top_weights(matrix: Tensor) -> Tensor:
    """Weights W with sum(C * W) = the largest eigenvalue of positive definite C (..., k, k).

    That sum is the mean of the eigenvalues l_i with weights l_i^m, m = 2^20: relative to the
    largest it is low by at most the sum over the others of (1 - x) x^m, x = l_i / lmax, which is
    below 1 / (e m) for each and 0 to rounding where they are 0.004% smaller. W is the gradient of
    the largest eigenvalue, or of the mean over several that can't be told apart.
    """
    power = matrix
    for _ in range(4):  # rescaled in between, before k^-32 of the scale could underflow
        power = torch.linalg.matrix_power(_over_trace(power), 32)
    return _over_trace(power)


def _over_trace(matrix: Tensor) -> Tensor:
    return matrix / _diagonal(matrix).sum(dim=-1)[..., None, None]


def _diagonal(matrix: Tensor) -> Tensor:
    """The diagonals of matrices (..., k, k), in their memory: (..., k)."""
    return matrix.diagonal(dim1=-2, dim2=-1)
