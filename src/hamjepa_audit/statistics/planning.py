"""How many seeds would settle a claim that is inconclusive.

The plan takes our mean and standard deviation over seeds for the true ones. To plan with the
paper's value would give fewer seeds than there are wherever ours and the paper's are apart. A plan
is no promise: the mean of few seeds is itself uncertain.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from hamjepa_audit.params.audit import AuditParams
from hamjepa_audit.statistics.comparison import family_sizes, prediction
from hamjepa_audit.statistics.hypothesis_tests import (
    Array,
    Estimate,
    of_mean,
    welch,
)
from hamjepa_audit.statistics.power import power_to_show
from hamjepa_audit.statistics.verdicts import Verdict


class Planned(NamedTuple):
    """A one-sided t-test that a difference is above 0, for each number of seeds considered.

    `truth`: as in `power_to_show`; `level`: of the test, half of it for one side of a two-sided
    test.
    """

    truth: Estimate
    level: float


Way = Sequence[Planned]
"""The tests that together give a verdict."""

Ways = Callable[[pd.Series, Array, Mapping[str, float]], Sequence[Way]]
"""Returns each way to a verdict, given a claim's row, the numbers of seeds that are considered,
shape (numbers,), and the level of each column of p-values."""


def with_seeds_needed(
    table: pd.DataFrame,
    tests: Sequence[str],
    hypothesis: Sequence[str],
    ways: Ways,
    params: AuditParams,
) -> pd.DataFrame:
    """The table with the seeds at which its inconclusive claims would be settled.

    At the level of Holm's first step, the hardest that the family can ask for. Several tests that
    must succeed together may fail together no more often than `params.power` allows (Bonferroni).

    Args:
        table: `verdict`, `n`, `family`, the p-values `tests`, and what `ways` reads.
        tests: the columns of p-values, NaN where a claim was not tested.
        hypothesis: as in `adjusted`: tests that are stated twice count once in a family.
        ways: the ways to a verdict.
        params: level, power, and from how many to how many seeds are considered.

    Returns:
        The table with `seeds_needed` (float): all seeds, those that there are included, and so
        always more than `n`; infinite if more than `seeds_considered`; NaN where the verdict is not
        "inconclusive" or a spread over seeds is missing.
    """
    known = table[list(tests)].notna().all(axis=1)
    sizes = family_sizes(table, tests, hypothesis)
    wanted = known & (table["verdict"] == Verdict.INCONCLUSIVE)
    needed = np.full(len(table), np.nan)
    for place in np.flatnonzero(wanted):
        row = table.iloc[place]
        fewest = max(row["n"] + 1, params.minimum_seeds)
        seeds = np.arange(fewest, params.maximum_seeds + 1, dtype=float)
        levels = {name: params.alpha / sizes[name].iloc[place] for name in tests}
        needed[place] = fewest_seeds(ways(row, seeds, levels), seeds, params.power)
    return table.assign(seeds_needed=needed, seeds_considered=params.maximum_seeds)


def fewest_seeds(ways: Sequence[Way], seeds: Array, power: float) -> float:
    """The first of the numbers of seeds with which some way to a verdict has the power.

    Args:
        ways: tests for each of the numbers.
        seeds: the numbers (numbers,), rising.
        power: wanted chance of a verdict.

    Returns:
        One of `seeds`; infinite if none is enough.
    """
    enough = np.zeros(len(seeds), dtype=bool)
    for way in ways:
        failing = np.sum([1 - power_to_show(*test) for test in way], axis=0)
        enough |= failing <= 1 - power
    return float(seeds[np.argmax(enough)]) if enough.any() else float("inf")


def to_equal(row: pd.Series, deviation: float, seeds: Array, level: float) -> Way:
    """Equivalence: our mean, `deviation` away from the paper's value, is within the margin."""
    return [
        Planned(of_mean(row["margin"] + side * deviation, row["sd"], seeds), level)
        for side in (1.0, -1.0)
    ]


def to_differ(
    row: pd.Series, deviation: float, seeds: Array, level: float, arms: Sequence[str] = ()
) -> Way:
    """Our mean, `deviation` away from the paper's value, differs from it (see `against_paper`)."""
    distance, sd, runs = abs(deviation), row["sd"], row["paper_n"]
    if np.isnan(row["paper_sd"]):
        spreads = [row[name] for name in arms]
        return [Planned(prediction(distance, sd, seeds, 0.0, runs, spreads), level / 2)]
    return [Planned(welch(distance, sd, seeds, 0.0, row["paper_sd"], runs), level / 2)]
