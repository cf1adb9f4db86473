"""RDMReg: sliced two-sample distance to a rectified generalised Gaussian (arXiv 2602.01456)."""

import numpy as np
import torch
from torch import Tensor


def sliced_wasserstein(states: Tensor, target: Tensor, directions: Tensor) -> Tensor:
    """Squared 2-Wasserstein distance of projections, mean over directions and leading axes.

    In one dimension, the optimal coupling of two samples of equal size pairs their sorted values.

    Args:
        states: (..., N, D); leading axes are independent samples.
        target: (N, D), the sample that each of them is compared with.
        directions: (D, M), columns of unit length.

    Returns:
        A scalar.
    """
    ours = states @ directions
    theirs = (target @ directions).sort(dim=-2).values.expand_as(ours)
    # Reordering the target by our ranks, instead of sorting ours, leaves only the projection to
    # differentiate: ranks are locally constant.
    ranks = ours.detach().argsort(dim=-2, stable=True).argsort(dim=-2)
    return (ours - theirs.gather(-2, ranks)).square().mean()


def rectified_generalised_gaussian(
    rows: int,
    columns: int,
    shape: float,
    location: float,
    scale: float,
    generator: np.random.Generator,
) -> Tensor:
    """Independent draws of ReLU(x), x generalised Gaussian: (rows, columns) float32 on the CPU.

    x has the density p^(1 - 1/p) / (2 s Gamma(1/p)) exp(-|x - m|^p / (p s^p)) with shape p,
    location m, scale s: Gaussian for p = 2, Laplace for p = 1. It is drawn through
    |x - m|^p / (p s^p), which is Gamma(1/p) distributed.
    """
    gamma = generator.standard_gamma(1 / shape, (rows, columns), dtype=np.float32)
    magnitude = scale * (shape * gamma) ** (1 / shape)
    sign = np.where(generator.random((rows, columns), dtype=np.float32) < 0.5, -1.0, 1.0)
    values = np.maximum(location + sign * magnitude, 0.0)
    return torch.from_numpy(values.astype(np.float32))
