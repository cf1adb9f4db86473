"""Spectrum of the features' covariance, exact and by the author's randomised method."""

import torch
from torch import Generator, Tensor

SMALLEST_EIGENVALUE = 1e-12
SMALLEST_SQUARE = 1e-12


def covariance_eigenvalues(features: Tensor, count: int) -> Tensor:
    """The largest eigenvalues of the covariance (n - 1), exact, in float64.

    Computed from the smaller of the covariance (D, D) and the rows' Gram matrix (N, N), which
    share all non-zero eigenvalues.

    Args:
        features: (N, D).
        count: number of eigenvalues; at most D and N - 1 (at least 1) exist.

    Returns:
        (min(count, D, max(1, N - 1)),) float64, descending, not below 1e-12.
    """
    centred = _centred(features)
    rows, width = centred.shape
    gram = centred.T @ centred if width <= rows else centred @ centred.T
    squares = torch.linalg.eigvalsh(gram).flip(0)
    return _eigenvalues(squares[: _available(count, centred)], rows)


def lowrank_eigenvalues(
    features: Tensor, count: int, power_iterations: int, generator: Generator
) -> Tensor:
    """As `covariance_eigenvalues`, by randomised SVD without oversampling, as in the paper.

    It underestimates the eigenvalues, most in the tail (protocol, "Evaluation"). The CPU generator
    draws the (D, components) Gaussian test matrix; `power_iterations` are rounds of subspace
    iteration.
    """
    centred = _centred(features)
    shape = (centred.shape[1], _available(count, centred))
    test_matrix = torch.randn(shape, generator=generator, dtype=torch.float64).to(centred.device)
    basis = torch.linalg.qr(centred @ test_matrix).Q
    for _ in range(power_iterations):  # Halko, Martinsson, Tropp (2011), algorithm 4.4
        basis = torch.linalg.qr(centred.T @ basis).Q
        basis = torch.linalg.qr(centred @ basis).Q
    return _eigenvalues(torch.linalg.svdvals(basis.T @ centred).square(), len(centred))


def effective_rank(eigenvalues: Tensor) -> float:
    """exp(entropy of the eigenvalues normalised to sum 1): (q,) positive -> [1, q].

    Features without variance have q equal eigenvalues, all of the smallest size that these have
    by the author's definition, and so the largest rank; their participation ratio is nearly 0.
    """
    shares = eigenvalues / eigenvalues.sum()
    return float(torch.special.entr(shares).sum().exp())


def participation_ratio(eigenvalues: Tensor) -> float:
    """(sum)^2 / max(sum of squares, 1e-12): (q,) positive -> at most q.

    The guard, from the author's definition, makes it nearly 0 for features without variance.
    """
    squares = eigenvalues.square().sum().clamp(min=SMALLEST_SQUARE)
    return float(eigenvalues.sum().square() / squares)


def _centred(features: Tensor) -> Tensor:
    centred = features.double()
    return centred - centred.mean(dim=0)


def _available(count: int, centred: Tensor) -> int:
    rows, width = centred.shape
    return min(count, width, max(1, rows - 1))


def _eigenvalues(squared_singular_values: Tensor, rows: int) -> Tensor:
    return (squared_singular_values / max(1, rows - 1)).clamp(min=SMALLEST_EIGENVALUE)
