"""Effect sizes: standardised differences and the probability of improvement."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from hamjepa_audit.statistics.hypothesis_tests import Array


def hedges_g(mean: ArrayLike, sd: ArrayLike, n: ArrayLike) -> Array:
    """Paired standardised effect size mean / sd, corrected for its bias (Hedges 1981).

    The correction is the exact J(df) = Gamma(df/2) / (sqrt(df/2) Gamma((df-1)/2)) with df = n - 1.
    `sd` is that of the n paired differences (n - 1). All arguments and the result have the shape
    (rows,); NaN for fewer than 3 differences or without spread.
    """
    size = np.asarray(n, dtype=float)
    df = np.where(size >= 3, size - 1, np.nan)
    correction = np.exp(special.gammaln(df / 2) - special.gammaln((df - 1) / 2)) / np.sqrt(df / 2)
    return correction * _standardised(mean, sd)


def effect_size_interval(
    mean: ArrayLike, sd: ArrayLike, n: ArrayLike, confidence: float
) -> tuple[Array, Array]:
    """Exact confidence interval of the true standardised effect of normal paired differences.

    sqrt(n) mean / sd has a noncentral t distribution; the bounds are the effects for which the
    observed value is at the two tail quantiles of that distribution (Steiger and Fouladi 1997).
    Arguments and NaN are as in `hedges_g`; lower and upper bounds are dimensionless, too.
    """
    size = np.asarray(n, dtype=float)
    size = np.where(size >= 3, size, np.nan)
    t = np.sqrt(size) * _standardised(mean, sd)
    tail = (1 - confidence) / 2
    low, high = (special.nctdtrinc(size - 1, p, t) / np.sqrt(size) for p in (1 - tail, tail))
    return np.asarray(low), np.asarray(high)


def _standardised(mean: ArrayLike, sd: ArrayLike) -> Array:
    spread = np.asarray(sd, dtype=float)
    return np.asarray(mean, dtype=float) / np.where(spread > 0, spread, np.nan)


def probability_of_improvement(minuend: ArrayLike, subtrahend: ArrayLike) -> float:
    """The probability that a run of the minuend exceeds one of the subtrahend; ties count half.

    It is the mean over all pairs of runs, (n,) and (m,), regardless of their seeds: Mann and
    Whitney's U divided by the number of pairs, as in rliable (Agarwal et al. 2021). NaN if either
    is empty.
    """
    one = np.asarray(minuend, dtype=float)[:, None]
    other = np.asarray(subtrahend, dtype=float)[None, :]
    if not one.size or not other.size:
        return float("nan")
    return float(np.mean((one > other) + 0.5 * (one == other)))
