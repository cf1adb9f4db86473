"""The number of seeds that would settle an inconclusive claim, and what those there are can find.

Planning assumes that our mean and standard deviation over seeds are the true ones. Planning with
the paper's value would suggest fewer seeds than there already are whenever our value and the
paper's are far apart. The mean of few seeds is uncertain, so that the result is a plan and not a
promise.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from hamjepa_audit.params.audit import AuditParams
from hamjepa_audit.statistics.comparison import Hypotheses, family_sizes
from hamjepa_audit.statistics.decision_tables import Verdict
from hamjepa_audit.statistics.hypothesis_tests import (
    Array,
    Estimate,
    one_sample,
    prediction_test,
    welch,
)
from hamjepa_audit.statistics.power import detectable, power_to_show


class PlannedTest(NamedTuple):
    """A one-sided t-test for a difference above 0, at each number of seeds that is considered.

    Attributes:
        truth: as in `power_to_show`.
        level: level of the test; for one side of a two-sided test half of the latter's level.
        few_values: as in `power_to_show`.
    """

    truth: Estimate
    level: float
    few_values: bool = False


Plan = Sequence[PlannedTest]
"""Tests that lead to a verdict if all of them succeed."""

Plans = Callable[[pd.Series, Array, Mapping[str, float]], Sequence[Plan]]
"""Function from a claim's row, the numbers of seeds to consider, shape (numbers,), and the level of
each column of p-values to one plan for every verdict that can be reached."""


def with_seeds_needed(
    table: pd.DataFrame, tests: Hypotheses, plans: Plans, params: AuditParams
) -> pd.DataFrame:
    """Adds the number of seeds at which each inconclusive claim would be settled.

    Tests are planned at the level of the first step of Holm's correction, the strictest that the
    family can require. Where several tests must all succeed, the sum of their chances of failing
    may not exceed 1 - `params.power` (Bonferroni).

    Args:
        table: a row per claim, with `verdict`, `n`, `family`, the columns `tests`, these adjusted,
            and the columns that `plans` reads.
        tests: the columns of p-values, NaN where a claim was not tested, as in `adjusted`.
        plans: gives the plans of a claim.
        params: level, power, and the smallest and largest number of seeds to consider.

    Returns:
        The table with two more columns: `seeds_needed` (float), the total number of seeds, existing
        ones included, and therefore more than `n`; infinite if it exceeds `seeds_considered`; NaN
        where the verdict is not "inconclusive" or there is no p-value (fewer than two seeds). And
        `seeds_considered`, the largest number that was considered.
    """
    known = table[list(tests)].notna().all(axis=1)
    sizes = family_sizes(table, tests)
    wanted = known & (table["verdict"] == Verdict.INCONCLUSIVE)
    needed = np.full(len(table), np.nan)
    for place in np.flatnonzero(wanted):
        row = table.iloc[place]
        fewest = max(row["n"] + 1, params.minimum_seeds)
        seeds = np.arange(fewest, params.maximum_seeds + 1, dtype=float)
        levels = {name: params.alpha / sizes[name].iloc[place] for name in tests}
        needed[place] = fewest_seeds(plans(row, seeds, levels), seeds, params.power)
    return table.assign(seeds_needed=needed, seeds_considered=params.maximum_seeds)


def detectable_by(
    table: pd.DataFrame, test: str, tests: Hypotheses, estimate: Estimate, params: AuditParams
) -> Array:
    """The smallest true differences that the seeds there are detect, shape (rows,).

    The two-sided test `test`, one of `tests`, is to detect them at the first step of Holm's
    correction; of its `estimate` only error and degrees of freedom are used.
    """
    levels = params.alpha / family_sizes(table, tests)[test]
    return detectable(estimate, levels, params.power)


def fewest_seeds(plans: Sequence[Plan], seeds: Array, power: float) -> float:
    """The smallest of some numbers of seeds (ascending) at which some plan has the required power.

    `power` is that of reaching a verdict. Infinity if none of the numbers is enough.
    """
    enough = np.zeros(len(seeds), dtype=bool)
    for plan in plans:
        failing = np.sum([1 - power_to_show(*test) for test in plan], axis=0)
        enough |= failing <= 1 - power
    return float(seeds[np.argmax(enough)]) if enough.any() else float("inf")


def equivalence_tests(row: pd.Series, deviation: float, seeds: Array, level: float) -> Plan:
    """Tests that show equivalence, if our true mean is `deviation` away from the paper's value."""
    return [
        PlannedTest(one_sample(row["margin"] + side * deviation, row["sd"], seeds), level)
        for side in (1.0, -1.0)
    ]


def beyond_margin_tests(
    row: pd.Series, deviation: float, seeds: Array, level: float, arms: Sequence[str] = ()
) -> Plan:
    """The test that shows more than the margin, if our true mean is `deviation` from the paper's.

    `arms`: as in `against_paper`.
    """
    distance, sd, runs = abs(deviation) - row["margin"], row["sd"], row["paper_n"]
    if np.isnan(row["paper_sd"]):
        truth = prediction_test(distance, sd, seeds, 0.0, runs, *(row[name] for name in arms))
    else:
        truth = welch(distance, sd, seeds, 0.0, row["paper_sd"], runs)
    return [PlannedTest(truth, level / 2)]
