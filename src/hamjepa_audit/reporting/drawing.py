"""What all figures have in common: a line with a band per arm, and a panel per readout."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes

from hamjepa_audit.errors import UserError
from hamjepa_audit.reporting.formatting import quantity
from hamjepa_audit.reporting.names import readout_title
from hamjepa_audit.reporting.order import present
from hamjepa_audit.reporting.style import colours
from hamjepa_audit.statistics.summaries import READOUTS

if TYPE_CHECKING:
    from pandas.core.groupby import SeriesGroupBy

NARROWEST, WIDENING, DASHED = 1.3, 0.8, 1.6
"""Line widths in points: of the arm drawn last, the increase per arm below it, of dashed lines."""


class Arms(NamedTuple):
    """The arms of a figure in their order, with the title and the colour of each."""

    order: tuple[str, ...]
    titles: Mapping[str, str]
    colours: Mapping[str, str]

    @classmethod
    def of(cls, order: Sequence[str], titles: Mapping[str, str]) -> "Arms":
        """Arms in the given order, each with a colour.

        Raises:
            UserError: an arm has no title, or there are more arms than colours.
        """
        untitled = [arm for arm in order if arm not in titles]
        if untitled:
            raise UserError(f"no title for the arms {untitled}; give each arm a title")
        return cls(tuple(order), titles, colours(order))

    def line_width(self, arm: str, dashed: bool) -> float:
        """Line width in points: arms drawn first are wider, so that no line hides another."""
        if dashed:
            return DASHED
        covered_by = len(self.order) - 1 - self.order.index(arm)
        return NARROWEST + WIDENING * covered_by

    def label(self, arm: str, whole: bool) -> str:
        """The arm's name in a legend, which says if its state is read out as a whole."""
        return f"{self.titles[arm]} (whole state)" if whole else self.titles[arm]


def readout_panels(rows: pd.DataFrame) -> list[str]:
    """The panels of a figure: the parts of a state, or the whole where no arm has parts."""
    found = present(READOUTS, rows["readout"])
    return [readout for readout in found if readout != "all"] or found


def lines(
    axes: Sequence[Axes], shown: Sequence[str], rows: pd.DataFrame, arms: Arms
) -> Iterator[tuple[Axes, str, pd.DataFrame, bool]]:
    """Sets the titles of panels and yields their lines: axes, arm, rows, and whether it is dashed.

    An arm that is read out as a whole is a dashed reference in the panels of the parts.
    """
    for axis, readout in zip(axes, shown, strict=True):
        axis.set_title(readout_title(readout))
        for arm in arms.order:
            of_arm = rows[rows["arm"] == arm]
            part = of_arm[of_arm["readout"] == readout]
            whole = of_arm[of_arm["readout"] == "all"]
            if not part.empty:
                yield axis, arm, part, False
            elif not whole.empty:
                yield axis, arm, whole, True


def draw_line(
    axis: Axes,
    arms: Arms,
    arm: str,
    centre: "pd.Series[Any]",
    band: tuple["pd.Series[Any]", "pd.Series[Any]"],
    dashed: bool = False,
    marker: str = "",
) -> None:
    """Draws an arm's line against the index, and its band, which is left out where it is NaN."""
    axis.plot(
        centre.index,
        centre,
        color=arms.colours[arm],
        linewidth=arms.line_width(arm, dashed),
        linestyle="--" if dashed else "-",
        marker=marker,
        label=arms.label(arm, dashed),
    )
    axis.fill_between(centre.index, *band, color=arms.colours[arm], alpha=0.2, linewidth=0)


def draw_mean_and_range(
    axis: Axes, arms: Arms, arm: str, values: "SeriesGroupBy[Any, Any]", dashed: bool = False
) -> None:
    """Draws an arm's mean of `values` grouped by x, and the range from minimum to maximum."""
    draw_line(axis, arms, arm, values.mean(), (values.min(), values.max()), dashed)


def note(rows: pd.DataFrame, band: str) -> str:
    """The text that says what a line and its band are, and over how many seeds."""
    if seeds(rows) == "1 seed":
        return "A single seed: no band"
    return f"Line: mean over {seeds(rows)}. Band: {band}"


def seeds(rows: pd.DataFrame) -> str:
    """The number of seeds of the arms as text: '5 seeds', or '3 to 5 seeds'."""
    counts = rows.groupby("arm")["seed"].nunique()
    return quantity(counts.min(), "seed", counts.max())
