"""What a number of seeds can show, and how many seeds a claim needs."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy import optimize, stats

from hamjepa_audit.statistics.hypothesis_tests import Array, Estimate

NODES = 2000
"""Points that the chi distribution is replaced by: power is good to about 1e-4."""

TINY_EFFECT = 1e-6
"""The least effect for which seeds are searched: below it no number of them suffices."""


def t_test_power(noncentrality: float, df: float, alpha: float) -> float:
    """Power of the two-sided t-test: noncentral t beyond the critical values (Cohen 1988).

    Args:
        noncentrality: true difference over its true standard error, not negative.
        df: degrees of freedom.
        alpha: level of the test.
    """
    critical = stats.t.ppf(1 - alpha / 2, df)
    beyond = stats.nct.sf(critical, df, noncentrality)
    # The far tail is below rounding where the noncentral distribution is hard to compute.
    below = stats.nct.cdf(-critical, df, noncentrality) if noncentrality < 5 else 0.0
    return float(beyond + below)


def equivalence_power(reach: float, df: float, alpha: float) -> float:
    """Power of the two one-sided tests when the true difference is 0.

    With S the estimated over the true standard error, equivalence is shown when a standard normal
    is within reach - t S: averaged over the chi distribution of S (as Phillips 1990, exactly).

    Args:
        reach: margin over the true standard error.
        df: degrees of freedom of the estimated standard error.
        alpha: level of the tests.
    """
    room = reach - stats.t.ppf(1 - alpha, df) * _relative_errors(df)
    return float(np.mean(np.maximum(2 * stats.norm.cdf(room) - 1, 0)))


@lru_cache(maxsize=1024)
def _relative_errors(df: float) -> Array:
    """Equally likely values of estimated over true standard error, (NODES,)."""
    quantiles = (np.arange(NODES) + 0.5) / NODES
    return np.sqrt(stats.chi2.ppf(quantiles, df) / df)


def detectable(estimate: Estimate, alpha: float, power: float) -> Array:
    """The smallest true difference that the two-sided t-test finds with the given power.

    Args:
        estimate: its standard error, taken for the true one, and degrees of freedom count.
        alpha: level of the test.
        power: wanted chance of finding it.

    Returns:
        In the unit of the estimate, shape (rows,); NaN without a standard error.
    """
    error, df = np.broadcast_arrays(np.atleast_1d(estimate.error), np.atleast_1d(estimate.df))
    known = ~np.isnan(error) & ~np.isnan(df)
    factor = np.full(error.shape, np.nan)
    factor[known] = [_detectable_noncentrality(float(value), alpha, power) for value in df[known]]
    return factor * error


@lru_cache(maxsize=4096)
def _detectable_noncentrality(df: float, alpha: float, power: float) -> float:
    high = 2.0
    while t_test_power(high, df, alpha) < power:
        high *= 2
    return float(optimize.brentq(lambda x: t_test_power(x, df, alpha) - power, 0, high))


@lru_cache(maxsize=65536)
def seeds_to_detect(effect: float, alpha: float, power: float, low: int, high: int) -> int | None:
    """How many seeds the paired t-test needs to find a standardised effect.

    Args:
        effect: true difference over the standard deviation of the differences.
        alpha: level of the two-sided test.
        power: wanted chance of finding it.
        low: the least number to return, 2 or more.
        high: the largest.

    Returns:
        The smallest sufficient number; None if `high` don't suffice.
    """
    size = abs(effect)
    if size < TINY_EFFECT:
        return None

    def enough(n: int) -> bool:
        return t_test_power(size * np.sqrt(n), n - 1, alpha) >= power

    return _smallest(enough, low, high)


@lru_cache(maxsize=65536)
def seeds_for_equivalence(
    reach: float, alpha: float, power: float, low: int, high: int
) -> int | None:
    """How many seeds the two one-sided tests need to show equivalence where it is perfect.

    Args:
        reach: margin over the standard deviation over seeds.
        alpha: level of the tests.
        power: wanted chance of showing it.
        low: the least number to return, 2 or more.
        high: the largest.

    Returns:
        The smallest sufficient number; None if `high` don't suffice.
    """

    def enough(n: int) -> bool:
        return equivalence_power(reach * np.sqrt(n), n - 1, alpha) >= power

    return _smallest(enough, low, high)


def _smallest(enough: Callable[[int], bool], low: int, high: int) -> int | None:
    """The first number from `low` to `high` that is enough: once enough, always enough."""
    if enough(low):
        return low
    if not enough(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
