"""VICReg's variance and covariance terms (Bardes, Ponce, LeCun 2022)."""

import torch
from torch import Tensor


def variance_hinge(rows: Tensor, minimum_std: float, epsilon: float) -> Tensor:
    """Mean over coordinates of max(0, minimum_std - sqrt(var + epsilon)) (their eq. 1 and 2).

    Args:
        rows: (..., N, D), N >= 2; leading axes are independent batches. The variance is unbiased.
        minimum_std: gamma.
        epsilon: keeps the square root's slope finite.

    Returns:
        (...).
    """
    deviation = torch.sqrt(rows.var(dim=-2) + epsilon)
    return torch.relu(minimum_std - deviation).mean(dim=-1)


def covariance_penalty(rows: Tensor) -> Tensor:
    """Sum of squared off-diagonal covariances (n - 1), divided by D (their eq. 3 and 4).

    Args:
        rows: (..., N, D), N >= 2; leading axes are independent batches.

    Returns:
        (...).
    """
    centred = rows - rows.mean(dim=-2, keepdim=True)
    covariance = centred.mT @ centred / (rows.shape[-2] - 1)
    diagonal = covariance.diagonal(dim1=-2, dim2=-1)
    off_diagonal = covariance - torch.diag_embed(diagonal)
    return off_diagonal.square().sum(dim=(-2, -1)) / rows.shape[-1]
