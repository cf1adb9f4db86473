"""From tests to verdicts: one decision table for each kind of claim, read from top to bottom.

All p-values on which a verdict rests are Holm-adjusted within the claim's family; "shown" means
that the adjusted p-value is below 1 - confidence. Each kind of test (column of p-values) is
adjusted separately, so that the probability of any false verdict in a family is at most
1 - confidence times the number of kinds that the table uses. A verdict requires that something is
shown; large p-values alone lead to "inconclusive".
"""

from enum import StrEnum
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Shown = dict[str, NDArray[np.bool_]]
"""Conditions by name, each with whether it is shown: shape (claims,)."""


class Verdict(StrEnum):
    """The possible results of an audit for a claim."""

    REPRODUCED = "reproduced"
    SIZE_DIFFERS = "direction reproduced, size differs"
    NOT_REPRODUCED = "not reproduced"
    CARRIES_OVER = "carries over"
    NOT_CARRIED = "does not carry over"
    INCONCLUSIVE = "inconclusive"
    NOT_RUN = "not run"


class Line(NamedTuple):
    """A line of a decision table.

    Attributes:
        when: names of the conditions that must all be shown for the line to apply.
        shown: these conditions in words; empty if the line adds nothing but a reason.
        verdict: the verdict if the line applies.
        reason: the reason that is given for it.
    """

    when: tuple[str, ...]
    shown: str
    verdict: Verdict
    reason: str


class Decisions(NamedTuple):
    """A decision table, read from top to bottom: the first line that applies gives the verdict.

    Two lines precede those of every table: claims without seeds are not run, and claims with too
    few are inconclusive.
    """

    title: str
    introduction: str
    lines: tuple[Line, ...]

    @property
    def kinds(self) -> int:
        """The number of kinds of tests on which the verdicts rest; both signs are one kind.

        Holm's correction bounds the probability of any false finding in a family for each kind, so
        that the probability of any false verdict is at most this number times that bound.
        """
        shown = {condition for line in self.lines if line.shown for condition in line.when}
        return len(shown - {"opposite"})


MEASUREMENTS = Decisions(
    "A number that the paper reports",
    "There is no direction to reproduce, only a value.",
    (
        Line(
            ("equal",),
            "equal within the margin",
            Verdict.REPRODUCED,
            "our mean is within the margin of the paper's value",
        ),
        Line(
            ("differs",),
            "our value differs from the paper's",
            Verdict.NOT_REPRODUCED,
            "our value differs from the paper's",
        ),
        Line(
            ("beyond",),
            "",
            Verdict.INCONCLUSIVE,
            "our interval is beyond the margin, but the paper's seeds may differ from ours as much "
            "by chance",
        ),
        Line(
            (),
            "neither",
            Verdict.INCONCLUSIVE,
            "neither equal within the margin nor different is shown",
        ),
    ),
)

DIFFERENCES = Decisions(
    "A difference between arms, on the paper's own study",
    "Both its direction and its size are judged.",
    (
        Line(
            ("same", "equal"),
            "same sign, equal within the margin",
            Verdict.REPRODUCED,
            "same sign, and equal within the margin",
        ),
        Line(
            ("opposite",),
            "the opposite sign",
            Verdict.NOT_REPRODUCED,
            "the sign is the opposite",
        ),
        Line(
            ("below",),
            "any difference in the paper's direction is below the margin",
            Verdict.NOT_REPRODUCED,
            "any such difference is below the margin",
        ),
        Line(
            ("same", "differs"),
            "same sign, another size",
            Verdict.SIZE_DIFFERS,
            "same sign, but another size",
        ),
        Line(
            ("same",),
            "same sign, its size is open",
            Verdict.INCONCLUSIVE,
            "the sign is the paper's, its size is open",
        ),
        Line((), "none of these", Verdict.INCONCLUSIVE, "not even the sign is shown"),
    ),
)
"""Below the margin means too small a gain to count, or a loss. It precedes the sign alone, because
a gain that is too small to count is not a reproduction, even if its sign is certain. No difference
can have the paper's size and be below its margin, which is below half of that size."""

CARRIED = Decisions(
    "A difference between arms, on a study that the paper does not have",
    "Other images give other sizes: the direction alone is judged, and whether it counts.",
    (
        Line(("opposite",), "the opposite sign", Verdict.NOT_CARRIED, "the sign is the opposite"),
        Line(
            ("below",),
            "any difference in the paper's direction is below the margin",
            Verdict.NOT_CARRIED,
            "any such difference is below the margin",
        ),
        Line(("same",), "same sign", Verdict.CARRIES_OVER, "the sign is the paper's"),
        Line((), "none of these", Verdict.INCONCLUSIVE, "not even the sign is shown"),
    ),
)


def _of_statements(title: str, introduction: str, held: Verdict, failed: Verdict) -> Decisions:
    return Decisions(
        title,
        introduction,
        (
            Line(("holds",), "every part holds", held, "every part of it is shown"),
            Line(("fails",), "some part fails", failed, "a part of it is shown to be wrong"),
            Line((), "neither", Verdict.INCONCLUSIVE, "some part is neither shown nor refuted"),
        ),
    )


STATEMENTS = _of_statements(
    "What the paper says in words, on its own study",
    "A statement is cut into parts, each of which says in which range some mean lies.",
    Verdict.REPRODUCED,
    Verdict.NOT_REPRODUCED,
)

CARRIED_STATEMENTS = _of_statements(
    "What the paper says in words, on a study that it does not have",
    "The same parts.",
    Verdict.CARRIES_OVER,
    Verdict.NOT_CARRIED,
)

DECISIONS = (DIFFERENCES, CARRIED, STATEMENTS, CARRIED_STATEMENTS, MEASUREMENTS)
"""All tables, in the order in which the page shows them."""


def measurement_verdicts(table: pd.DataFrame, alpha: float, minimum: int) -> pd.DataFrame:
    """Verdicts on the paper's single numbers, by MEASUREMENTS.

    Args:
        table: `n`, `p_equivalence_holm`, `p_new_runs_holm`; and for the reason only `ci_low`,
            `ci_high`, `paper` and `margin`.
        alpha: level of the tests.
        minimum: seeds below which there is no verdict.

    Returns:
        `verdict` and `reason`, one row each.
    """
    shown = _size(table, alpha) | {"beyond": _interval_is_beyond_margin(table)}
    return _decided(table, minimum, MEASUREMENTS, shown)


def difference_verdicts(table: pd.DataFrame, alpha: float, minimum: int) -> pd.DataFrame:
    """Verdicts on the differences that the paper states, on its own study, by DIFFERENCES.

    Args:
        table: `n`, `paper`, `mean_difference`, and the adjusted p-values `p_holm` (of no
            difference), `p_equivalence_holm`, `p_new_runs_holm`, `p_h0_margin_or_more_holm`.
        alpha: level of the tests.
        minimum: seeds below which there is no verdict.

    Returns:
        `verdict` and `reason`, one row each.
    """
    shown = _direction(table, alpha) | _size(table, alpha)
    return _decided(table, minimum, DIFFERENCES, shown)


def direction_verdicts(table: pd.DataFrame, alpha: float, minimum: int) -> pd.DataFrame:
    """Verdicts on the sign of the paper's differences, on a study that it lacks, by CARRIED.

    Arguments and result are those of `difference_verdicts`, without the p-values of the size.
    """
    return _decided(table, minimum, CARRIED, _direction(table, alpha))


def statement_verdicts(table: pd.DataFrame, alpha: float, minimum: int) -> pd.DataFrame:
    """Verdicts on the paper's statements, by STATEMENTS or, where carried, CARRIED_STATEMENTS.

    Args:
        table: `n`, `carried` (bool: another study), `p_h0_fails_holm` (small: it holds),
            `p_h0_holds_holm` (small: it fails).
        alpha: level of the tests.
        minimum: seeds below which there is no verdict.

    Returns:
        `verdict` and `reason`, one row each.
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
        "differs": _below(table, "p_new_runs_holm", alpha),
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
    lines = [
        Line(("none",), "", Verdict.NOT_RUN, "no seed has what the claim needs"),
        Line(("few",), "", Verdict.INCONCLUSIVE, f"fewer than {minimum} seeds"),
        *decisions.lines,
    ]
    holds = {**shown, "none": n == 0, "few": n < minimum}
    every = np.full(len(table), True)
    applies = [np.logical_and.reduce([every, *(holds[x] for x in line.when)]) for line in lines]
    first = np.argmax(applies, axis=0)
    return pd.DataFrame(
        {
            "verdict": [str(lines[line].verdict) for line in first],
            "reason": [lines[line].reason for line in first],
        },
        index=table.index,
        dtype="str",
    )
