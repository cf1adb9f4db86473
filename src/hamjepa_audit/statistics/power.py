"""Power of t-tests, and the differences that a given number of seeds can detect."""

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from hamjepa_audit.statistics.hypothesis_tests import Array, Estimate, statistic

CERTAIN = 1000.0
"""Noncentrality above which scipy's noncentral t is slow, while the power is 1 in any case."""


def t_test_power(noncentrality: float, df: float, alpha: float) -> float:
    """Power of the two-sided t-test, from the noncentral t distribution (Cohen 1988).

    `noncentrality` is the true difference divided by its true standard error, not negative.
    """
    critical = stats.t.ppf(1 - alpha / 2, df)
    beyond = stats.nct.sf(critical, df, noncentrality)
    with np.errstate(invalid="ignore"):
        below = stats.nct.cdf(-critical, df, noncentrality)
    # scipy can't compute some far tails (NaN), which are below rounding error.
    return float(beyond + np.nan_to_num(below))


def power_to_show(truth: Estimate, level: float, few_values: bool = False) -> Array:
    """Power, shape (numbers,), of the one-sided t-test that shows a difference to be above 0.

    0 where the true difference is not above 0. Without any spread it is 1 for as many seeds as the
    exact test needs, or more.

    Args:
        truth: true difference, true standard error and degrees of freedom for each number of seeds
            that is considered, shape (numbers,).
        level: level of the test.
        few_values: whether the p-value is at least the smallest one of the exact test.
    """
    noncentrality = np.minimum(statistic(truth), CERTAIN)
    critical = stats.t.isf(level, truth.df)
    with np.errstate(invalid="ignore"):
        power = stats.nct.sf(critical, truth.df, noncentrality)
    power = np.where(truth.error == 0, truth.smallest_p < level, power)
    power = np.where(few_values & (truth.smallest_p >= level), 0.0, power)
    return np.where(noncentrality > 0, power, 0.0)


def detectable(estimate: Estimate, alpha: ArrayLike, power: float) -> Array:
    """The smallest true difference that the two-sided t-test detects with the given power.

    The estimate's standard error is assumed to be the true one; its value is not used. `alpha` is
    the level of each test, NaN where there is none.

    Returns:
        In the unit of the estimate, shape (rows,); NaN where the standard error is NaN or 0.
    """
    error, df, level = np.broadcast_arrays(
        *map(np.atleast_1d, (estimate.error, estimate.df, alpha))
    )
    known = (error > 0) & ~np.isnan(df) & ~np.isnan(level)
    factor = np.full(error.shape, np.nan)
    factor[known] = [
        _detectable_noncentrality(float(one), float(other), power)
        for one, other in zip(df[known], level[known], strict=True)
    ]
    return factor * error


@lru_cache(maxsize=4096)
def _detectable_noncentrality(df: float, alpha: float, power: float) -> float:
    high = 2.0
    while t_test_power(high, df, alpha) < power:
        high *= 2
    return float(optimize.brentq(lambda x: t_test_power(x, df, alpha) - power, 0, high))
