"""Figures of an audit: the paper's numbers beside ours for each claim, and power by seeds."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hamjepa_audit.params.audit import AuditParams
from hamjepa_audit.reporting.drawing import Arms, draw_line, readout_panels
from hamjepa_audit.reporting.formatting import Row
from hamjepa_audit.reporting.names import metric_title, readout_title, with_readout
from hamjepa_audit.reporting.order import ACCURACIES, in_reading_order, present
from hamjepa_audit.reporting.seed_figures import ROW_HEIGHT
from hamjepa_audit.reporting.style import (
    WIDTH,
    label_axes,
    label_rows,
    legend,
    logarithmic_ticks,
    panels,
    save_all,
    styled,
)
from hamjepa_audit.statistics.decision_tables import Verdict
from hamjepa_audit.statistics.power import t_test_power
from hamjepa_audit.statistics.summaries import interval

FURTHEST = 6.0
"""Largest deviation that is drawn, in margins; larger ones are written at the edge as numbers."""

SEEDS = (2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 40, 50, 64, 80, 100, 130, 160, 200)
"""The numbers of seeds for which power is computed."""

SEED_TICKS = (2, 3, 5, 10, 20, 50, 100, 200)

PAPER, OURS = "0.45", "#0072B2"

VERDICT_COLOURS = {
    Verdict.REPRODUCED: "#00724f",
    Verdict.CARRIES_OVER: "#00724f",
    Verdict.SIZE_DIFFERS: "#8a5a00",
    Verdict.NOT_REPRODUCED: "#b33900",
    Verdict.NOT_CARRIED: "#b33900",
    Verdict.INCONCLUSIVE: "#4d4d4d",
    Verdict.NOT_RUN: "#6b6b6b",
}
"""The text colours of verdicts, dark enough to be legible on white."""


def audit_figures(
    wanted: Mapping[int, Sequence[str]],
    claims: pd.DataFrame,
    claim_differences: pd.DataFrame,
    differences: pd.DataFrame,
    arms: Arms,
    params: AuditParams,
    folder: Path,
) -> list[Path]:
    """Writes the figures of the claims that are tested on one study, as NAME_eEPOCHS.png and .pdf.

    Args:
        wanted: for each number of epochs the names of the figures (see `AuditPlan.figures`).
        claims: the rows of the table `claims` of this study.
        claim_differences: the rows of the table `claim_differences` of this study.
        differences: what `paired_differences` returns for this study.
        arms: the arms shown, the baseline first.
        params: confidence, margins and power.
        folder: where the files go.
    """
    draw = {
        "claims": lambda epochs: claim_forest(at_epochs(claims, epochs), arms, params.confidence),
        "claim_differences": lambda epochs: claim_difference_forest(
            at_epochs(claim_differences, epochs), arms, params.confidence
        ),
        "power": lambda epochs: power_curves(at_epochs(differences, epochs), arms, params),
    }
    figures = {
        f"{name}_e{epochs}": draw[name](epochs)
        for epochs, names in wanted.items()
        for name in names
    }
    return save_all(figures, folder)


def at_epochs(table: pd.DataFrame, epochs: int) -> pd.DataFrame:
    """The rows of a table with the given number of epochs."""
    return table[table["epochs"] == epochs]


@styled
def claim_forest(claims: pd.DataFrame, arms: Arms, confidence: float) -> Figure:
    """Draws the deviations of our means from the paper's values, in units of each claim's margin.

    The grey band marks what counts as equal. Grey bars are the paper's own t intervals, where it
    gives standard deviations. `claims` are rows of `measurement_claims`, of one study and number of
    epochs; an arm that is not among `arms` is labelled with its name.
    """
    margin = claims["margin"]
    _, reach = interval(0.0, claims["paper_sd"], claims["paper_n"], confidence)
    rows = claims.to_dict("records")
    labels = [
        f"{metric_title(row['metric'])}, {_side(arms, row['arm'], row['readout'])}" for row in rows
    ]
    table = claims.assign(
        label=_told_apart(labels, claims["source"]),
        theirs=0.0,
        reach=reach / margin,
        ours=claims["deviation"] / margin,
        low=(claims["ci_low"] - claims["paper"]) / margin,
        high=(claims["ci_high"] - claims["paper"]) / margin,
    )
    figure, axis = _one_panel(len(table))
    axis.axvspan(-1, 1, color="0.9", zorder=0)
    _draw_claims(axis, table, (-FURTHEST, FURTHEST))
    axis.set_xlabel("Ours minus the paper's, in units of the margin")
    legend(figure, f"{_bars(table, confidence)}Grey band: within the margin")
    return figure


@styled
def claim_difference_forest(claims: pd.DataFrame, arms: Arms, confidence: float) -> Figure:
    """Draws the differences that the paper states, and ours with their confidence intervals.

    `claims` are rows of `difference_claims`; the rest is as for `claim_forest`.
    """
    _, reach = interval(0.0, claims["paper_sd"], claims["paper_n"], confidence)
    labels = [_difference_label(row, arms) for row in claims.to_dict("records")]
    table = claims.assign(
        label=_told_apart(labels, claims["source"]),
        theirs=claims["paper"],
        reach=reach,
        ours=claims["mean_difference"],
        low=claims["ci_low"],
        high=claims["ci_high"],
    )
    figure, axis = _one_panel(len(table))
    axis.axvline(0, color="0.35", linewidth=0.9, zorder=1)
    _draw_claims(axis, table, None)
    unit = "percentage points" if (claims["unit"] == "percent").all() else "unit of the metric"
    axis.set_xlabel(f"Difference ({unit})")
    study, epochs = claims.iloc[0][["study", "epochs"]]
    note = f"Ours: {study}, {epochs} epochs, paired by seed. "
    note += "In brackets: the paper's. " if claims["carried"].any() else ""
    legend(figure, (note + _bars(table, confidence)).strip())
    return figure


def _bars(table: pd.DataFrame, confidence: float) -> str:
    """The text that says what the bars are; empty if there are none."""
    drawn = table[["reach", "low"]].notna().any(axis=None)
    return f"Bars: {100 * confidence:g}% t intervals. " if drawn else ""


def _difference_label(row: Row, arms: Arms) -> str:
    sides = f"{_named(arms, row['minuend'])} − {_named(arms, row['subtrahend'])}"
    claimed = f" ({row['paper_study']}, {row['paper_epochs']} ep.)" if row["carried"] else ""
    return f"{metric_title(row['metric'])}: {sides}{claimed}"


def _told_apart(labels: Sequence[str], sources: Iterable[str]) -> list[str]:
    """Labels, with the source where the paper states the same thing in several places."""
    count = Counter(labels)
    pairs = zip(labels, sources, strict=True)
    return [f"{label}, {source}" if count[label] > 1 else label for label, source in pairs]


def _one_panel(lines: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, ROW_HEIGHT * lines + 1.4), layout="constrained")
    return figure, figure.subplots()


def _side(arms: Arms, arm: str, readout: str) -> str:
    return with_readout(arms.titles.get(arm, arm), readout)


def _named(arms: Arms, side: str) -> str:
    arm, _, readout = side.rpartition("_")
    return _side(arms, arm, readout)


def _draw_claims(axis: Axes, table: pd.DataFrame, limits: tuple[float, float] | None) -> None:
    """Draws two estimates per line, the paper's above ours, and writes the verdict beside them."""
    for position, row in enumerate(table.to_dict("records")):
        above, below = position - 0.14, position + 0.14
        reach = np.nan_to_num(row["reach"])
        ends = [row["theirs"] - reach, row["theirs"] + reach]
        axis.plot(ends, [above] * 2, color=PAPER, linewidth=1.3)
        axis.plot(row["theirs"], above, "D", color=PAPER, markersize=3.6, label="Paper")
        _draw_ours(axis, row, below, limits)
        colour = VERDICT_COLOURS[Verdict(row["verdict"])]
        axis.annotate(
            row["verdict"],
            (1.01, position),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8.5,
            color=colour,
            annotation_clip=False,
        )
    label_rows(axis, list(table["label"]))
    axis.tick_params(axis="y", labelsize=8.5)
    if limits is not None:
        axis.set_xlim(limits)


def _draw_ours(axis: Axes, row: Row, at: float, limits: object) -> None:
    if np.isnan(row["ours"]):
        return
    if limits is not None and abs(row["ours"]) > FURTHEST:
        edge = np.copysign(FURTHEST, row["ours"])
        marker = ">" if edge > 0 else "<"
        axis.plot(edge * 0.98, at, marker, color=OURS, markersize=5, clip_on=False, label="Ours")
        text = f"{row['ours']:+.0f} "
        side = "right" if edge > 0 else "left"
        axis.text(edge * 0.95, at, text, ha=side, va="center", fontsize=8, color=OURS)
        return
    axis.plot([row["low"], row["high"]], [at] * 2, color=OURS, linewidth=1.6)
    axis.plot(row["ours"], at, "o", color=OURS, markersize=4.2, label="Ours")


@styled
def power_curves(differences: pd.DataFrame, arms: Arms, params: AuditParams) -> Figure:
    """Draws the power to show a difference from the baseline as large as the margin, by seeds.

    The power is that of the two-sided paired t-test, assuming that the standard deviation of our
    differences (from `paired_differences`, of one study and number of epochs) is the true one.
    There is one row of panels per metric of ACCURACIES and one column per readout; dots mark our
    numbers of seeds.
    """
    final = differences["checkpoint_epoch"] == differences["epochs"]
    known = differences["sd"] > 0
    rows = differences[final & known & (differences["subtrahend_arm"] == arms.order[0])]
    rows = in_reading_order(
        rows.rename(columns={"minuend_arm": "arm", "minuend_readout": "readout"}), arms.order
    )
    shown = readout_panels(rows)
    metrics = present(ACCURACIES, rows["metric"])
    drawn = [(metric, readout) for metric in metrics for readout in shown]
    figure, axes = panels(max(len(drawn), 1), columns=max(len(shown), 1), sharex=True, sharey=True)
    for axis, (metric, readout) in zip(axes, drawn, strict=False):
        of_panel = rows[(rows["metric"] == metric) & rows["readout"].isin([readout, "all"])]
        _draw_power(axis, of_panel, arms, params)
        axis.set_title(f"{metric_title(metric)}, {readout_title(readout).lower()}")
    label_axes(axes, "Number of seeds", "Power (%)")
    against = arms.titles[arms.order[0]]
    size = _margins({metric: params.absolute_margin(metric) for metric in metrics})
    note = f"Power to show a difference of {size} from {against}. Dots: our numbers of seeds"
    legend(figure, note if drawn else f"No differences from {against} that vary between seeds")
    return figure


def _margins(sizes: Mapping[str, float]) -> str:
    """The margins as text: '1 point', or '1 point (kNN@20 top-1) or 2 points (...)'."""
    texts = {name: f"{size:g} point{'' if size == 1 else 's'}" for name, size in sizes.items()}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return " or ".join(f"{text} ({metric_title(name)})" for name, text in texts.items())


def _draw_power(axis: Axes, rows: pd.DataFrame, arms: Arms, params: AuditParams) -> None:
    axis.axhline(100 * params.power, color="0.35", linewidth=0.9, linestyle=":")
    for row in rows.to_dict("records"):
        effect = params.absolute_margin(row["metric"]) / row["sd"]
        curve = pd.Series({n: _power(effect, n, params.alpha) for n in SEEDS})
        draw_line(axis, arms, row["arm"], curve, (curve, curve))
        here = _power(effect, row["n"], params.alpha)
        axis.plot(row["n"], here, "o", color=arms.colours[row["arm"]])
    logarithmic_ticks(axis, SEED_TICKS)
    axis.set_ylim(0, 103)


def _power(effect: float, n: int, alpha: float) -> float:
    """Power of the paired t-test in percent; `effect` is the difference divided by its SD."""
    return 100 * t_test_power(effect * np.sqrt(n), n - 1, alpha)
