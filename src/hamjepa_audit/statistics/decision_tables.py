"""The decision tables of verdicts: one for each kind of claim, read from top to bottom."""

from enum import StrEnum
from typing import NamedTuple


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
        reason: the reason that is given for it; {minimum} stands for the seeds that are enough.
        seeds: how many seeds there are.
    """

    when: tuple[str, ...]
    shown: str
    verdict: Verdict
    reason: str
    seeds: str = "enough"


FIRST_LINES = (
    Line(
        ("no seeds",), "anything", Verdict.NOT_RUN,
        "no seed has the measurements that the claim needs", "none",
    ),
    Line(
        ("too few seeds",), "anything", Verdict.INCONCLUSIVE, "fewer than {minimum} seeds",
        "too few",
    ),
)  # fmt: skip
"""The lines with which every decision table begins."""


class Decisions(NamedTuple):
    """A decision table, read from top to bottom: the first line that applies gives the verdict.

    FIRST_LINES precede its own `lines`.
    """

    title: str
    introduction: str
    lines: tuple[Line, ...]

    @property
    def shown_lines(self) -> list[Line]:
        """The lines that a reader needs, FIRST_LINES included."""
        return [line for line in (*FIRST_LINES, *self.lines) if line.shown]

    @property
    def kinds(self) -> int:
        """The number of kinds of tests on which the verdicts rest; both signs are one kind.

        Holm's correction bounds the probability of any false finding in a family for each kind, so
        that the probability of any false verdict is at most this number times that bound.
        """
        shown = {condition for line in self.lines if line.shown for condition in line.when}
        return len(shown - {"opposite"})


DIFFER = "our mean and the paper's differ by more than the margin"

SIZE_UNDECIDED = Line(
    (), "neither", Verdict.INCONCLUSIVE, "not shown to be within the margin or beyond it"
)

SIGN_UNDECIDED = Line((), "none of these", Verdict.INCONCLUSIVE, "not even the sign is shown")


def _against(failed: Verdict) -> tuple[Line, Line]:
    """The lines of a difference that speak against the paper's direction.

    Below the margin means too small a gain to count, or a loss.
    """
    below = "any difference in the paper's direction is below the margin"
    return (
        Line(("opposite",), "opposite sign", failed, "the sign is opposite to the paper's"),
        Line(("below",), "less than the margin in the paper's direction", failed, below),
    )


MEASUREMENTS = Decisions(
    "A number that the paper reports",
    "A number has no direction, so its value is tested.",
    (
        Line(
            ("equal",), "within the margin", Verdict.REPRODUCED,
            "our mean is within the margin of the paper's value",
        ),
        Line(("beyond",), "beyond the margin", Verdict.NOT_REPRODUCED, DIFFER),
        Line(
            ("interval beyond",), "", Verdict.INCONCLUSIVE,
            "our interval is beyond the margin, but the scatter of the paper's runs or the number "
            "of claims may explain this",
        ),
        SIZE_UNDECIDED,
    ),
)  # fmt: skip

DIFFERENCES = Decisions(
    "A difference between arms, on the paper's own study",
    "Its direction and its size are tested.",
    (
        Line(
            ("same", "equal"), "same sign, and size within the margin", Verdict.REPRODUCED,
            "same sign, and size within the margin of the paper's",
        ),
        *_against(Verdict.NOT_REPRODUCED),
        Line(
            ("same", "beyond"), "same sign, but size beyond the margin", Verdict.SIZE_DIFFERS,
            "same sign, but the sizes differ by more than the margin",
        ),
        Line(
            ("same",), "same sign only", Verdict.INCONCLUSIVE,
            "same sign as the paper's, but the size is undecided",
        ),
        SIGN_UNDECIDED,
    ),
)  # fmt: skip
"""What is below the margin precedes the sign alone, because a gain that is too small to count is
not a reproduction, even if its sign is certain. No difference can have the paper's size and be
below its margin, which is below half of that size."""

CARRIED = Decisions(
    "A difference between arms, on a study that the paper does not have",
    "Other images give other sizes, so only the direction is tested, and whether the difference is "
    "large enough to count.",
    (
        *_against(Verdict.NOT_CARRIED),
        Line(("same",), "same sign", Verdict.CARRIES_OVER, "same sign as the paper's"),
        SIGN_UNDECIDED,
    ),
)


def _of_negligible(title: str, introduction: str, held: Verdict, failed: Verdict) -> Decisions:
    lines = (
        Line(("equal",), "within the margin", held, "within the margin of the paper's value"),
        Line(("beyond",), "beyond the margin", failed, DIFFER),
        SIZE_UNDECIDED,
    )
    return Decisions(title, introduction, lines)


NEGLIGIBLE = _of_negligible(
    "A difference that the paper treats as negligible, on its own study",
    "By our reading, the paper's point is that the difference is small. So its size is tested, "
    "with the metric's margin, and not its sign.",
    Verdict.REPRODUCED,
    Verdict.NOT_REPRODUCED,
)

CARRIED_NEGLIGIBLE = _of_negligible(
    "A difference that the paper treats as negligible, on a study that the paper does not have",
    "Tested as on the paper's own study.",
    Verdict.CARRIES_OVER,
    Verdict.NOT_CARRIED,
)


def _of_statements(title: str, introduction: str, held: Verdict, failed: Verdict) -> Decisions:
    undecided = "not every part is shown to hold, but none is refuted"
    lines = (
        Line(("holds",), "every part holds", held, "every part is shown to hold"),
        Line(("fails",), "some part does not hold", failed, "some part is refuted"),
        Line((), "neither", Verdict.INCONCLUSIVE, undecided),
    )
    return Decisions(title, introduction, lines)


STATEMENTS = _of_statements(
    "A statement in words, on the paper's own study",
    "A statement is divided into parts. Each part says in which range a mean lies.",
    Verdict.REPRODUCED,
    Verdict.NOT_REPRODUCED,
)

CARRIED_STATEMENTS = _of_statements(
    "A statement in words, on a study that the paper does not have",
    "Tested as on the paper's own study.",
    Verdict.CARRIES_OVER,
    Verdict.NOT_CARRIED,
)

DECISIONS = (
    DIFFERENCES,
    CARRIED,
    NEGLIGIBLE,
    CARRIED_NEGLIGIBLE,
    STATEMENTS,
    CARRIED_STATEMENTS,
    MEASUREMENTS,
)
"""All tables, in the order in which the page shows them."""
