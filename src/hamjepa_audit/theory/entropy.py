"""The maximum-entropy law on a budget E[q'H q] = c: normal, with covariance (c/d) H^-1."""

import math

import numpy as np
from scipy import stats

from hamjepa_audit.theory.covariance import Covariance, covariance_distance, descend
from hamjepa_audit.theory.instances import Generator, Geometry, Matrix, covariance_on_budget

SAMPLES_PER_DIMENSION = (1, 4, 16)
"""Samples per dimension of competing covariances: few give distant ones, many give near ones."""

NEIGHBOUR_SIZES = (0.1, 0.01, 0.001)
"""Largest eigenvalues of perturbations of the claimed covariance, to test for a local maximum."""

COMPETITORS = (
    stats.uniform(scale=math.sqrt(12)),
    stats.laplace(scale=math.sqrt(0.5)),
    stats.logistic(scale=math.sqrt(3) / math.pi),
    stats.t(df=5, scale=math.sqrt(3 / 5)),
    stats.expon(),
)
"""Laws of one coordinate with variance 1 that are not normal."""


NORMAL_ENTROPY = 0.5 * math.log(2 * math.pi * math.e)
"""Differential entropy, in nats, of a normal coordinate with variance 1."""


def entropy_per_dimension(covariance: Matrix, coordinate_entropy: float) -> float:
    """Entropy per dimension, in nats, of q = A z with A A' = S: log|det A| / d + h(z).

    The coordinates of z are independent, each of variance 1 and entropy h(z).
    """
    logdet = np.linalg.slogdet(covariance)[1]
    return 0.5 * float(logdet) / len(covariance) + coordinate_entropy


def maximum_entropy_optimiser_error(
    geometry: Geometry, generator: Generator, formula: Covariance
) -> float:
    """A check: direct maximisation of log det S on the budget finds the claimed S; relative."""
    dimension = geometry.dimension

    def objective(z: Matrix) -> tuple[float, Matrix]:
        # -log det(Z Z' / tr): S is C^-T Z Z' C^-1 up to the budget.
        trace = np.sum(z**2)
        value = dimension * np.log(trace) - 2 * np.linalg.slogdet(z)[1]
        return value, 2 * dimension * z / trace - 2 * np.linalg.inv(z).T

    return covariance_distance(geometry, descend(geometry, generator, objective), formula(geometry))


def neighbours(geometry: Geometry, covariance: Matrix, generator: Generator) -> list[Matrix]:
    """Covariances near S on the budget: A (I +- P) A', rescaled, with A A' = S and P traceless.

    P is symmetric and random, one for each of NEIGHBOUR_SIZES. If S is a multiple of H^-1, they
    cost as much as S; for any other S on the budget, one of the signs gives a larger log det if P
    is small.
    """
    dimension = geometry.dimension
    factor = np.linalg.cholesky(covariance)
    found = []
    for size in NEIGHBOUR_SIZES:
        drawn = generator.standard_normal((dimension, dimension))
        traceless = drawn + drawn.T - 2 * np.trace(drawn) / dimension * np.eye(dimension)
        step = size / np.linalg.norm(traceless, 2) * (factor @ traceless @ factor.T)
        for moved in (covariance + step, covariance - step):
            found.append(geometry.budget / np.sum(geometry.matrix * moved) * moved)
    return found


def maximum_entropy_competitor_error(
    geometry: Geometry, generator: Generator, formula: Covariance
) -> float:
    """By how much a competitor on the budget has more entropy, or the claim misses the budget.

    In nats per dimension, and as a share of the budget. Competitors are normal laws with other
    covariances, distant and near, and non-normal laws with distant ones and with the claimed one.
    """
    claimed = formula(geometry)
    missed = abs(float(np.sum(geometry.matrix * claimed)) / geometry.budget - 1)
    others = [covariance_on_budget(geometry, generator, many) for many in SAMPLES_PER_DIMENSION]
    normal = [*others, *neighbours(geometry, claimed, generator)]
    not_normal = max(float(law.entropy()) for law in COMPETITORS)
    competitors = [entropy_per_dimension(covariance, NORMAL_ENTROPY) for covariance in normal]
    competitors += [
        entropy_per_dimension(covariance, not_normal) for covariance in (*others, claimed)
    ]
    return max(missed, max(competitors) - entropy_per_dimension(claimed, NORMAL_ENTROPY))
