"""What measurements and differences have in common when they are held against the paper's."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from hamjepa_audit.statistics.equivalence import tost
from hamjepa_audit.statistics.hypothesis_tests import (
    Array,
    Estimate,
    holm,
    one_sample,
    paired_prediction_test,
    prediction_test,
    welch,
)

ARMS = ("sd_minuend", "sd_subtrahend")
"""Columns of differences: the standard deviations of our two arms over seeds (n - 1)."""


def against_paper(
    table: pd.DataFrame, mean: str, arms: Sequence[str] = ()
) -> tuple[Estimate, Estimate]:
    """Ours minus the paper's, twice: its value as it stands, and as the mean of its few seeds.

    Where the paper has a standard deviation both are Welch's. Otherwise the first takes the value
    for exact, the second lets the paper's runs scatter as ours do (see `prediction`).
    """
    ours = (table[mean], table["sd"], table["n"])
    known = table["paper_sd"].notna().to_numpy()
    fixed = one_sample(*ours, table["paper"])
    new = prediction(*ours, table["paper"], table["paper_n"], [table[name] for name in arms])
    both = welch(*ours, table["paper"], table["paper_sd"], table["paper_n"])
    return _chosen(known, both, fixed), _chosen(known, both, new)


def prediction(
    mean: ArrayLike,
    sd: ArrayLike,
    n: ArrayLike,
    value: ArrayLike,
    runs: ArrayLike,
    arms: Sequence[ArrayLike],
) -> Estimate:
    """How far our mean is from the paper's value, its runs scattering as ours do.

    Nothing says whether the paper's arms were paired by seed, as ours are. Its differences may
    therefore scatter as those of unpaired runs, ours as those of paired ones.

    Args:
        mean: ours.
        sd: its standard deviation over seeds (n - 1), for differences that of the pairs.
        n: our seeds.
        value: the paper's.
        runs: over how many runs that is the mean.
        arms: for differences the standard deviations of our two arms, otherwise empty.
    """
    if not arms:
        return prediction_test(mean, sd, n, value, runs)
    minuend, subtrahend = arms
    return paired_prediction_test(mean, sd, n, value, runs, minuend, subtrahend)


def _chosen(first: NDArray[np.bool_], one: Estimate, other: Estimate) -> Estimate:
    return Estimate(*(np.where(first, a, b) for a, b in zip(one, other, strict=True)))


def equivalence(table: pd.DataFrame, mean: str) -> Array:
    """P-values of TOST around the paper's printed value.

    Printed numbers are what is claimed, so that they are the target as they stand, whether or not
    the paper has an error bar: otherwise the claims with the most evidence would be the hardest to
    reproduce. Its own error counts where a difference from it is to be shown (`against_paper`).
    """
    ours = one_sample(table[mean], table["sd"], table["n"], table["paper"])
    return tost(ours, table["margin"])


def summary(values: Array, mean: str) -> dict[str, Any]:
    """Number, mean (under the name `mean`) and standard deviation (n - 1) of one sample (n,)."""
    equal = len(values) > 0 and np.ptp(values) == 0  # whose mean and spread must not be rounded
    return {
        "n": len(values),
        mean: float(values[0] if equal else np.mean(values)) if len(values) else np.nan,
        "sd": np.nan if len(values) < 2 else 0.0 if equal else float(np.std(values, ddof=1)),
    }


def with_families(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The table with `family`: the values of the columns in which its members agree."""
    family = table[list(columns)].astype(str).agg("-".join, axis=1)
    return table.assign(family=family.astype("str"))


def adjusted(
    table: pd.DataFrame, columns: Sequence[str], hypothesis: Sequence[str]
) -> pd.DataFrame:
    """The table with a column NAME_holm for each of its columns of p-values.

    Rows of a family that agree in the columns of `hypothesis` and in the p-value are one test,
    stated twice, and count once.
    """
    result = table.copy()
    for name in columns:
        tests = _tests(table, name, hypothesis)
        first = ~tests.duplicated()
        once = holm(table.loc[first, name], table.loc[first, "family"])
        result[f"{name}_holm"] = once[tests]  # numbered in the order of their first rows
    return result


def family_sizes(
    table: pd.DataFrame, columns: Sequence[str], hypothesis: Sequence[str]
) -> pd.DataFrame:
    """How many tests `adjusted` corrects each row's p-values for: as many rows, and `columns`."""

    def sizes(name: str) -> "pd.Series[int]":
        first = table[table[name].notna() & ~_tests(table, name, hypothesis).duplicated()]
        return table["family"].map(first["family"].value_counts())

    return pd.DataFrame({name: sizes(name) for name in columns})


def _tests(table: pd.DataFrame, name: str, hypothesis: Sequence[str]) -> "pd.Series[int]":
    """The number of each row's test, the same for one that is stated twice."""
    return table.groupby(["family", *hypothesis, name], sort=False, dropna=False).ngroup()
