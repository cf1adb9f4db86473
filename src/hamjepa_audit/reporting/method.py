"""The decision tables of the verdicts as the page shows them, line by line.

Verdicts are made by `statistics.verdicts`; a test compares these lines with it, case by case.
"""

from typing import NamedTuple

from hamjepa_audit.statistics.verdicts import Verdict

NONE, FEW, ENOUGH = "none", "too few", "enough"
"""The numbers of seeds that the tables distinguish: none, fewer than the minimum, enough."""


class Line(NamedTuple):
    """A line of a decision table, which applies where all conditions in `when` are shown.

    Attributes:
        seeds: NONE, FEW or ENOUGH.
        when: names of conditions, which the table's docstring lists.
        shown: the conditions in words.
        verdict: the verdict if the line applies.
    """

    seeds: str
    when: tuple[str, ...]
    shown: str
    verdict: Verdict


class Decisions(NamedTuple):
    """A decision table, read from top to bottom: the first line that applies gives the verdict."""

    title: str
    introduction: str
    lines: tuple[Line, ...]

    @property
    def kinds(self) -> int:
        """The number of kinds of tests on which the verdicts rest; both signs are one kind.

        Holm's correction bounds the probability of any false finding in a family for each kind, so
        that the probability of any false verdict is at most this number times that bound.
        """
        shown = {condition for line in self.lines for condition in line.when}
        return len(shown - {"opposite"})


def _table(title: str, introduction: str, *lines: Line) -> Decisions:
    """A decision table: the two lines with which all tables start, then `lines`."""
    first = (
        Line(NONE, (), "", Verdict.NOT_RUN),
        Line(FEW, (), "", Verdict.INCONCLUSIVE),
    )
    return Decisions(title, introduction, (*first, *lines))


MEASUREMENTS = _table(
    "A number that the paper reports",
    "There is no direction to reproduce, only a value.",
    Line(ENOUGH, ("equal",), "equal within the margin", Verdict.REPRODUCED),
    Line(ENOUGH, ("differs",), "our value differs from the paper's", Verdict.NOT_REPRODUCED),
    Line(ENOUGH, (), "neither", Verdict.INCONCLUSIVE),
)
"""Conditions: equal, differs."""

DIFFERENCES = _table(
    "A difference between arms, on the paper's own study",
    "Both its direction and its size are judged.",
    Line(ENOUGH, ("same", "equal"), "same sign, equal within the margin", Verdict.REPRODUCED),
    Line(ENOUGH, ("opposite",), "the opposite sign", Verdict.NOT_REPRODUCED),
    Line(
        ENOUGH,
        ("below",),
        "any difference in the paper's direction is below the margin",
        Verdict.NOT_REPRODUCED,
    ),
    Line(ENOUGH, ("same", "differs"), "same sign, another size", Verdict.SIZE_DIFFERS),
    Line(ENOUGH, ("same",), "same sign, its size is open", Verdict.INCONCLUSIVE),
    Line(ENOUGH, (), "none of these", Verdict.INCONCLUSIVE),
)
"""Conditions: same, opposite (sign), equal, differs, below."""

CARRIED = _table(
    "A difference between arms, on a study that the paper does not have",
    "Other images give other sizes: the direction alone is judged, and whether it counts.",
    Line(ENOUGH, ("opposite",), "the opposite sign", Verdict.NOT_CARRIED),
    Line(
        ENOUGH,
        ("below",),
        "any difference in the paper's direction is below the margin",
        Verdict.NOT_CARRIED,
    ),
    Line(ENOUGH, ("same",), "same sign", Verdict.CARRIES_OVER),
    Line(ENOUGH, (), "none of these", Verdict.INCONCLUSIVE),
)
"""Conditions: same, opposite (sign), equal, differs, below."""

STATEMENTS = _table(
    "What the paper says in words, on its own study",
    "A statement is cut into parts, each of which says in which range some mean lies.",
    Line(ENOUGH, ("holds",), "every part holds", Verdict.REPRODUCED),
    Line(ENOUGH, ("fails",), "some part fails", Verdict.NOT_REPRODUCED),
    Line(ENOUGH, (), "neither", Verdict.INCONCLUSIVE),
)
"""Conditions: holds, fails."""

CARRIED_STATEMENTS = _table(
    "What the paper says in words, on a study that it does not have",
    "The same parts.",
    Line(ENOUGH, ("holds",), "every part holds", Verdict.CARRIES_OVER),
    Line(ENOUGH, ("fails",), "some part fails", Verdict.NOT_CARRIED),
    Line(ENOUGH, (), "neither", Verdict.INCONCLUSIVE),
)
"""Conditions: holds, fails."""

DECISIONS = (DIFFERENCES, CARRIED, STATEMENTS, CARRIED_STATEMENTS, MEASUREMENTS)
