"""Figures of single seeds: the values of each run, and the differences of arms by seed."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hamjepa_audit.reporting.drawing import Arms, readout_panels, seeds
from hamjepa_audit.reporting.formatting import quantity
from hamjepa_audit.reporting.names import readout_title, with_readout, with_unit
from hamjepa_audit.reporting.order import (
    LEADING,
    OVERVIEW,
    final_checkpoint,
    in_reading_order,
    present,
)
from hamjepa_audit.reporting.style import WIDTH, label_rows, legend, styled
from hamjepa_audit.statistics.order import rank_in_order, sorted_in_order
from hamjepa_audit.statistics.summaries import summarise

ROW_HEIGHT, PANEL_HEIGHT = 0.21, 2.5
"""Heights in inches: of a line of a forest plot, and of a panel of seeds."""

MEAN_OFFSET = 0.28
"""Distance of the mean from the dots of its seeds, in units of the distance between arms."""


@styled
def seed_dots(metrics: pd.DataFrame, arms: Arms, confidence: float) -> Figure:
    """Draws the value of every seed at the last checkpoint, and means with t intervals.

    A grey line joins the runs of a seed. There is one row of panels per metric of LEADING and one
    column per readout; an arm that is read out as a whole is in every column. `metrics` are of one
    study and number of epochs.

    Raises:
        UserError: nothing was measured at the last epoch.
    """
    rows = in_reading_order(final_checkpoint(metrics), arms.order)
    names = present(LEADING, rows["metric"])
    shown = readout_panels(rows)
    figure = Figure(
        figsize=(max(WIDTH * len(shown) / 3, 4.5), PANEL_HEIGHT * max(len(names), 1) + 0.9),
        layout="constrained",
    )
    grid = figure.subplots(max(len(names), 1), len(shown), squeeze=False, sharex=True, sharey="row")
    for line, name in zip(grid, names, strict=False):
        of_metric = rows[rows["metric"] == name]
        unit = of_metric["unit"].iloc[0]
        for axis, readout in zip(line, shown, strict=True):
            part = _readout_or_whole(of_metric, readout, arms)
            _draw_seeds(axis, part, summarise(part, confidence), arms)
        line[0].set_ylabel(with_unit(name, unit))
    for axis, readout in zip(grid[0], shown, strict=True):
        axis.set_title(readout_title(readout))
    interval = "" if seeds(rows) == "1 seed" else f". Bars: mean, {100 * confidence:g}% t interval"
    legend(figure, f"Dots: {seeds(rows)}, grey lines join the runs of one seed{interval}")
    return figure


def _readout_or_whole(rows: pd.DataFrame, readout: str, arms: Arms) -> pd.DataFrame:
    """The rows of a readout for every arm, or those of the whole state if the arm has no parts."""
    chosen = []
    for arm in arms.order:
        of_arm = rows[rows["arm"] == arm]
        part = of_arm[of_arm["readout"] == readout]
        chosen.append(part if not part.empty else of_arm[of_arm["readout"] == "all"])
    return pd.concat(chosen)


def _draw_seeds(axis: Axes, rows: pd.DataFrame, summary: pd.DataFrame, arms: Arms) -> None:
    for _, run in rows.groupby("seed"):
        axis.plot(
            rank_in_order(run["arm"], arms.order),
            run["value"],
            color="0.72",
            linewidth=0.8,
            zorder=1,
        )
    for row in in_reading_order(summary, arms.order).to_dict("records"):
        arm = str(row["arm"])
        values = rows.loc[rows["arm"] == arm, "value"]
        label = arms.label(arm, row["readout"] == "all")
        colour = arms.colours[arm]
        place = arms.order.index(arm)
        axis.plot([place] * len(values), values, "o", color=colour, label=label, alpha=0.85)
        reach = None if np.isnan(row["ci_low"]) else (row["ci_high"] - row["ci_low"]) / 2
        beside = place + MEAN_OFFSET
        axis.errorbar(beside, row["mean"], reach, fmt="_", color=colour, capsize=3, markersize=9)
    axis.set_xlim(-0.5, len(arms.order) - 0.3)
    axis.set_xticks([])
    axis.grid(visible=False, axis="x")


@styled
def difference_forest(differences: pd.DataFrame, arms: Arms) -> Figure:
    """Draws the differences of every arm from the baseline, paired by seed, with their intervals.

    There is one panel per metric of OVERVIEW and one line per arm and readout. `differences` come
    from `paired_differences`, for one study and number of epochs.
    """
    baseline = arms.order[0]
    final = differences["checkpoint_epoch"] == differences["epochs"]
    rows = differences[final & (differences["subtrahend_arm"] == baseline)]
    rows = sorted_in_order(rows, ["minuend_arm"], {"minuend_arm": arms.order})
    names = present(OVERVIEW, rows["metric"])
    if not names:
        return _without_lines(f"No seed has both {arms.titles[baseline]} and another arm")
    tables = [rows[rows["metric"] == name] for name in names]
    labels = [_labels(table, arms) for table in tables]
    height = ROW_HEIGHT * len(tables[0]) + 0.75
    columns = min(3, len(names))
    number = -(-len(names) // columns)
    figure = Figure(figsize=(WIDTH, height * number + 0.4), layout="constrained")
    axes = figure.subplots(number, columns, squeeze=False).ravel().tolist()
    for unused in axes[len(names) :]:
        unused.remove()
    for position, (axis, name, table) in enumerate(zip(axes, names, tables, strict=False)):
        axis.set_title(with_unit(name, table["unit"].iloc[0]))
        _forest(axis, table, arms)
        label_rows(axis, labels[position])
        if position % columns and labels[position] == labels[position - position % columns]:
            axis.tick_params(labelleft=False)  # they stand beside the first of the row
    interval = f", {100 * rows['confidence'].iloc[0]:g}% t interval"
    meaning = f"mean{interval if rows['ci_low'].notna().any() else ''}"
    meaning += f" ({quantity(rows['n'].min(), 'seed', rows['n'].max())})"
    figure.supxlabel(
        f"Difference from {arms.titles[baseline]}, paired by seed: {meaning}", fontsize=10
    )
    return figure


def _forest(axis: Axes, rows: pd.DataFrame, arms: Arms) -> None:
    """Draws rows from top to bottom, each an estimate with its interval, and a line at zero."""
    axis.axvline(0, color="0.35", linewidth=0.9, zorder=1)
    for position, row in enumerate(rows.to_dict("records")):
        colour = arms.colours[row["minuend_arm"]]
        axis.plot([row["ci_low"], row["ci_high"]], [position] * 2, color=colour, linewidth=1.6)
        axis.plot(row["mean_difference"], position, "o", color=colour, markersize=4.5)


def _labels(rows: pd.DataFrame, arms: Arms) -> list[str]:
    sides = zip(rows["minuend_arm"], rows["minuend_readout"], strict=True)
    return [with_readout(arms.titles[arm], readout) for arm, readout in sides]


def _without_lines(reason: str) -> Figure:
    figure = Figure(figsize=(WIDTH, 1.0), layout="constrained")
    figure.text(0.5, 0.5, reason, ha="center", va="center")
    return figure
