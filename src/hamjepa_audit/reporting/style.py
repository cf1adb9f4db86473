"""The style of all figures, and how they are written: the same numbers give the same bytes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from hamjepa_audit.errors import UserError
from hamjepa_audit.files import atomic_path

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colour-blind-safe palette without yellow, which is faint on white."""

WIDTH = 9.0
"""Width in inches: in a README (about 850 pixels wide) 9 pt text remains larger than 8 pt."""

PANEL_HEIGHT = 2.7
"""Height of a panel in inches."""

COLUMNS = 3
"""The default number of panels per row: q, p, qp."""

STYLE = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "figure.dpi": 100,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same glyphs on every machine
    "font.size": 10,
    "grid.alpha": 0.35,
    "grid.linewidth": 0.6,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "legend.title_fontsize": 9.5,
    "lines.markersize": 4,
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
}

styled = matplotlib.style.context(STYLE, after_reset=True)
"""Decorates functions that draw or write: our style on matplotlib's defaults, not the user's."""


def colours(arm_order: Sequence[str]) -> dict[str, str]:
    """The colour of each arm, by its position in the study: the same in every figure.

    Raises:
        UserError: there are more arms than colours.
    """
    if len(arm_order) > len(COLOURS):
        raise UserError(
            f"figures have {len(COLOURS)} colours, too few for {len(arm_order)} arms: "
            f"{list(arm_order)}; split the study"
        )
    return dict(zip(arm_order, COLOURS, strict=False))


def panels(number: int, columns: int = COLUMNS, **subplots: Any) -> tuple[Figure, list[Axes]]:
    """A figure with `number` panels, and its axes row by row.

    It is WIDTH wide with COLUMNS panels per row, wider with more. `subplots` are arguments for
    matplotlib's `Figure.subplots`.
    """
    columns = min(columns, number)
    rows = -(-number // columns)
    wide = columns >= COLUMNS
    width = WIDTH * columns / COLUMNS if wide else 0.3 * WIDTH * (columns + 1)
    figure = Figure(figsize=(width, PANEL_HEIGHT * rows + 0.9), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **subplots).ravel().tolist()
    for unused in axes[number:]:
        unused.remove()
    return figure, axes[:number]


def label_rows(axes: Axes, labels: Sequence[str]) -> None:
    """Makes the y axis a list of rows from top to bottom, at 0, 1, ..., each with its label."""
    axes.set_yticks(range(len(labels)), labels=labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def logarithmic_ticks(axes: Axes, ticks: Sequence[int]) -> None:
    """Makes the x axis logarithmic, with exactly these ticks, written as plain integers."""
    axes.set_xscale("log")
    axes.set_xticks(ticks, labels=[str(tick) for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def label_axes(axes: Sequence[Axes], below: str, beside: str) -> None:
    """Labels the x axes of the last panels of columns, and the y axes of the first of rows."""
    place = axes[0].get_subplotspec()
    columns = 1 if place is None else place.get_gridspec().ncols
    for axis in axes[-columns:]:
        axis.set_xlabel(below)
    for axis in axes[::columns]:
        axis.set_ylabel(beside)


def legend(figure: Figure, note: str, columns: int = 4) -> None:
    """Adds one legend for all panels below them: each label once, and `note` as its heading."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=min(columns, len(handles)),
        title=note,
    )


def save_all(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Writes figures by their names, all of them drawn: a study has all its figures or none."""
    return [file for name, figure in figures.items() for file in save(figure, folder, name)]


@styled
def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Writes NAME.png (200 dpi) and NAME.pdf atomically, without dates or versions in them."""
    metadata: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    written = []
    for ending, without in metadata.items():
        target = folder / f"{name}.{ending}"
        with atomic_path(target) as temporary:
            figure.savefig(temporary, format=ending, metadata=without)
        written.append(target)
    return written
