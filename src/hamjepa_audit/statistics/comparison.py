"""What measurements and differences share when they are compared with the paper's."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hamjepa_audit.statistics.equivalence import tost
from hamjepa_audit.statistics.hypothesis_tests import (
    Array,
    Estimate,
    holm,
    one_sample,
    prediction_test,
    welch,
)
from hamjepa_audit.statistics.summaries import interval

ARMS = ("sd_minuend", "sd_subtrahend")
"""Columns of differences: the standard deviations of our two arms over seeds (n - 1)."""


def against_paper(
    table: pd.DataFrame, mean: str, arms: Sequence[str] = ()
) -> tuple[Estimate, Estimate]:
    """Our value minus the paper's, estimated in two ways.

    Where the paper has a standard deviation, both are Welch's estimate. Otherwise the first treats
    the paper's value as exact, and the second lets the paper's runs scatter as ours do (see
    `prediction_test`).

    Args:
        table: `mean`, `sd`, `n`, `paper`, `paper_sd` (NaN where there is none), `paper_n`, `arms`.
        mean: the name of the column of our means.
        arms: for differences the columns ARMS, otherwise empty.
    """
    ours = (table[mean], table["sd"], table["n"])
    known = table["paper_sd"].notna().to_numpy()
    fixed = one_sample(*ours, table["paper"])
    new = prediction_test(*ours, table["paper"], table["paper_n"], *(table[x] for x in arms))
    both = welch(*ours, table["paper"], table["paper_sd"], table["paper_n"])
    return _chosen(known, both, fixed), _chosen(known, both, new)


def _chosen(first: NDArray[np.bool_], one: Estimate, other: Estimate) -> Estimate:
    return Estimate(*(np.where(first, a, b) for a, b in zip(one, other, strict=True)))


def with_intervals(table: pd.DataFrame, mean: str, confidence: float) -> pd.DataFrame:
    """Adds `ci_low`, `ci_high` (of our mean), `new_seed_low`, `new_seed_high` (of one more seed).

    `mean` names the column of our means; `sd` and `n` are read, too.
    """
    ours, sd, n = (table[name].to_numpy(dtype=float) for name in (mean, "sd", "n"))
    low, high = interval(ours, sd, n, confidence)
    # The interval of the mean, sqrt(1 + n) times as wide: a new seed has its own scatter, too.
    reach = (high - low) / 2 * np.sqrt(1 + n)
    return table.assign(
        ci_low=low, ci_high=high, new_seed_low=ours - reach, new_seed_high=ours + reach
    )


def equivalence(table: pd.DataFrame, mean: str) -> Array:
    """P-values of TOST around the paper's printed value.

    The printed number is the claim and therefore the target, whether or not the paper gives an
    error bar: otherwise the claims with the most evidence would be the hardest to reproduce. The
    paper's own error is considered where a difference from it is to be shown (`against_paper`).
    """
    ours = one_sample(table[mean], table["sd"], table["n"], table["paper"])
    return tost(ours, table["margin"])


def summary(values: Array, mean: str) -> dict[str, Any]:
    """Size, mean (under the name `mean`) and standard deviation (n - 1) of a sample, shape (n,)."""
    equal = len(values) > 0 and np.ptp(values) == 0  # whose mean and spread must not be rounded
    return {
        "n": len(values),
        mean: float(values[0] if equal else np.mean(values)) if len(values) else np.nan,
        "sd": np.nan if len(values) < 2 else 0.0 if equal else float(np.std(values, ddof=1)),
    }


def with_families(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Adds the column `family`, composed of the values of `columns`, which its members share."""
    family = table[list(columns)].astype(str).agg("-".join, axis=1)
    return table.assign(family=family.astype("str"))


Hypotheses = Mapping[str, Sequence[str]]
"""By name of its column of p-values, each kind of test, with the columns in which rows agree that
state the same hypothesis."""


def adjusted(
    table: pd.DataFrame, tests: Hypotheses, judged: Mapping[str, "pd.Series[bool]"] | None = None
) -> pd.DataFrame:
    """Adds a Holm-adjusted column NAME_holm for each column of p-values in `tests`.

    Rows of a family that state the same test, with the same p-value, count once. `judged` says for
    each column in which rows a verdict rests on the test; the others don't count, and their
    NAME_holm is NaN.
    """
    result = table.copy()
    for name, hypothesis in tests.items():
        masked = table.assign(**{name: table[name].where(judged[name])}) if judged else table
        numbers = _numbered(masked, name, hypothesis)
        first = ~numbers.duplicated()
        once = holm(masked.loc[first, name], masked.loc[first, "family"])
        result[f"{name}_holm"] = once[numbers]  # numbered in the order of their first rows
    return result


def family_sizes(table: pd.DataFrame, tests: Hypotheses) -> pd.DataFrame:
    """The number of tests for which `adjusted` has corrected each p-value, in the same rows."""

    def sizes(name: str) -> "pd.Series[int]":
        tested = table[table[f"{name}_holm"].notna()]
        first = tested[~_numbered(tested, name, tests[name]).duplicated()]
        return table["family"].map(first["family"].value_counts())

    return pd.DataFrame({name: sizes(name) for name in tests})


def _numbered(table: pd.DataFrame, name: str, hypothesis: Sequence[str]) -> "pd.Series[int]":
    """A number for each row's test, equal for rows that state the same test."""
    return table.groupby(["family", *hypothesis, name], sort=False, dropna=False).ngroup()
