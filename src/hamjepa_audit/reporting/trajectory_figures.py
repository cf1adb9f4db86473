"""The figures of metrics along training, which follow the preprint's figures 5 and 6."""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from hamjepa_audit.reporting.drawing import Arms, draw_line, lines, note, readout_panels
from hamjepa_audit.reporting.names import with_unit
from hamjepa_audit.reporting.order import ACCURACIES, in_reading_order, present, single
from hamjepa_audit.reporting.style import label_axes, legend, panels, save_all, styled
from hamjepa_audit.statistics import summarise
from hamjepa_audit.statistics.trajectories import rank_correlations

PROBE = "linear_probe_top1"
"""The metric that is drawn against the effective rank, and correlated with it."""

ROOM_PER_LINE = 0.11
"""Room for each line of a legend below the data, as a share of the data's height."""


def trajectory_figures(
    metrics: pd.DataFrame, arms: Arms, folder: Path, confidence: float, rank: str
) -> list[Path]:
    """Writes both figures as NAME_eEPOCHS.png and .pdf for numbers of epochs with checkpoints.

    `rank` is the metric of ours that the paper's effective rank is compared with.
    """
    figures = {}
    for epochs in sorted(set(metrics["epochs"])):
        rows = metrics[(metrics["epochs"] == epochs) & metrics["metric"].isin([*ACCURACIES, rank])]
        if rows["checkpoint_epoch"].nunique() > 1:
            rows = in_reading_order(rows, arms.order)
            figures[f"readouts_along_training_e{epochs}"] = along_training(
                rows, arms, confidence, rank
            )
            figures[f"accuracy_against_rank_e{epochs}"] = against_rank(rows, arms, confidence, rank)
    return save_all(figures, folder)


@styled
def along_training(metrics: pd.DataFrame, arms: Arms, confidence: float, rank: str) -> Figure:
    """Draws accuracies and effective rank against the epoch: mean and t interval over seeds.

    There is one row of panels per metric and one panel per readout; an arm that is read out as a
    whole is dashed in every panel.
    """
    single(metrics, "epochs")
    summary = summarise(metrics, confidence)
    shown = readout_panels(summary)
    names = present((*ACCURACIES, rank), summary["metric"])
    figure, axes = panels(len(shown) * len(names), columns=len(shown), sharex=True)
    for number, metric in enumerate(names):
        row = axes[number * len(shown) : (number + 1) * len(shown)]
        of_metric = summary[summary["metric"] == metric]
        for axis, arm, line, dashed in lines(row, shown, of_metric, arms):
            by_epoch = line.set_index("checkpoint_epoch").sort_index()
            band = (by_epoch["ci_low"], by_epoch["ci_high"])
            draw_line(axis, arms, arm, by_epoch["mean"], band, dashed, "o")
        row[0].set_ylabel(_label(metric))
        _share_limits(row, 0, 100 if metric in ACCURACIES else np.inf)
    for axis in axes:
        axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
    for axis in axes[-len(shown) :]:
        axis.set_xlabel("Epoch")
    legend(figure, note(metrics, f"{100 * confidence:g}% t interval"))
    return figure


@styled
def against_rank(metrics: pd.DataFrame, arms: Arms, confidence: float, rank: str) -> Figure:
    """Draws probe accuracy against effective rank by checkpoint, with Spearman's rho.

    Points are means over seeds, bars are t intervals of both metrics; the large marker is the last
    checkpoint. Rho is computed over the checkpoints of each run; its mean over seeds and t interval
    are given.
    """
    single(metrics, "epochs")
    rho = rank_correlations(metrics, PROBE, rank, confidence)
    summary = summarise(metrics[metrics["metric"].isin([PROBE, rank])], confidence)
    shown = readout_panels(summary)
    figure, axes = panels(len(shown), sharey=True)
    correlations: dict[Axes, list[Line2D]] = {axis: [] for axis in axes}
    for axis, arm, line, dashed in lines(axes, shown, summary, arms):
        _draw_trajectory(axis, line, arms, arm, dashed, rank)
        readout = line["readout"].iloc[0]
        found = rho[(rho["arm"] == arm) & (rho["readout"] == readout)]
        for row in found.to_dict("records"):
            handle = Line2D([], [], color=arms.colours[arm], marker="o", markersize=3)
            handle.set_label(_correlation(row))
            correlations[axis].append(handle)
    _share_limits(axes, 0, 100)
    for axis in axes:
        axis.set_xlim(left=max(0.0, axis.get_xlim()[0]))
    _name_correlations(correlations)
    label_axes(axes, _label(rank), _label(PROBE))
    meaning = note(metrics, f"{100 * confidence:g}% t intervals")
    legend(figure, meaning.replace("Line:", "Points:").replace("Band:", "Bars, brackets:"))
    return figure


def _label(metric: str) -> str:
    return with_unit(metric, "percent" if metric in ACCURACIES else "dimensionless")


def _name_correlations(correlations: Mapping[Axes, list[Line2D]]) -> None:
    """Adds a legend to every panel with correlations, and makes room for it below the data."""
    most = max(map(len, correlations.values()))
    if not most:
        return
    low, high = next(iter(correlations)).get_ylim()
    ticks = [tick for tick in next(iter(correlations)).get_yticks() if max(0, low) <= tick <= high]
    for axis, handles in correlations.items():
        axis.set_yticks(ticks)
        axis.set_ylim(low - ROOM_PER_LINE * (most + 1) * (high - low), high)
        axis.legend(
            handles=handles, title="Spearman's rho", loc="lower left",
            fontsize=7.5, title_fontsize=7.5,
        )  # fmt: skip


def _draw_trajectory(
    axis: Axes, line: pd.DataFrame, arms: Arms, arm: str, dashed: bool, metric: str
) -> None:
    """Draws an arm's checkpoints, joined in the order of training, with a large last marker."""
    rank, accuracy = (
        line[line["metric"] == name].set_index("checkpoint_epoch").sort_index()
        for name in (metric, PROBE)
    )
    common = rank.index.intersection(accuracy.index)
    rank, accuracy = rank.loc[common], accuracy.loc[common]
    colour = arms.colours[arm]
    axis.errorbar(  # NaN draws no bar
        rank["mean"], accuracy["mean"],
        xerr=rank["ci_high"] - rank["mean"], yerr=accuracy["ci_high"] - accuracy["mean"],
        color=colour, elinewidth=0.7, alpha=0.45, linestyle="none",
    )  # fmt: skip
    axis.plot(
        rank["mean"], accuracy["mean"], color=colour, marker="o", markersize=3,
        linestyle="--" if dashed else "-", label=arms.label(arm, dashed),
    )  # fmt: skip
    axis.plot(rank["mean"].iloc[-1:], accuracy["mean"].iloc[-1:], color=colour, marker="o", ms=7)


def _correlation(row: Mapping[Hashable, Any]) -> str:
    """A correlation as text: '0.90 [0.75, 1.00]', without the interval for one seed."""
    interval = "" if np.isnan(row["ci_low"]) else f" [{row['ci_low']:.2f}, {row['ci_high']:.2f}]"
    return f"{row['mean']:.2f}{interval}"


def _share_limits(row: Sequence[Axes], least: float, most: float) -> None:
    """Gives the panels of a metric one y axis; bands may exceed the metric's possible values."""
    limits = [axis.get_ylim() for axis in row]
    for axis in row:
        axis.set_ylim(
            max(least, min(low for low, _ in limits)), min(most, max(high for _, high in limits))
        )
