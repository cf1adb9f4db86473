"""Summaries over the seeds of an arm: single values, means, spreads and intervals."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from hamjepa_audit.errors import UserError
from hamjepa_audit.metrics import METRICS_SCHEMA

CONDITION = [
    "study", "dataset", "arm", "epochs", "checkpoint_epoch", "readout", "metric", "unit",
]  # fmt: skip
"""The columns that define a condition, within which seeds are averaged."""

IDENTIFYING = (
    "run_id", "checkpoint_epoch", "epoch", "readout", "metric", "curve", "position", "term",
)  # fmt: skip
"""The columns that identify a number in a long table, as far as it has them."""

SPLIT = ("q", "p", "qp")
"""The readouts of a state that has parts."""

READOUTS = (*SPLIT, "all")
"""The parts of a state that are probed, in the order in which they are listed."""


ROUNDING = 4 * float(np.finfo(np.float64).eps)
"""Relative tolerance, as a share of the operands, at which two float64 differences are equal: each
operand has a rounding error of at most eps / 2, and so does the subtraction; two differences have
twice that."""


def summarise(metrics: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """Mean, standard deviation and interval over the seeds of every condition, sorted by it.

    Returns:
        One row per CONDITION with `n` (seeds), `mean`, `sd` (n - 1 in the denominator),
        `confidence`, `ci_low`, `ci_high` (Student's t interval of the mean). Mean, sd and bounds
        are in the row's `unit`; for a single seed sd and bounds are NaN, and where all seeds are
        equal the bounds are (see `interval`).

    Raises:
        UserError: `metrics` is unusable (see `checked`) or `confidence` is out of range.
    """
    values = checked(metrics).groupby(CONDITION, sort=False)["value"]
    summary = values.agg(n="count", mean="mean", sd="std").reset_index()
    # Equal values have no spread, but their mean, and thus their deviations, may be rounded.
    spread = values.max() - values.min()
    largest = np.maximum(values.max().abs(), values.min().abs())
    equal = (spread <= ROUNDING * largest).to_numpy()
    summary["sd"] = summary["sd"].mask(equal & (summary["n"] > 1), 0.0)
    low, high = interval(summary["mean"], summary["sd"], summary["n"], confidence)
    return summary.assign(confidence=confidence, ci_low=low, ci_high=high)


def per_seed(metrics: pd.DataFrame) -> pd.DataFrame:
    """The value of every seed: CONDITION, `seed`, `value` (in the row's `unit`) and `run_id`.

    Rows are sorted by condition and seed.

    Raises:
        UserError: `metrics` is unusable (see `checked`).
    """
    return checked(metrics)[[*CONDITION, "seed", "value", "run_id"]]


def side_by_side(summary: pd.DataFrame, row: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """Puts the summaries of several metrics, from `summarise`, beside each other.

    Returns:
        The columns `row`, in the order in which the rows first occur in `summary`, then for each
        metric METRIC_mean, METRIC_sd and METRIC_n, in its unit; NaN (and n 0) where it was not
        measured.
    """
    table = summary[[*row]].drop_duplicates().reset_index(drop=True)
    for metric in metrics:
        rows = summary.loc[summary["metric"] == metric, [*row, "mean", "sd", "n"]]
        named = rows.rename(columns={part: f"{metric}_{part}" for part in ("mean", "sd", "n")})
        table = table.merge(named, how="left", on=[*row], validate="one_to_one")
        table[f"{metric}_n"] = table[f"{metric}_n"].fillna(0).astype("int64")
    return table


def interval(
    mean: Any, sd: Any, n: Any, confidence: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Student's t interval of a mean: mean -+ t * sd / sqrt(n), n - 1 degrees of freedom.

    `sd` is that with n - 1 in the denominator; all have the shape (rows,).

    Returns:
        Lower and upper bounds, each of shape (rows,), in the unit of `mean`; NaN where n < 2, and
        where sd is 0: the metric is then too coarse to show its spread, and no width is known.

    Raises:
        UserError: `confidence` is out of range.
    """
    if not 0 < confidence < 1:
        raise UserError(f"confidence is {confidence}; give a level between 0 and 1, such as 0.95")
    size = np.asarray(n, dtype=float)
    enough = np.where(size >= 2, size, np.nan)
    spread = np.asarray(sd, dtype=float)
    spread = np.where(spread > 0, spread, np.nan)
    reach = stats.t.ppf((1 + confidence) / 2, enough - 1) * spread / np.sqrt(enough)
    centre = np.asarray(mean, dtype=float)
    return centre - reach, centre + reach


def checked(metrics: pd.DataFrame) -> pd.DataFrame:
    """Checks that nothing in `metrics` distorts a statistic, and sorts it by condition and seed.

    Sorting makes every sum, and thus every byte written, independent of the order of rows.

    Raises:
        UserError: a column is missing; a field is empty; a value is not finite; a measurement
            occurs twice; a seed of an arm has two runs; or a metric has two units.
    """
    missing = [name for name in METRICS_SCHEMA.names if name not in metrics.columns]
    if missing:
        raise UserError(f"the metrics lack the columns {missing}; collect them again")
    require_numbers(metrics)
    _refuse_two_of(metrics, ["study", "dataset", "arm", "epochs", "seed"], "run_id")
    _refuse_two_of(metrics, ["study", "metric"], "unit")
    return metrics.sort_values([*CONDITION, "seed"]).reset_index(drop=True)


def require_numbers(rows: pd.DataFrame) -> None:
    """Checks rows of LONG_TABLES; messages show all their columns, which may be more.

    Raises:
        UserError: a field is empty; a value is not finite; or a number is there twice.
    """
    bad = rows.isna().any(axis=1) | ~np.isfinite(rows["value"].astype(float))
    _refuse(rows[bad], [*rows], "missing or not finite")
    key = [name for name in rows if name in IDENTIFYING]
    twice = rows[rows.duplicated(key, keep=False)]
    _refuse(twice.sort_values(key), [*rows], "measured twice")


def _refuse_two_of(metrics: pd.DataFrame, key: list[str], column: str) -> None:
    variants = metrics[[*key, column]].drop_duplicates()
    several = variants[variants.duplicated(key, keep=False)].sort_values([*key, column])
    _refuse(several, [*key, column], f"more than one {column}")


def _refuse(rows: pd.DataFrame, columns: list[str], reason: str) -> None:
    if rows.empty:
        return
    named = ["; ".join(f"{name}={row[name]}" for name in columns) for _, row in rows.iterrows()]
    shown = " | ".join(named[:3]) + (f" | and {len(named) - 3} more" if len(named) > 3 else "")
    raise UserError(
        f"these numbers can't be used: {reason}: {shown}; measure them again, or keep one finite "
        f"value of each"
    )
