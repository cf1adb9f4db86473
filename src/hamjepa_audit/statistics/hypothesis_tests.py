"""Tests from means and spreads, exact permutation tests of paired differences, Holm's correction.

The tests on means take summaries, not samples, so that thousands of claims are one call. Where all
seeds say exactly the same, their measure is too coarse for its spread (accuracies on a small test
set, rank correlations) and t is infinite: p = 0 would pass any correction for many tests. Then the
p-value is the smallest that the exact test by signs or permutations can have.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

Array = NDArray[np.float64]

MOST_SIGNS = 32
"""Differences up to which all sign patterns are counted: 2 * 2^16 sums, milliseconds."""

TIE = 1e-12
"""Sums of differences that agree to this share of the sum of absolute values are equal."""


class Estimate(NamedTuple):
    """An estimated difference: value, standard error (both in the unit of the data), df.

    Arrays of one shape; NaN where there are too few values.
    """

    value: Array
    error: Array
    df: Array
    smallest_p: Array
    """One-sided, of the exact test: what counts where there is no spread."""


def one_sample(mean: ArrayLike, sd: ArrayLike, n: ArrayLike, value: ArrayLike = 0.0) -> Estimate:
    """How far a mean is from a fixed value (one-sample or paired t).

    Args:
        mean: means, shape (rows,).
        sd: standard deviations with n - 1 in the denominator, shape (rows,).
        n: sample sizes, shape (rows,); below 2 the error and df are NaN.
        value: what they are compared with, in the unit of the mean.
    """
    size = _at_least_two(n)
    error = _floats(sd) / np.sqrt(size)
    return Estimate(_floats(mean) - _floats(value), error, size - 1, 0.5**size)


def prediction_test(
    mean: ArrayLike, sd: ArrayLike, n: ArrayLike, value: ArrayLike, runs: ArrayLike
) -> Estimate:
    """How far a mean is from the mean of `runs` further runs of which only that mean is known.

    Under the hypothesis that they come from the same normal distribution the difference has the
    standard error sd sqrt(1/n + 1/runs): the prediction interval of Hahn and Meeker, "Statistical
    Intervals" (1991), section 4.7, read as a test.
    """
    size = _at_least_two(n)
    error = _floats(sd) * np.sqrt(1 / size + 1 / _floats(runs))
    smallest_p = 1 / special.binom(size + _floats(runs), size)
    return Estimate(_floats(mean) - _floats(value), error, size - 1, smallest_p)


def paired_prediction_test(
    mean: ArrayLike,
    sd: ArrayLike,
    n: ArrayLike,
    value: ArrayLike,
    runs: ArrayLike,
    sd_minuend: ArrayLike,
    sd_subtrahend: ArrayLike,
) -> Estimate:
    """How far a mean paired difference is from that of `runs` further runs an arm, paired or not.

    As `prediction_test`, but it isn't known whether the further runs are paired. Their
    difference has the variance of unpaired runs (the sum of the two arms'), or that of paired ones
    where it is larger, so that the test is valid either way; it is conservative where paired runs
    scatter less than they are allowed to.

    Args:
        mean: means of the paired differences, shape (rows,).
        sd: standard deviations of the differences (n - 1), shape (rows,).
        n: numbers of pairs, shape (rows,); below 2 the error and df are NaN.
        value: the means that they are compared with.
        runs: over how many further runs an arm these are.
        sd_minuend: standard deviations of the one arm (n - 1), shape (rows,).
        sd_subtrahend: those of the other.

    Returns:
        The difference, with Satterthwaite's degrees of freedom.
    """
    size, further = _at_least_two(n), _floats(runs)
    paired, one, other = (_floats(spread) ** 2 for spread in (sd, sd_minuend, sd_subtrahend))
    error = np.sqrt(paired / size + np.maximum(paired, one + other) / further)
    smallest_p = 1 / special.binom(size + further, size)
    df = _paired_prediction_df(paired, one, other, size, further)
    return Estimate(_floats(mean) - _floats(value), error, df, smallest_p)


def _paired_prediction_df(
    paired: Array, one: Array, other: Array, size: Array, further: Array
) -> Array:
    """Degrees of freedom (n - 1) tr(MS)^2 / tr(MSMS) of the variance tr(MS).

    S is the arms' covariance matrix and M = dd'/n + I/runs with d = (1, -1). Welch's formula for
    independent variances gives too many: all variances are of the same seeds.
    """
    covariance = (one + other - paired) / 2
    squares = (
        (paired / size) ** 2
        + 2 * ((one - covariance) ** 2 + (other - covariance) ** 2) / (size * further)
        + (one**2 + other**2 + 2 * covariance**2) / further**2
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        df = (size - 1) * (paired / size + (one + other) / further) ** 2 / squares
    # Where the variance of pairs is the larger one (or nothing varies) it is the only one.
    return np.where((covariance > 0) & (squares > 0), df, size - 1)


def welch(
    mean: ArrayLike,
    sd: ArrayLike,
    n: ArrayLike,
    other_mean: ArrayLike,
    other_sd: ArrayLike,
    other_n: ArrayLike,
) -> Estimate:
    """How far two means are apart when their variances may differ (Welch 1947), from summaries.

    Args:
        mean: means of the first samples, shape (rows,).
        sd: their standard deviations (n - 1).
        n: their sizes; below 2 the error and df are NaN.
        other_mean: means of the second samples.
        other_sd: their standard deviations (n - 1).
        other_n: their sizes.

    Returns:
        First minus second, with Satterthwaite's degrees of freedom.
    """
    size, other_size = _at_least_two(n), _at_least_two(other_n)
    variance, other_variance = _floats(sd) ** 2 / size, _floats(other_sd) ** 2 / other_size
    total = variance + other_variance
    with np.errstate(invalid="ignore"):
        df = total**2 / (variance**2 / (size - 1) + other_variance**2 / (other_size - 1))
    # Without any spread the degrees of freedom don't matter, but must be a number.
    df = np.where(total == 0, size + other_size - 2, df)
    smallest_p = 1 / special.binom(size + other_size, size)
    return Estimate(_floats(mean) - _floats(other_mean), np.sqrt(total), df, smallest_p)


def statistic(estimate: Estimate, value: ArrayLike = 0.0) -> Array:
    """Student's t of the hypothesis that the true difference is `value`.

    Without any spread it is infinite, or 0 where there is no distance either.
    """
    distance = estimate.value - _floats(value)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = distance / estimate.error
    return np.where((estimate.error == 0) & (distance == 0), 0.0, t)


def two_sided(estimate: Estimate) -> Array:
    """P-value of the hypothesis that the true difference is 0."""
    return np.minimum(1.0, 2 * _upper_tail(np.abs(statistic(estimate)), estimate))


def p_greater(estimate: Estimate, bound: ArrayLike) -> Array:
    """P-value of the hypothesis that the true difference is `bound` or less."""
    return _upper_tail(statistic(estimate, bound), estimate)


def p_less(estimate: Estimate, bound: ArrayLike) -> Array:
    """P-value of the hypothesis that the true difference is `bound` or more."""
    return _upper_tail(-statistic(estimate, bound), estimate)


def _upper_tail(t: Array, estimate: Estimate) -> Array:
    """P-value of a t as large as this."""
    return np.where(np.isposinf(t), estimate.smallest_p, stats.t.sf(t, estimate.df))


def sign_flip(differences: ArrayLike) -> float:
    """Exact two-sided sign-flip permutation test (Fisher 1935) of paired differences.

    Under the hypothesis each difference is as likely as its negative. All 2^n sign patterns are
    counted: every sum is one of the first half's plus one of the second's, so that 2^(n/2) searches
    of one sorted half do.

    Args:
        differences: (n,), any unit.

    Returns:
        The share of patterns whose absolute sum is at least the observed one; NaN without
        differences and for more than MOST_SIGNS of them.
    """
    # scipy's permutation_test gives the same, but goes through all patterns: seconds for 20 seeds.
    values = _floats(differences)
    if not 1 <= len(values) <= MOST_SIGNS:
        return float("nan")
    observed = abs(values.sum()) - TIE * np.abs(values).sum()
    if observed <= 0:
        return 1.0
    first, second = (_signed_sums(half) for half in np.array_split(values, 2))
    as_large = len(second) - np.searchsorted(second, observed - first)
    # The patterns come in pairs with opposite sums: as many are as far below zero.
    return float(2 * as_large.sum() / (len(first) * len(second)))


def _signed_sums(values: Array) -> Array:
    """All sums, rising: what is sorted is two rising halves, which a stable sort only merges."""
    sums = np.zeros(1)
    for value in np.abs(values):
        sums = np.sort(np.concatenate([sums - value, sums + value]), kind="stable")
    return sums


def wilcoxon(differences: ArrayLike) -> float:
    """Exact two-sided Wilcoxon signed-rank test (1945), also with ties.

    Zeros are dropped and ties share their mean rank. It is the sign-flip test of the signed ranks;
    scipy's exact method is not exact with ties, which accuracies on small test sets have.

    Args:
        differences: (n,), any unit.

    Returns:
        The p-value; 1 if all are zero; NaN without differences and for more than MOST_SIGNS.
    """
    values = _floats(differences)
    nonzero = values[values != 0]
    if len(values) and not len(nonzero):
        return 1.0
    return sign_flip(np.sign(nonzero) * stats.rankdata(np.abs(nonzero)))


def holm(p: ArrayLike, families: Any) -> Array:
    """P-values adjusted by Holm's step-down method (1979) within families.

    Args:
        p: (rows,); NaN was not tested and is left out of its family.
        families: (rows,), a label each.

    Returns:
        (rows,): rejecting what is below alpha keeps the chance of any false rejection within a
        family below alpha, however the tests depend on each other.
    """
    # Not statsmodels' multipletests, which collects garbage at every call: 0.05 s a family.
    tested = pd.DataFrame({"p": _floats(p), "family": np.asarray(families)}).dropna(subset="p")
    tested = tested.sort_values("p")
    groups = tested.groupby("family", sort=False)["p"]
    left = groups.transform("size") - groups.cumcount()  # hypotheses that are not rejected yet
    stepped = (left * tested["p"]).groupby(tested["family"], sort=False).cummax().clip(upper=1)
    return np.asarray(stepped.reindex(range(np.size(p))), dtype=float)


def _floats(values: ArrayLike) -> Array:
    return np.asarray(values, dtype=float)


def _at_least_two(n: ArrayLike) -> Array:
    size = _floats(n)
    return np.where(size >= 2, size, np.nan)
