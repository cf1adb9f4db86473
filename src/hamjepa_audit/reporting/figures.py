"""The figures of a study, which compare the arms at one number of epochs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hamjepa_audit.errors import UserError
from hamjepa_audit.reporting.drawing import (
    Arms,
    draw_line,
    draw_mean_and_range,
    lines,
    note,
    readout_panels,
    seeds,
)
from hamjepa_audit.reporting.order import final_checkpoint, in_reading_order, single
from hamjepa_audit.reporting.seed_figures import difference_forest, seed_dots
from hamjepa_audit.reporting.style import (
    label_axes,
    legend,
    logarithmic_ticks,
    panels,
    save_all,
    styled,
)
from hamjepa_audit.statistics import paired_differences, summarise

BINS = 60

LAST_TERMS = ("total", "gradient_norm", "learning_rate")
"""The columns of the history that are drawn after the loss terms."""

TERM_TITLES = {
    "gradient_norm": "Gradient norm (before clipping)",
    "learning_rate": "Learning rate (last step)",
    "logdet_floor": "Log-det floor",
    "rdmreg": "RDMReg",
    "sigreg": "SIGReg",
    "total": "Total (weighted)",
}
"""Titles of the terms whose name, with spaces for underscores, is not a title."""

LOG_SPAN = 50.0
"""Positive training curves that span more than this factor have a logarithmic axis."""


def study_figures(
    metrics: pd.DataFrame,
    curves: pd.DataFrame,
    history: pd.DataFrame,
    arms: Arms,
    folder: Path,
    confidence: float,
) -> list[Path]:
    """Writes every figure of a study as NAME_eEPOCHS.png and .pdf, for each number of epochs.

    Raises:
        UserError: the tables are not of one study, lack a number of epochs that `metrics` has,
            have no rows at the last epoch, or contain an arm that is not in `arms`.
    """
    studies = {single(table, "study") for table in (metrics, curves, history)}
    if len(studies) > 1:
        raise UserError(f"metrics, curves and history are of the studies {sorted(studies)}")
    kinds: dict[str, tuple[pd.DataFrame, Callable[[pd.DataFrame, Arms], Figure]]] = {
        "knn_sweep": (metrics, lambda rows, arms: knn_sweep(rows, arms, confidence)),
        "seeds": (metrics, lambda rows, arms: seed_dots(rows, arms, confidence)),
        "differences": (metrics, lambda rows, arms: _differences(rows, arms, confidence)),
        "eigenspectra": (curves, eigenspectra),
        "cosine_histograms": (curves, cosine_histograms),
        "norm_histograms": (curves, norm_histograms),
        "training_curves": (history, training_curves),
    }
    figures = {}
    for epochs in sorted(set(metrics["epochs"])):
        for name, (table, draw) in kinds.items():
            rows = table[table["epochs"] == epochs]
            if rows.empty:
                raise UserError(
                    f"no run of {epochs} epochs to draw {name} from; collect the tables again"
                )
            figures[f"{name}_e{epochs}"] = draw(rows, arms)
    return save_all(figures, folder)


@styled
def knn_sweep(metrics: pd.DataFrame, arms: Arms, confidence: float) -> Figure:
    """Draws top-1 accuracy (%) against k (logarithmic): mean and t interval over seeds.

    There is one panel per readout; an arm that is read out as a whole is dashed in every panel. As
    in all figures here, the tables are of one study and number of epochs, and the last checkpoint
    is shown.

    Raises:
        UserError: no kNN top-1 at the last epoch, or more than one study or number of epochs.
    """
    rows = _final(metrics, arms)
    rows = rows.assign(k=rows["metric"].str.extract(r"^knn_top1@(\d+)$")[0]).dropna(subset="k")
    _refuse_none(rows, "knn_top1@K")
    summary = summarise(rows.drop(columns="k"), confidence)
    summary["k"] = summary["metric"].str.removeprefix("knn_top1@").astype(int)
    shown = readout_panels(summary)
    figure, axes = panels(len(shown), sharey=True)
    for axis, arm, line, dashed in lines(axes, shown, summary, arms):
        by_k = line.set_index("k").sort_index()
        draw_line(axis, arms, arm, by_k["mean"], (by_k["ci_low"], by_k["ci_high"]), dashed, "o")
    for axis in axes:
        logarithmic_ticks(axis, sorted(set(summary["k"])))
    label_axes(axes, "k (neighbours)", "kNN top-1 accuracy (%)")
    legend(figure, note(rows, f"{100 * confidence:g}% t interval"))
    return figure


@styled
def eigenspectra(curves: pd.DataFrame, arms: Arms) -> Figure:
    """Draws the eigenvalues of the features' covariance against rank, both logarithmic.

    Lines are means, bands the range from minimum to maximum over seeds; panels are as in
    `knn_sweep`. Eigenvalues that are not positive are left out.
    """
    rows = _curve(curves, arms, "eigenvalue")
    shown = readout_panels(rows)
    figure, axes = panels(len(shown), sharex=True, sharey=True)
    for axis, arm, line, dashed in lines(axes, shown, rows[rows["value"] > 0], arms):
        draw_mean_and_range(axis, arms, arm, line.groupby("position")["value"], dashed)
        axis.set_xscale("log")
        axis.set_yscale("log")
    label_axes(
        axes, "Rank of the eigenvalue (1 = largest)", "Covariance eigenvalue\n(dimensionless)"
    )
    legend(figure, note(rows, "minimum to maximum"))
    return figure


def cosine_histograms(curves: pd.DataFrame, arms: Arms) -> Figure:
    """Draws histograms of the cosines of random pairs of test features (see `_histograms`)."""
    return _histograms(curves, arms, "cosine_quantile", "Cosine of a random pair", "pairs")


def norm_histograms(curves: pd.DataFrame, arms: Arms) -> Figure:
    """Draws histograms of the norms of test features (see `_histograms`)."""
    return _histograms(curves, arms, "norm_quantile", "Feature norm", "images")


@styled
def _histograms(curves: pd.DataFrame, arms: Arms, curve: str, label: str, counted: str) -> Figure:
    """Draws histograms from quantile points of equal mass of all seeds, with shared bins.

    Panels are as in `knn_sweep`. `label` says what the values are, `counted` what each belongs to.
    """
    rows = _curve(curves, arms, curve)
    edges = np.histogram_bin_edges(rows["value"], bins=BINS)
    shown = readout_panels(rows)
    figure, axes = panels(len(shown), sharex=True, sharey=True)
    for axis, arm, line, dashed in lines(axes, shown, rows, arms):
        share = 100 * np.histogram(line["value"], edges)[0] / len(line)
        colour = arms.colours[arm]
        axis.stairs(share, edges, fill=True, color=colour, alpha=0.12)
        axis.stairs(
            share,
            edges,
            color=colour,
            linewidth=arms.line_width(arm, dashed),
            linestyle="--" if dashed else "-",
            label=arms.label(arm, dashed),
        )
    label_axes(axes, f"{label}\n(dimensionless)", f"Share of {counted} per bin (%)")
    legend(figure, f"All {seeds(rows)} of an arm together; {BINS} equal bins")
    return figure


@styled
def training_curves(history: pd.DataFrame, arms: Arms) -> Figure:
    """Draws each unweighted loss term, the gradient norm and the learning rate against the epoch.

    Lines are means, bands the range from minimum to maximum over seeds; one panel per term.
    """
    single(history, "study")
    single(history, "epochs")
    rows = in_reading_order(history, arms.order)
    found = list(rows["term"].unique())
    terms = [term for term in found if term not in LAST_TERMS]
    terms += [term for term in LAST_TERMS if term in found]
    figure, axes = panels(len(terms), sharex=True)
    for axis, term in zip(axes, terms, strict=True):
        of_term = rows[rows["term"] == term]
        for arm, line in of_term.groupby("arm", sort=False):
            draw_mean_and_range(axis, arms, str(arm), line.groupby("epoch")["value"])
        low, high = of_term["value"].min(), of_term["value"].max()
        axis.set_yscale("log" if 0 < low * LOG_SPAN < high else "linear")
        axis.set_title(TERM_TITLES.get(term, term.replace("_", " ").capitalize()))
        axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axis.tick_params(labelbottom=True)
    label_axes(axes, "Epoch", "Mean over the epoch\n(dimensionless)")
    legend(figure, note(rows, "minimum to maximum") + ". Loss terms are unweighted")
    return figure


def _differences(metrics: pd.DataFrame, arms: Arms, confidence: float) -> Figure:
    return difference_forest(paired_differences(metrics, arms.order, confidence), arms)


def _final(frame: pd.DataFrame, arms: Arms) -> pd.DataFrame:
    single(frame, "study")
    single(frame, "epochs")
    return in_reading_order(final_checkpoint(frame), arms.order)


def _curve(curves: pd.DataFrame, arms: Arms, curve: str) -> pd.DataFrame:
    rows = _final(curves, arms)
    rows = rows[rows["curve"] == curve]
    _refuse_none(rows, curve)
    return rows


def _refuse_none(rows: pd.DataFrame, wanted: str) -> None:
    if rows.empty:
        raise UserError(f"no '{wanted}' was measured at the last epoch; evaluate it again")
