"""From tests to verdicts, by the decision tables.

All p-values on which a verdict rests are Holm-adjusted within the claim's family; "shown" means
that the adjusted p-value is below 1 - confidence. Each kind of test (column of p-values) is
adjusted separately, so that the probability of any false verdict in a family is at most
1 - confidence times the number of kinds that the table uses. A verdict requires that something is
shown; large p-values alone lead to "inconclusive".
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hamjepa_audit.statistics.decision_tables import (
    CARRIED,
    CARRIED_NEGLIGIBLE,
    CARRIED_STATEMENTS,
    DIFFERENCES,
    FIRST_LINES,
    MEASUREMENTS,
    NEGLIGIBLE,
    STATEMENTS,
    Decisions,
)

Shown = dict[str, NDArray[np.bool_]]
"""Conditions by name, each with whether it is shown: shape (claims,)."""


def measurement_verdicts(table: pd.DataFrame, alpha: float, minimum: int) -> pd.DataFrame:
    """`verdict` and `reason` of the paper's single numbers, by MEASUREMENTS.

    Needs `n`, `p_equivalence_holm`, `p_h0_within_margin_holm`; and for the reason only `ci_low`,
    `ci_high`, `paper` and `margin`. Here as below, `alpha` is the level of the tests, and with
    fewer than `minimum` seeds there is no verdict.
    """
    shown = _size(table, alpha) | {"interval beyond": _interval_is_beyond_margin(table)}
    return _decided(table, minimum, MEASUREMENTS, shown)


def difference_verdicts(table: pd.DataFrame, alpha: float, minimum: int) -> pd.DataFrame:
    """`verdict` and `reason` of the paper's differences, on its own study, by DIFFERENCES.

    Needs `n`, `paper`, `mean_difference`, and the adjusted p-values `p_holm` (of no difference),
    `p_equivalence_holm`, `p_h0_within_margin_holm` and `p_h0_margin_or_more_holm`.
    """
    shown = _direction(table, alpha) | _size(table, alpha)
    return _decided(table, minimum, DIFFERENCES, shown)


def direction_verdicts(table: pd.DataFrame, alpha: float, minimum: int) -> pd.DataFrame:
    """`verdict` and `reason` of the signs of differences, on a study the paper lacks, by CARRIED.

    Needs what `difference_verdicts` does, without the p-values of the size.
    """
    return _decided(table, minimum, CARRIED, _direction(table, alpha))


def negligible_verdicts(table: pd.DataFrame, alpha: float, minimum: int) -> pd.DataFrame:
    """`verdict` and `reason` of differences that the paper calls negligible, by NEGLIGIBLE.

    Needs what `difference_verdicts` does, with the column `carried` (bool: another study, which
    CARRIED_NEGLIGIBLE is for) and only the p-values of the size.
    """
    shown = _size(table, alpha)
    carried = _decided(table, minimum, CARRIED_NEGLIGIBLE, shown)
    return carried.where(table["carried"], _decided(table, minimum, NEGLIGIBLE, shown))


def statement_verdicts(table: pd.DataFrame, alpha: float, minimum: int) -> pd.DataFrame:
    """`verdict` and `reason` of statements, by STATEMENTS or, where carried, CARRIED_STATEMENTS.

    Needs `n`, `carried` (bool: another study), `p_h0_fails_holm` (small: it holds) and
    `p_h0_holds_holm` (small: it fails).
    """
    shown = {
        "holds": _below(table, "p_h0_fails_holm", alpha),  # rejected: that it does not hold
        "fails": _below(table, "p_h0_holds_holm", alpha),
    }
    carried = _decided(table, minimum, CARRIED_STATEMENTS, shown)
    return carried.where(table["carried"], _decided(table, minimum, STATEMENTS, shown))


def _size(table: pd.DataFrame, alpha: float) -> Shown:
    return {
        "equal": _below(table, "p_equivalence_holm", alpha),
        "beyond": _below(table, "p_h0_within_margin_holm", alpha),
    }


def _direction(table: pd.DataFrame, alpha: float) -> Shown:
    agrees = (np.sign(table["mean_difference"]) == np.sign(table["paper"])).to_numpy()
    sign = _below(table, "p_holm", alpha)
    below = _below(table, "p_h0_margin_or_more_holm", alpha)
    return {"same": sign & agrees, "opposite": sign & ~agrees, "below": below}


def _interval_is_beyond_margin(table: pd.DataFrame) -> NDArray[np.bool_]:
    low, high, paper, margin = (
        table[name].to_numpy(dtype=float) for name in ("ci_low", "ci_high", "paper", "margin")
    )
    return (low > paper + margin) | (high < paper - margin)


def _below(table: pd.DataFrame, column: str, alpha: float) -> NDArray[np.bool_]:
    return np.asarray(table[column].to_numpy(dtype=float) < alpha)  # NaN is not below


def _decided(table: pd.DataFrame, minimum: int, decisions: Decisions, shown: Shown) -> pd.DataFrame:
    n = table["n"].to_numpy()
    lines = (*FIRST_LINES, *decisions.lines)
    holds = {**shown, "no seeds": n == 0, "too few seeds": n < minimum}
    every = np.full(len(table), True)
    applies = [np.logical_and.reduce([every, *(holds[x] for x in line.when)]) for line in lines]
    first = np.argmax(applies, axis=0)
    return pd.DataFrame(
        {
            "verdict": [str(lines[line].verdict) for line in first],
            "reason": [lines[line].reason.format(minimum=minimum) for line in first],
        },
        index=table.index,
        dtype="str",
    )
