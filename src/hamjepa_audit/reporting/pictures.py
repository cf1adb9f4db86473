"""The small picture of a claim: the paper's value above our seeds, on a common axis.

Only coordinates are computed here; the markup is the macro `picture` in templates/macros.html.j2.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 320, 96
"""Size of the picture, in its own units."""

LEFT, RIGHT = 14, 306
"""Ends of the axis, in units of the picture."""


class Tick(NamedTuple):
    """A tick of the axis, with the number below it."""

    x: float
    text: str


class Picture(NamedTuple):
    """Coordinates in units of the picture; None where there is nothing to draw.

    `band` is the range of what counts as equal; ranges and bounds are (low, high).
    """

    description: str
    band: tuple[float, float] | None
    zero: float | None
    paper: float
    paper_bounds: tuple[float, float] | None
    seeds: tuple[float, ...]
    mean: float | None
    bounds: tuple[float, float] | None
    ticks: tuple[Tick, ...]


def picture(
    description: str,
    paper: float,
    paper_reach: float,
    margin: float | None,
    values: Sequence[float],
    bounds: tuple[float, float],
    zero: bool,
) -> Picture:
    """Computes the picture of a claim.

    Args:
        description: description of the picture in words.
        paper: the paper's value, in the claim's unit, like all further numbers.
        paper_reach: half the width of the paper's interval; NaN if it has none.
        margin: half the width of the band of what counts as equal; None to draw no band.
        values: our values, one per seed.
        bounds: interval of our mean; NaN if there is none.
        zero: whether zero is meaningful (as for a difference) and must be visible.
    """
    known = [*values, *(bound for bound in bounds if not np.isnan(bound))]
    reach = 0.0 if np.isnan(paper_reach) else paper_reach
    around = max(reach, margin or 0.0)
    shown = [*known, paper - around, paper + around, *([0.0] if zero else [])]
    low, high = min(shown), max(shown)
    room = 0.04 * (high - low) or 1.0
    low, high = low - room, high + room

    def place(value: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * (value - low) / (high - low), 1)

    ticks = [tick for tick in MaxNLocator(nbins=4).tick_values(low, high) if low <= tick <= high]
    return Picture(
        description=description,
        band=None if margin is None else (place(paper - margin), place(paper + margin)),
        zero=place(0.0) if zero else None,
        paper=place(paper),
        paper_bounds=(place(paper - reach), place(paper + reach)) if reach else None,
        seeds=tuple(place(value) for value in values),
        mean=place(float(np.mean(values))) if len(values) else None,
        bounds=None if np.isnan(bounds[0]) else (place(bounds[0]), place(bounds[1])),
        ticks=tuple(Tick(place(tick), f"{tick:.6g}".replace("-", "−")) for tick in ticks),
    )
