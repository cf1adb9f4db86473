"""Figures of what carries the gain, and of how it depends on a setting."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hamjepa_audit.params.studies import GainParams
from hamjepa_audit.reporting.gain_tables import HEADINGS
from hamjepa_audit.reporting.names import with_unit
from hamjepa_audit.reporting.style import (
    COLOURS,
    WIDTH,
    legend,
    panels,
    styled,
)
from hamjepa_audit.statistics import summarise
from hamjepa_audit.statistics.summaries import READOUTS

WHOLE = ("qp", "all")
"""Readouts of the whole state, the one that every arm has."""

SHOWN_DYNAMICS = {
    "map_error_removed": "linear",
    "map_symplecticity_defect": "log",
    "map_common_energy_drift": "log",
}
"""What is drawn beside the accuracies, and on which axis."""

EXACT = 1e-16
"""What is below this on a logarithmic axis is rounding, and is drawn here."""

LABEL_WIDTH = 12
"""Letters of a line below a narrow panel."""

ROW_HEIGHT = 0.26
"""Inches an arm."""


class Sweep(NamedTuple):
    """A setting, its value by arm, and the arm that has the paper's."""

    symbol: str
    values: Mapping[str, float]
    reference: str


@styled
def what_carries_the_gain(
    table: pd.DataFrame,
    titles: Mapping[str, str],
    params: GainParams,
    confidence: float,
    margins: Mapping[str, float],
) -> Figure:
    """A row an arm: paired differences from both references in accuracy, and what its map does.

    Whole states alone, which every arm has and which are of one size.

    Args:
        table: what `statistics.gain` returns, of one number of epochs, in the order of the rows.
        titles: each arm's name.
        params: the references and accuracies that it was made with.
        confidence: level of the intervals.
        margins: of each accuracy, within which a difference is small, in its unit.
    """
    rows = table[table["readout"].isin(WHOLE)].reset_index(drop=True)
    height = ROW_HEIGHT * len(rows) + 1.5
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    widths = [2.2] * len(params.accuracies) + [1.2] * len(SHOWN_DYNAMICS)
    axes = figure.subplots(1, len(widths), sharey=True, width_ratios=widths)
    places = np.arange(len(rows))
    for axis, metric in zip(axes, params.accuracies, strict=False):
        for arm, offset, colour in zip(
            (params.baseline, params.method), (-0.15, 0.15), COLOURS, strict=False
        ):
            _forest(axis, rows, places + offset, f"{metric}_minus_{arm}", titles[arm], colour)
        axis.axvline(0.0, color="black", linewidth=0.8)
        margin = margins[metric]
        axis.axvspan(
            -margin, margin, color="black", alpha=0.12, linewidth=0, label="equivalence margin"
        )
        axis.set_xlabel(f"{with_unit(metric, 'percent')},\ndifference (points)")
    for axis, (metric, scale) in zip(
        axes[-len(SHOWN_DYNAMICS) :], SHOWN_DYNAMICS.items(), strict=True
    ):
        values = rows[metric].clip(lower=EXACT) if scale == "log" else rows[metric]
        axis.set_xscale(scale)
        axis.plot(values, places, "o", color=COLOURS[2])
        axis.set_xlabel(textwrap.fill(HEADINGS[metric], LABEL_WIDTH, break_long_words=False))
        if scale == "linear":
            axis.axvline(0.0, color="black", linewidth=0.8)
            axis.xaxis.set_major_locator(MaxNLocator(nbins=2))
    axes[0].set_yticks(places, labels=[titles[arm] for arm in rows["arm"]])
    axes[0].set_ylim(len(rows) - 0.4, -0.6)
    note = f"Whole states. Paired differences over seeds, {100 * confidence:g}% t intervals. "
    note += f"Green: means, below {EXACT:g} drawn there"
    legend(figure, note)
    return figure


def _forest(
    axis: Axes, rows: pd.DataFrame, places: np.ndarray, column: str, reference: str, colour: str
) -> None:
    """Differences from one reference with their intervals; none in the reference's own row."""
    difference = rows[column].to_numpy(dtype=float)
    reach = rows[f"{column}_ci_high"].to_numpy(dtype=float) - difference
    axis.errorbar(
        difference, places, xerr=np.nan_to_num(reach), fmt="o", color=colour, linewidth=1.3,
        label=f"minus {reference}",
    )  # fmt: skip


@styled
def sensitivity(
    metrics: pd.DataFrame, sweeps: Sequence[Sweep], titles: Mapping[str, str], confidence: float
) -> Figure:
    """Accuracies and dynamics against settings: mean, and t interval over seeds as band.

    Accuracies are paired differences from the paper's setting: what the seeds have in common
    would hide what the setting does. The rest is as it was measured.

    Args:
        metrics: METRICS_SCHEMA, one study, number of epochs and checkpoint; each of its metrics
            is a column of panels, in the order of their first rows.
        sweeps: a row of panels each.
        titles: each reference's name.
        confidence: level of the band.
    """
    names = list(metrics["metric"].unique())
    figure, axes = panels(len(sweeps) * len(names), columns=len(names))
    used = iter(axes)
    for sweep in sweeps:
        rows = metrics[metrics["arm"].isin(list(sweep.values))]
        for metric in names:
            axis = next(used)
            of_metric, label = rows[rows["metric"] == metric], HEADINGS.get(metric)
            if label is None:
                of_metric = _minus_reference(of_metric, sweep.reference)
                label = f"{with_unit(metric, 'percent')}\nminus {titles[sweep.reference]}"
            summary = summarise(of_metric, confidence)
            _curves(axis, summary.assign(x=summary["arm"].map(sweep.values)))
            ticks = sorted(sweep.values.values())
            axis.set_xscale("log")
            axis.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
            axis.minorticks_off()
            axis.set_xlabel(sweep.symbol)
            axis.set_ylabel(label)
    seeds = metrics["seed"].nunique()
    legend(figure, f"Line: mean over {seeds} seeds. Band: {100 * confidence:g}% t interval")
    return figure


def _minus_reference(rows: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Each value minus the reference's of the same seed and readout; without it, left out."""
    key = ["seed", "readout"]
    theirs = rows.loc[rows["arm"] == reference, [*key, "value"]]
    both = rows.merge(theirs, on=key, suffixes=("", "_reference"), validate="many_to_one")
    return both.assign(value=both["value"] - both["value_reference"])


def _curves(axis: Axes, summary: pd.DataFrame) -> None:
    """A line a readout."""
    for position, readout in enumerate(READOUTS):
        line = summary[summary["readout"] == readout].sort_values("x")
        if line.empty:
            continue
        colour = COLOURS[position]
        label = "whole state" if readout == "all" else f"readout {readout}"
        axis.plot(line["x"], line["mean"], "o-", color=colour, label=label)
        axis.fill_between(
            line["x"], line["ci_low"], line["ci_high"], color=colour, alpha=0.2, linewidth=0
        )
