"""The Jacobian of a map of phase space, and measures of its deviation from symplecticity."""

from collections.abc import Callable

import torch
from torch import Tensor


@torch.enable_grad()
def jacobian(function: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    """The Jacobian of a row-wise map at one point: (n,) -> (m, n), row i the gradient of output i.

    Computed in one backward pass through m equal rows, each of which gives one output's gradient.
    """
    outputs = function(point[None]).shape[1]
    rows = point.detach().expand(outputs, -1).clone().requires_grad_()
    (gradients,) = torch.autograd.grad(function(rows).diagonal().sum(), rows)
    return gradients


def symplecticity_defect(jacobian: Tensor) -> Tensor:
    """||J' Omega J - Omega||_F / ||Omega||_F, with Omega = [[0, I], [-I, 0]].

    Zero exactly if the map preserves the symplectic form sum dq_i ^ dp_i at that point. Dividing by
    the norm of Omega, sqrt(2d), makes maps of different dimensions comparable.

    Args:
        jacobian: (..., 2d, 2d), of new [q; p] with respect to old [q; p]; any floating dtype.

    Returns:
        (...), dimensionless, in the dtype of `jacobian`.
    """
    form = symplectic_form(jacobian)
    pulled_back = jacobian.mT @ apply_symplectic_form(jacobian)
    norm = torch.linalg.matrix_norm
    return norm(pulled_back - form) / norm(form)


def log_abs_determinant(jacobian: Tensor) -> Tensor:
    """Log |det J|, 0 if the map preserves volume, mirrored or not: (..., n, n) -> (...)."""
    return torch.linalg.slogdet(jacobian).logabsdet


def volume_defect(jacobian: Tensor) -> Tensor:
    """|log det J|, infinite if det J is not positive: (..., n, n) -> (...).

    Zero if volume and orientation are preserved, as by every symplectic J.
    """
    sign, logarithm = torch.linalg.slogdet(jacobian)
    return torch.where(sign > 0, logarithm.abs(), torch.inf)


def reciprocity_defect(jacobian: Tensor) -> Tensor:
    """Deviation of singular values from pairs (s, 1/s): max over i of |log s_i + log s_(n+1-i)|.

    Zero for every symplectic J: Omega J Omega^-1 is the inverse transpose of J, so that J and its
    inverse have the same singular values.

    Args:
        jacobian: (..., 2d, 2d), invertible.

    Returns:
        (...), dimensionless.
    """
    logarithms = torch.linalg.svdvals(jacobian).log()  # descending
    return (logarithms + logarithms.flip(-1)).abs().amax(-1)


def symplectic_form(like: Tensor) -> Tensor:
    """Omega = [[0, I], [-I, 0]], (2d, 2d), of the size, dtype and device of (..., 2d, 2d)."""
    identity = torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
    return apply_symplectic_form(identity)


def apply_symplectic_form(matrix: Tensor) -> Tensor:
    """Omega times a matrix, (..., 2d, n): swaps its two halves of rows, negates the new lower."""
    upper, lower = matrix.chunk(2, dim=-2)
    return torch.cat([lower, -upper], dim=-2)
