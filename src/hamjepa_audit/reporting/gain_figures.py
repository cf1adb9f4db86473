"""Figures of what causes the gain, and of its dependence on a setting."""

import textwrap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hamjepa_audit.params.studies import GainParams, StudyParams
from hamjepa_audit.plans.gain import FACTORS, Factor, gain_figures, values_of
from hamjepa_audit.reporting.drawing import note as seeds_note
from hamjepa_audit.reporting.gain_tables import HEADINGS
from hamjepa_audit.reporting.names import readout_title, with_unit
from hamjepa_audit.reporting.style import (
    COLOURS,
    WIDTH,
    legend,
    panels,
    save_all,
    styled,
)
from hamjepa_audit.statistics import paired_differences, summarise
from hamjepa_audit.statistics.gain import MAP_METRICS
from hamjepa_audit.statistics.summaries import READOUTS

WHOLE = ("qp", "all")
"""The readouts of the whole state, one of which every arm has."""

SHOWN_MAP_METRICS = {
    "map_error_removed": "linear",
    "map_symplecticity_defect": "log",
    "map_common_energy_drift": "log",
}
"""The metrics of predictors that are drawn beside the accuracies, and the scale of their axis."""

EXACT = 1e-16
"""Smaller values are rounding errors, and are drawn at this value on a logarithmic axis."""

LABEL_WIDTH = 12
"""Characters per line of a label below a narrow panel."""

ROW_HEIGHT = 0.26
"""Height of the row of an arm, in inches."""


Settings = Mapping[Factor, Mapping[str, float]]
"""The settings of a figure, each with its value by arm."""


def write_gain_figures(
    metrics: pd.DataFrame,
    table: pd.DataFrame,
    study: StudyParams,
    margins: Mapping[str, float],
    folder: Path,
) -> list[Path]:
    """Writes the figures of the gain as NAME_eEPOCHS.png and .pdf, for each number of epochs.

    `table` is what `statistics.gain` returns for the study's `metrics`; `margins` holds the
    equivalence margin of each accuracy, in its unit.
    """
    titles = study.arm_titles
    sides, confidence = study.statistics.gain, study.statistics.confidence
    final = metrics[metrics["checkpoint_epoch"] == metrics["epochs"]]
    figures = {}
    for epochs in study.epochs:
        for name in gain_figures(study):
            if name == "what_carries_the_gain":
                rows = table[table["epochs"] == epochs]
                figure = what_carries_the_gain(rows, titles, sides, confidence, margins)
            else:
                settings = {
                    factor: values
                    for factor in FACTORS
                    if factor.figure == name and (values := values_of(study, factor))
                }
                rows = _of_settings(final[final["epochs"] == epochs], settings, sides)
                figure = sensitivity(rows, settings, sides, titles, confidence)
            figures[f"{name}_e{epochs}"] = figure
    return save_all(figures, folder)


def _of_settings(rows: pd.DataFrame, settings: Settings, sides: GainParams) -> pd.DataFrame:
    """The metrics that are shown, in their order, of the arms that vary a setting."""
    shown = [*sides.accuracies, *MAP_METRICS[:1]]
    arms = {arm for values in settings.values() for arm in values}
    chosen = rows[rows["arm"].isin(arms) & rows["metric"].isin(shown)]
    return chosen.sort_values("metric", key=lambda x: x.map(shown.index), kind="stable")


@styled
def what_carries_the_gain(
    table: pd.DataFrame,
    titles: Mapping[str, str],
    params: GainParams,
    confidence: float,
    margins: Mapping[str, float],
) -> Figure:
    """Draws for each arm its paired differences from both references, and its map's behaviour.

    Only whole states are shown, because every arm has one and all have the same size. There is one
    row per arm, in the order of `table`, which is what `statistics.gain` returns, for one number of
    epochs.
    """
    rows = table[table["readout"].isin(WHOLE)].reset_index(drop=True)
    height = ROW_HEIGHT * len(rows) + 1.5
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    widths = [2.2] * len(params.accuracies) + [1.2] * len(SHOWN_MAP_METRICS)
    axes = figure.subplots(1, len(widths), sharey=True, width_ratios=widths)
    places = np.arange(len(rows))
    sides = ((params.baseline, -0.15, COLOURS[0]), (params.method, 0.15, COLOURS[1]))
    for axis, metric in zip(axes, params.accuracies, strict=False):
        for arm, offset, colour in sides:
            _forest(axis, rows, places + offset, f"{metric}_minus_{arm}", titles[arm], colour)
        _mark_margin(axis, margins[metric])
        axis.set_xlabel(f"{with_unit(metric, 'percent')},\ndifference (points)")
    for axis, metric in zip(axes[-len(SHOWN_MAP_METRICS) :], SHOWN_MAP_METRICS, strict=True):
        _draw_map_metric(axis, metric, rows[metric], places)
    axes[0].set_yticks(places, labels=[titles[arm] for arm in rows["arm"]])
    axes[0].set_ylim(len(rows) - 0.4, -0.6)
    bounds = [name for name in rows.columns if name.endswith("_ci_low")]
    interval = f", {100 * confidence:g}% t intervals" if rows[bounds].notna().any(axis=None) else ""
    note = f"Whole states. Differences paired by seed{interval}. "
    note += f"Green: means; below {EXACT:g} drawn at {EXACT:g}"
    legend(figure, note)
    return figure


def _forest(
    axis: Axes, rows: pd.DataFrame, places: np.ndarray, column: str, reference: str, colour: str
) -> None:
    """Draws differences from a reference with their intervals; its own row has none."""
    difference = rows[column].to_numpy(dtype=float)
    reach = rows[f"{column}_ci_high"].to_numpy(dtype=float) - difference
    axis.errorbar(
        difference, places, xerr=np.nan_to_num(reach), fmt="o", color=colour, linewidth=1.3,
        label=f"minus {reference}",
    )  # fmt: skip


def _mark_margin(axis: Axes, margin: float) -> None:
    axis.axvline(0.0, color="black", linewidth=0.8)
    axis.axvspan(
        -margin, margin, color="black", alpha=0.12, linewidth=0, label="equivalence margin"
    )


def _draw_map_metric(
    axis: Axes, metric: str, values: "pd.Series[float]", places: np.ndarray
) -> None:
    scale = SHOWN_MAP_METRICS[metric]
    axis.set_xscale(scale)
    axis.plot(values.clip(lower=EXACT) if scale == "log" else values, places, "o", color=COLOURS[2])
    axis.set_xlabel(textwrap.fill(HEADINGS[metric], LABEL_WIDTH, break_long_words=False))
    if scale == "linear":
        axis.axvline(0.0, color="black", linewidth=0.8)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=2))


@styled
def sensitivity(
    metrics: pd.DataFrame,
    settings: Settings,
    sides: GainParams,
    titles: Mapping[str, str],
    confidence: float,
) -> Figure:
    """Draws accuracies and dynamics against settings: mean and t interval over seeds.

    Accuracies are shown as paired differences from the paper's setting, because the variation that
    all settings share would hide their effect. Other metrics are shown as measured. Each setting is
    a row of panels; each metric of the table, which is of one number of epochs and checkpoint, is a
    column, in the order of first occurrence.
    """
    names = list(metrics["metric"].unique())
    figure, axes = panels(len(settings) * len(names), columns=len(names))
    used = iter(axes)
    for factor, values in settings.items():
        rows, reference = metrics[metrics["arm"].isin(list(values))], getattr(sides, factor.side)
        for metric in names:
            axis = next(used)
            of_metric, label = rows[rows["metric"] == metric], HEADINGS.get(metric)
            if label is None:
                summary = _minus_reference(of_metric, reference, confidence)
                label = f"{with_unit(metric, 'percent')}\nminus {titles[reference]}"
            else:
                summary = summarise(of_metric, confidence)
            _curves(axis, summary.assign(x=summary["arm"].map(values)))
            ticks = sorted(values.values())
            axis.set_xscale("log")
            axis.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
            axis.minorticks_off()
            axis.set_xlabel(factor.symbol)
            axis.set_ylabel(label)
    legend(figure, seeds_note(metrics, f"{100 * confidence:g}% t interval"))
    return figure


def _minus_reference(rows: pd.DataFrame, reference: str, confidence: float) -> pd.DataFrame:
    """Paired differences from the reference's same readout, named as `summarise` names means."""
    order = [reference, *(arm for arm in rows["arm"].unique() if arm != reference)]
    found = paired_differences(rows, order, confidence)
    same = found["minuend_readout"] == found["subtrahend_readout"]
    found = found[same & (found["subtrahend_arm"] == reference) & (found["n"] > 0)]
    names = {"minuend_arm": "arm", "minuend_readout": "readout", "mean_difference": "mean"}
    # Minus itself, the reference is 0 by definition: the band closes there.
    own = rows.loc[rows["arm"] == reference, ["arm", "readout"]].drop_duplicates()
    own = own.assign(mean=0.0, ci_low=0.0, ci_high=0.0)
    return pd.concat([own, found.rename(columns=names)])[list(own)]


def _curves(axis: Axes, summary: pd.DataFrame) -> None:
    """Draws one line per readout."""
    for position, readout in enumerate(READOUTS):
        line = summary[summary["readout"] == readout].sort_values("x")
        if line.empty:
            continue
        colour = COLOURS[position]
        label = readout_title(readout).lower()
        axis.plot(line["x"], line["mean"], "o-", color=colour, label=label)
        axis.fill_between(
            line["x"], line["ci_low"], line["ci_high"], color=colour, alpha=0.2, linewidth=0
        )
