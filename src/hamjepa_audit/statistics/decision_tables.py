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
        ("no seeds",),
        "whatever it is",
        Verdict.NOT_RUN,
        "no seed has what the claim needs",
        seeds="none",
    ),
    Line(
        ("too few seeds",),
        "whatever it is",
        Verdict.INCONCLUSIVE,
        "fewer than {minimum} seeds",
        seeds="too few",
    ),
)
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
            ("beyond",),
            "further from the paper's than the margin",
            Verdict.NOT_REPRODUCED,
            "our value is further from the paper's than the margin",
        ),
        Line(
            ("interval beyond",),
            "",
            Verdict.INCONCLUSIVE,
            "our interval is beyond the margin, but the paper's seeds may differ from ours as much "
            "by chance",
        ),
        Line(
            (),
            "neither",
            Verdict.INCONCLUSIVE,
            "neither within the margin nor beyond it is shown",
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
            ("same", "beyond"),
            "same sign, further from the paper's than the margin",
            Verdict.SIZE_DIFFERS,
            "same sign, but further from the paper's than the margin",
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


def _of_negligible(title: str, introduction: str, held: Verdict, failed: Verdict) -> Decisions:
    return Decisions(
        title,
        introduction,
        (
            Line(("equal",), "equal within the margin", held, "within the margin of the paper's"),
            Line(
                ("beyond",),
                "further from the paper's than the margin",
                failed,
                "further from the paper's than the margin",
            ),
            Line(
                (),
                "neither",
                Verdict.INCONCLUSIVE,
                "neither within the margin nor beyond it is shown",
            ),
        ),
    )


NEGLIGIBLE = _of_negligible(
    "A difference that the paper treats as negligible, on its own study",
    "It is smaller than the metric's margin, so that its sign says nothing: its size is judged, by "
    "that margin.",
    Verdict.REPRODUCED,
    Verdict.NOT_REPRODUCED,
)

CARRIED_NEGLIGIBLE = _of_negligible(
    "A difference that the paper treats as negligible, on a study that it does not have",
    "As on the paper's own study: what is negligible there should be so here.",
    Verdict.CARRIES_OVER,
    Verdict.NOT_CARRIED,
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
