"""Tests from summary statistics, exact permutation tests of paired differences, Holm's correction.

The tests of means take summaries instead of samples, so that one call tests thousands of claims.
Where all seeds give exactly the same value, the metric is too coarse to show its spread (accuracies
on a small test set, rank correlations) and t is infinite: p = 0 would pass any correction for
multiple testing. In that case the p-value is the smallest one that the exact sign or permutation
test can attain.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

Array = NDArray[np.float64]

MOST_SIGNS = 32
"""The largest number of differences for which all sign patterns are counted: 2 * 2^16 sums, which
takes milliseconds."""

TIE = 1e-12
"""Relative tolerance, as a share of the sum of absolute values, at which two sums are equal."""


class Estimate(NamedTuple):
    """Estimated differences; arrays of the same shape, NaN where there are too few values.

    Attributes:
        value: the differences, in the unit of the data.
        error: their standard errors, in the unit of the data.
        df: degrees of freedom.
        smallest_p: the smallest one-sided p-value of the exact test, used where there is no spread.
    """

    value: Array
    error: Array
    df: Array
    smallest_p: Array


def one_sample(mean: ArrayLike, sd: ArrayLike, n: ArrayLike, value: ArrayLike = 0.0) -> Estimate:
    """The difference of a mean from a fixed value (one-sample or paired t-test).

    All have the shape (rows,); `sd` has n - 1 in the denominator. With n below 2 the error and df
    are NaN.
    """
    size = _at_least_two(n)
    error = _floats(sd) / np.sqrt(size)
    return Estimate(_floats(mean) - _floats(value), error, size - 1, 0.5**size)


def prediction_test(
    mean: ArrayLike,
    sd: ArrayLike,
    n: ArrayLike,
    value: ArrayLike,
    runs: ArrayLike,
    *arms: ArrayLike,
) -> Estimate:
    """The difference of a mean from that of `runs` further runs of which only the mean is known.

    Under the hypothesis that all runs come from the same normal distribution, the difference has
    the standard error sd sqrt(1/n + 1/runs). This is the prediction interval of Hahn and Meeker,
    "Statistical Intervals" (1991), section 4.7, used as a test.

    For paired differences it is unknown whether the further runs are paired, too. Their difference
    is given the variance of unpaired runs (the sum of the two arms' variances), or that of paired
    runs where it is larger. The test is therefore valid in both cases, and conservative where the
    further runs scatter less than that.

    Args:
        mean: means, shape (rows,), as all others.
        sd: standard deviations (n - 1); for paired differences those of the differences.
        n: sample sizes; below 2 the error and df are NaN.
        value: the means of the further runs.
        runs: the numbers of further runs, for differences per arm.
        arms: for paired differences the standard deviations (n - 1) of minuend and subtrahend.
    """
    size, further = _at_least_two(n), _floats(runs)
    difference = _floats(mean) - _floats(value)
    smallest_p = 1 / special.binom(size + further, size)
    if not arms:
        error = _floats(sd) * np.sqrt(1 / size + 1 / further)
        return Estimate(difference, error, size - 1, smallest_p)
    paired, one, other = (_floats(spread) ** 2 for spread in (sd, *arms))
    error = np.sqrt(paired / size + np.maximum(paired, one + other) / further)
    df = _paired_prediction_df(paired, one, other, size, further)
    return Estimate(difference, error, df, smallest_p)


def _paired_prediction_df(
    paired: Array, one: Array, other: Array, size: Array, further: Array
) -> Array:
    """Degrees of freedom (n - 1) tr(MS)^2 / tr(MSMS) of the variance tr(MS).

    S is the arms' covariance matrix and M = dd'/n + I/runs with d = (1, -1). Welch's formula is for
    independent variances and gives too many here, where all variances come from the same seeds.
    """
    covariance = (one + other - paired) / 2
    squares = (
        (paired / size) ** 2
        + 2 * ((one - covariance) ** 2 + (other - covariance) ** 2) / (size * further)
        + (one**2 + other**2 + 2 * covariance**2) / further**2
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        df = (size - 1) * (paired / size + (one + other) / further) ** 2 / squares
    # Where the paired variance is the larger one, or nothing varies, it is the only one used.
    return np.where((covariance > 0) & (squares > 0), df, size - 1)


def welch(
    mean: ArrayLike,
    sd: ArrayLike,
    n: ArrayLike,
    other_mean: ArrayLike,
    other_sd: ArrayLike,
    other_n: ArrayLike,
) -> Estimate:
    """The difference of two means whose variances may differ (Welch 1947), from summaries.

    Arguments are as in `one_sample`, for each of the two samples.

    Returns:
        The first mean minus the second, with Satterthwaite's degrees of freedom.
    """
    size, other_size = _at_least_two(n), _at_least_two(other_n)
    variance, other_variance = _floats(sd) ** 2 / size, _floats(other_sd) ** 2 / other_size
    total = variance + other_variance
    with np.errstate(invalid="ignore"):
        df = total**2 / (variance**2 / (size - 1) + other_variance**2 / (other_size - 1))
    # Without any spread the degrees of freedom are irrelevant, but must be a number.
    df = np.where(total == 0, size + other_size - 2, df)
    smallest_p = 1 / special.binom(size + other_size, size)
    return Estimate(_floats(mean) - _floats(other_mean), np.sqrt(total), df, smallest_p)


def statistic(estimate: Estimate, value: ArrayLike = 0.0) -> Array:
    """Student's t statistic for the hypothesis that the true difference is `value`.

    Without any spread it is infinite, or 0 where the estimate equals `value`.
    """
    distance = estimate.value - _floats(value)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = distance / estimate.error
    return np.where((estimate.error == 0) & (distance == 0), 0.0, t)


def two_sided(estimate: Estimate) -> Array:
    """Two-sided p-value of the hypothesis that the true difference is 0."""
    return np.minimum(1.0, 2 * _upper_tail(np.abs(statistic(estimate)), estimate))


def p_greater(estimate: Estimate, bound: ArrayLike) -> Array:
    """One-sided p-value of the hypothesis that the true difference is at most `bound`."""
    return _upper_tail(statistic(estimate, bound), estimate)


def p_less(estimate: Estimate, bound: ArrayLike) -> Array:
    """One-sided p-value of the hypothesis that the true difference is at least `bound`."""
    return _upper_tail(-statistic(estimate, bound), estimate)


def _upper_tail(t: Array, estimate: Estimate) -> Array:
    """The probability of a t statistic at least this large."""
    return np.where(np.isposinf(t), estimate.smallest_p, stats.t.sf(t, estimate.df))


def sign_flip(differences: ArrayLike) -> float:
    """Exact two-sided sign-flip permutation test (Fisher 1935) of paired differences (n,).

    Under the null hypothesis each difference is as likely as its negative. All 2^n sign patterns
    are counted: every sum is a sum of the first half plus one of the second half, so that 2^(n/2)
    searches in the sorted sums of one half are enough.

    Returns:
        The share of patterns whose absolute sum is at least the observed one; NaN for no
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
    """All signed sums, ascending: each step merges two ascending halves, which is fast."""
    sums = np.zeros(1)
    for value in np.abs(values):
        sums = np.sort(np.concatenate([sums - value, sums + value]), kind="stable")
    return sums


def wilcoxon(differences: ArrayLike) -> float:
    """Exact two-sided Wilcoxon signed-rank test (1945) of paired differences (n,), also with ties.

    Zeros are dropped, and ties share their mean rank. This is the sign-flip test of the signed
    ranks; scipy's exact method is not exact with ties, which accuracies on small test sets have.

    Returns:
        The p-value; 1 if all differences are zero; NaN for none and for more than MOST_SIGNS.
    """
    values = _floats(differences)
    nonzero = values[values != 0]
    if len(values) and not len(nonzero):
        return 1.0
    return sign_flip(np.sign(nonzero) * stats.rankdata(np.abs(nonzero)))


def holm(p: ArrayLike, families: Any) -> Array:
    """P-values adjusted by Holm's step-down method (1979) within families.

    Args:
        p: shape (rows,); NaN marks what was not tested and is left out of its family.
        families: the label of each row's family, shape (rows,).

    Returns:
        The adjusted p-values, shape (rows,). Rejecting those below alpha keeps the probability of
        any false rejection within a family below alpha, however the tests depend on each other.
    """
    # Not statsmodels' multipletests, which collects garbage at every call: 0.05 s per family.
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
