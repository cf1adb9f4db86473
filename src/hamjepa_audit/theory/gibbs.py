"""The best covariance as that of q under the Gibbs law of the Hamiltonian at one temperature."""

from collections.abc import Callable

import numpy as np
from scipy.linalg import block_diag, solve_triangular

from hamjepa_audit.theory.covariance import Covariance
from hamjepa_audit.theory.instances import Generator, Geometry, Matrix


def gibbs_states(geometry: Geometry, samples: int, generator: Generator) -> Matrix:
    """Draws of [q; p] with density exp(-(d/c) (q'H q + p'p) / 2), (2d, samples).

    Computed from the density's precision matrix only, without any covariance: L'x = z with L L' the
    precision and z standard normal.
    """
    d = geometry.dimension
    precision = d / geometry.budget * block_diag(geometry.matrix, np.eye(d))
    lower = np.linalg.cholesky(precision)
    noise = generator.standard_normal((2 * d, samples))
    states: Matrix = solve_triangular(lower, noise, trans="T", lower=True)
    return states


def gibbs_marginal_error(coordinates: int) -> Callable[[Geometry, Generator, Covariance], float]:
    """A check: the covariance of sampled q is the claimed one, in units of the sampling error.

    With the claimed covariance S = A A', W = A^-1 (sample covariance) A^-T has E ||W - I||_F^2 =
    d (d + 1) / n for n draws of a centred normal law; the error is ||W - I||_F over its square
    root. n is `coordinates` / d: a wrong scale shifts W equally for every d, so it is detected best
    for small d with large n.
    """

    def error(geometry: Geometry, generator: Generator, formula: Covariance) -> float:
        d = geometry.dimension
        samples = max(1, coordinates // d)
        q = gibbs_states(geometry, samples, generator)[:d]
        white = solve_triangular(np.linalg.cholesky(formula(geometry)), q, lower=True)
        distance = np.linalg.norm(white @ white.T / samples - np.eye(d))
        return float(distance / np.sqrt(d * (d + 1) / samples))

    return error
