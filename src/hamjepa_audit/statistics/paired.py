"""Differences between arms, paired by seed."""

from collections.abc import Sequence

import pandas as pd

from hamjepa_audit.errors import UserError, nearest
from hamjepa_audit.statistics.hypothesis_tests import one_sample, statistic, two_sided
from hamjepa_audit.statistics.order import rank_in_order, sorted_in_order
from hamjepa_audit.statistics.summaries import READOUTS, ROUNDING, checked, interval

COMPARISON = ["study", "dataset", "epochs", "checkpoint_epoch", "metric", "unit"]
"""The columns in which both sides of a difference agree, besides the seed."""

SIDES = ["minuend_arm", "minuend_readout", "subtrahend_arm", "subtrahend_readout"]


def paired_differences(
    metrics: pd.DataFrame, arm_order: Sequence[str], confidence: float
) -> pd.DataFrame:
    """Every difference between two arms, with a two-sided paired t-test over their common seeds.

    `arm_order` lists the baseline first. The later of two arms is the minuend, so that a positive
    difference means that the later arm has the larger value. Readouts are compared if they are
    equal, or if one side is `all`, which has no counterpart.

    Args:
        metrics: the long metric table (METRICS_SCHEMA), in any order of rows.
        arm_order: every arm in `metrics`, baseline first; it may contain other arms, too.
        confidence: level of the interval, in (0, 1).

    Returns:
        One row per COMPARISON and SIDES, the last arm's differences first, with `n` (seeds of both
        sides; a seed that only one side has is dropped), `mean_difference`, `sd` (of the
        differences, n - 1), `ci_low`, `ci_high` (Student's t interval of the mean difference), all
        in the row's `unit`, `confidence`, and the dimensionless `t` and `p` (equal to those of
        scipy.stats.ttest_rel). For n < 2 sd, bounds, t and p are NaN; for n = 0 the mean is, too.
        Differences that are equal except for float64 rounding have sd 0: the bounds are then NaN, t
        is infinite and p is that of the sign test, unless the mean difference is 0 as well; then t
        is 0 and p is 1.

    Raises:
        UserError: `metrics` is unusable (see `checked`), an arm is missing from `arm_order` or
            occurs twice in it, or `confidence` is out of range.
    """
    table = checked(metrics)
    _refuse_incomplete(arm_order, table)
    values = table[[*COMPARISON, "arm", "readout", "seed", "value"]]
    sides = values.drop(columns=["seed", "value"]).drop_duplicates()
    every = _crossed(sides, COMPARISON, arm_order)
    common = _differences(_crossed(values, [*COMPARISON, "seed"], arm_order))
    result = every.merge(common, how="left", on=[*COMPARISON, *SIDES], validate="one_to_one")
    result["n"] = result["n"].fillna(0).astype("int64")
    result = _tested(result, confidence)
    orders = {
        "minuend_arm": arm_order[::-1],
        "subtrahend_arm": arm_order,
        "minuend_readout": READOUTS,
        "subtrahend_readout": READOUTS,
    }
    ordered = sorted_in_order(result, [*COMPARISON, *orders], orders)
    return ordered[[*COMPARISON, *SIDES, *_NUMBERS]]


_NUMBERS = ["n", "mean_difference", "sd", "confidence", "ci_low", "ci_high", "t", "p"]


def _refuse_incomplete(arm_order: Sequence[str], table: pd.DataFrame) -> None:
    if len(set(arm_order)) < len(arm_order):
        raise UserError(f"arm_order names an arm twice: {list(arm_order)}")
    for arm in table["arm"].unique():
        if arm not in arm_order:
            raise UserError(f"arm_order lacks the arm '{arm}'; {nearest(arm, arm_order)}")


def _crossed(values: pd.DataFrame, on: list[str], arm_order: Sequence[str]) -> pd.DataFrame:
    """All pairs of rows of `values` that agree in `on` and whose arms and readouts are compared."""
    minuend = values.rename(columns=lambda name: name if name in on else f"minuend_{name}")
    subtrahend = values.rename(columns=lambda name: name if name in on else f"subtrahend_{name}")
    pairs = minuend.merge(subtrahend, on=on)
    ranks = [rank_in_order(pairs[f"{side}_arm"], arm_order) for side in ("minuend", "subtrahend")]
    same = pairs["minuend_readout"] == pairs["subtrahend_readout"]
    whole = (pairs[["minuend_readout", "subtrahend_readout"]] == "all").any(axis=1)
    return pairs[(ranks[0] > ranks[1]) & (same | whole)].reset_index(drop=True)


def _differences(pairs: pd.DataFrame) -> pd.DataFrame:
    """n, mean and standard deviation of the differences; rounding noise counts as zero."""
    operands = pairs[["minuend_value", "subtrahend_value"]]
    difference = operands["minuend_value"] - operands["subtrahend_value"]
    groups = pairs.assign(
        difference=difference, noise=ROUNDING * operands.abs().max(axis=1)
    ).groupby([*COMPARISON, *SIDES], sort=False)
    result = groups.agg(
        n=("difference", "count"),
        mean_difference=("difference", "mean"),
        sd=("difference", "std"),
        low=("difference", "min"),
        high=("difference", "max"),
        noise=("noise", "max"),
    )
    constant = (result["n"] >= 2) & (result["high"] - result["low"] <= result["noise"])
    zero = constant & (result["mean_difference"].abs() <= result["noise"])
    result["sd"] = result["sd"].mask(constant, 0.0)
    result["mean_difference"] = result["mean_difference"].mask(zero, 0.0)
    return result.drop(columns=["low", "high", "noise"]).reset_index()


def _tested(result: pd.DataFrame, confidence: float) -> pd.DataFrame:
    mean, sd, n = (result[name].to_numpy() for name in ("mean_difference", "sd", "n"))
    low, high = interval(mean, sd, n, confidence)
    found = one_sample(mean, sd, n)
    numbers = {"ci_low": low, "ci_high": high, "t": statistic(found), "p": two_sided(found)}
    return result.assign(confidence=confidence, **numbers)
