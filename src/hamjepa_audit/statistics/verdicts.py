"""From tests to verdicts: one decision table for each kind of claim, read from top to bottom.

All p-values on which a verdict rests are Holm-adjusted within the claim's family; "shown" means
that the adjusted p-value is below 1 - confidence. Each kind of test (column of p-values) is
adjusted separately, so that the probability of any false verdict in a family is at most
1 - confidence times the number of kinds that the table uses. A verdict requires that something is
shown; large p-values alone lead to "inconclusive".
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray


class Verdict(StrEnum):
    """The possible results of an audit for a claim."""

    REPRODUCED = "reproduced"
    SIZE_DIFFERS = "direction reproduced, size differs"
    NOT_REPRODUCED = "not reproduced"
    CARRIES_OVER = "carries over"
    NOT_CARRIED = "does not carry over"
    INCONCLUSIVE = "inconclusive"
    NOT_RUN = "not run"


class Rule(NamedTuple):
    """One line of a decision table: where `holds` is true, the `verdict`, with its `reason`."""

    holds: NDArray[np.bool_]
    verdict: Verdict
    reason: str


def measurement_verdicts(table: pd.DataFrame, alpha: float, minimum: int) -> pd.DataFrame:
    """Verdicts on the paper's single numbers, which have no direction to reproduce, only a value.

    | seeds    | shown equivalent | shown to differ | verdict        |
    | -------- | ---------------- | --------------- | -------------- |
    | none     |                  |                 | not run        |
    | too few  |                  |                 | inconclusive   |
    | enough   | yes              | yes or no       | reproduced     |
    | enough   | no               | yes             | not reproduced |
    | enough   | no               | no              | inconclusive   |

    Args:
        table: `n`, `p_equivalence_holm`, `p_new_runs_holm`; and for the reason only `ci_low`,
            `ci_high`, `paper` and `margin`.
        alpha: level of the tests.
        minimum: seeds below which there is no verdict.

    Returns:
        `verdict` and `reason`, one row each.
    """
    equivalent = _below(table, "p_equivalence_holm", alpha)
    differs = _below(table, "p_new_runs_holm", alpha)
    rules = [
        Rule(equivalent, Verdict.REPRODUCED, "our mean is within the margin of the paper's value"),
        Rule(differs, Verdict.NOT_REPRODUCED, "our value differs from the paper's"),
        Rule(
            _interval_is_beyond_margin(table),
            Verdict.INCONCLUSIVE,
            "our interval is beyond the margin, but the paper's seeds may differ from ours as much "
            "by chance",
        ),
    ]
    reason = "neither equal within the margin nor different is shown"
    return _decided(table, minimum, rules, reason)


def _interval_is_beyond_margin(table: pd.DataFrame) -> NDArray[np.bool_]:
    low, high, paper, margin = (
        table[name].to_numpy(dtype=float) for name in ("ci_low", "ci_high", "paper", "margin")
    )
    return (low > paper + margin) | (high < paper - margin)


def difference_verdicts(table: pd.DataFrame, alpha: float, minimum: int) -> pd.DataFrame:
    """Verdicts on the differences that the paper states, on the study for which it states them.

    | seeds   | shown                                      | verdict                            |
    | ------- | ------------------------------------------ | ---------------------------------- |
    | none    |                                            | not run                            |
    | too few |                                            | inconclusive                       |
    | enough  | same sign and same size                    | reproduced                         |
    | enough  | opposite sign, or less than the margin     | not reproduced                     |
    | enough  | same sign and other size                   | direction reproduced, size differs |
    | enough  | otherwise                                  | inconclusive                       |

    "Less than the margin" refers to the paper's direction: a gain too small to count, or a loss. It
    precedes the sign alone, because a gain that is too small to count is not a reproduction, even
    if its sign is certain. No difference can have the paper's size and be less than its margin,
    which is below half of that size.

    Args:
        table: `n`, `paper`, `mean_difference`, and the adjusted p-values `p_holm` (of no
            difference), `p_equivalence_holm`, `p_new_runs_holm`, `p_h0_margin_or_more_holm`.
        alpha: level of the tests.
        minimum: seeds below which there is no verdict.

    Returns:
        `verdict` and `reason`, one row each.
    """
    same, absent, opposite = _direction(table, alpha)
    equal = _below(table, "p_equivalence_holm", alpha)
    differs = _below(table, "p_new_runs_holm", alpha)
    rules = [
        Rule(same & equal, Verdict.REPRODUCED, "same sign, and equal within the margin"),
        Rule(opposite, Verdict.NOT_REPRODUCED, "the sign is the opposite"),
        Rule(absent, Verdict.NOT_REPRODUCED, "any such difference is below the margin"),
        Rule(same & differs, Verdict.SIZE_DIFFERS, "same sign, but another size"),
        Rule(same, Verdict.INCONCLUSIVE, "the sign is the paper's, its size is open"),
    ]
    return _decided(table, minimum, rules, "not even the sign is shown")


def direction_verdicts(table: pd.DataFrame, alpha: float, minimum: int) -> pd.DataFrame:
    """Verdicts on the sign of the differences that the paper states, on a study that it lacks.

    | seeds   | shown                                                | verdict             |
    | ------- | ---------------------------------------------------- | ------------------- |
    | none    |                                                      | not run             |
    | too few |                                                      | inconclusive        |
    | enough  | opposite sign, or less than the margin               | does not carry over |
    | enough  | same sign                                            | carries over        |
    | enough  | nothing                                              | inconclusive        |

    Arguments and result are those of `difference_verdicts`, without the p-values of the size.
    """
    same, absent, opposite = _direction(table, alpha)
    rules = [
        Rule(opposite, Verdict.NOT_CARRIED, "the sign is the opposite"),
        Rule(absent, Verdict.NOT_CARRIED, "any such difference is below the margin"),
        Rule(same, Verdict.CARRIES_OVER, "the sign is the paper's"),
    ]
    return _decided(table, minimum, rules, "not even the sign is shown")


def statement_verdicts(table: pd.DataFrame, alpha: float, minimum: int) -> pd.DataFrame:
    """Verdicts on the paper's statements: shown to hold, shown to fail, or neither.

    | seeds   | shown            | verdict on the paper's study | on another study    |
    | ------- | ---------------- | ---------------------------- | ------------------- |
    | none    |                  | not run                      | not run             |
    | too few |                  | inconclusive                 | inconclusive        |
    | enough  | all parts hold   | reproduced                   | carries over        |
    | enough  | some part fails  | not reproduced               | does not carry over |
    | enough  | neither          | inconclusive                 | inconclusive        |

    Args:
        table: `n`, `carried` (bool: another study), `p_h0_fails_holm` (small: it holds),
            `p_h0_holds_holm` (small: it fails).
        alpha: level of the tests.
        minimum: seeds below which there is no verdict.

    Returns:
        `verdict` and `reason`, one row each.
    """
    holds = _below(table, "p_h0_fails_holm", alpha)  # rejected: that it does not hold
    fails = _below(table, "p_h0_holds_holm", alpha)
    carried = table["carried"].to_numpy(dtype=bool)
    rules = [
        Rule(holds & ~carried, Verdict.REPRODUCED, "every part of it is shown"),
        Rule(holds & carried, Verdict.CARRIES_OVER, "every part of it is shown"),
        Rule(fails & ~carried, Verdict.NOT_REPRODUCED, "a part of it is shown to be wrong"),
        Rule(fails & carried, Verdict.NOT_CARRIED, "a part of it is shown to be wrong"),
    ]
    return _decided(table, minimum, rules, "some part is neither shown nor refuted")


def _direction(table: pd.DataFrame, alpha: float) -> tuple[NDArray[np.bool_], ...]:
    agrees = (np.sign(table["mean_difference"]) == np.sign(table["paper"])).to_numpy()
    shown = _below(table, "p_holm", alpha)
    absent = _below(table, "p_h0_margin_or_more_holm", alpha)
    return shown & agrees, absent, shown & ~agrees


def _below(table: pd.DataFrame, column: str, alpha: float) -> NDArray[np.bool_]:
    return np.asarray(table[column].to_numpy(dtype=float) < alpha)  # NaN is not below


def _decided(
    table: pd.DataFrame, minimum: int, rules: Sequence[Rule], otherwise: str
) -> pd.DataFrame:
    """Applies the first rule that holds, after the two with which all tables start."""
    n = table["n"].to_numpy()
    few = f"fewer than {minimum} seeds"
    every = [
        Rule(n == 0, Verdict.NOT_RUN, "no seed has what the claim needs"),
        Rule(n < minimum, Verdict.INCONCLUSIVE, few),
        *rules,
        Rule(np.full(len(table), True), Verdict.INCONCLUSIVE, otherwise),
    ]
    first = np.argmax([rule.holds for rule in every], axis=0)
    return pd.DataFrame(
        {
            "verdict": [str(every[rule].verdict) for rule in first],
            "reason": [every[rule].reason for rule in first],
        },
        index=table.index,
        dtype="str",
    )
