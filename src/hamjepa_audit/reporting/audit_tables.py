"""The tables of an audit: all numbers as CSV and Parquet, the main ones as Markdown and LaTeX."""

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hamjepa_audit.reporting.formatting import Display, interval_text, mean_sd_n, number, p_value
from hamjepa_audit.reporting.tables import write_displayed
from hamjepa_audit.statistics.audit import Audit

Row = dict[Hashable, Any]


class Column(NamedTuple):
    """A displayed column: its heading, its text for a row, and whether it is right-aligned."""

    heading: str
    text: Callable[[Row], str]
    right: bool = False


def audit_tables(audit: Audit, folder: Path, names: Sequence[str] = Audit._fields) -> list[Path]:
    """Writes `claims`, `claim_differences`, `statements` and `paper_consistency`, or some of them.

    CSV and Parquet contain every column in full precision, Markdown and LaTeX the columns on which
    the verdicts rest, rounded (see `formatting.number`). P-values in the latter are Holm-adjusted,
    and their headings name the null hypothesis (H0) that a small p-value speaks against.

    Returns:
        The files written, four per table.

    Raises:
        UserError: a file can't be written.
    """
    tables = audit._asdict()
    return [file for name in names for file in audit_table(name, tables[name], folder)]


def audit_table(name: str, frame: pd.DataFrame, folder: Path) -> list[Path]:
    """Writes one of the tables of `audit_tables`, in its four forms."""
    return write_displayed(frame, _displayed(frame, READ[name]), folder, name)


def seeds_text(row: Row) -> str:
    """The number of seeds that would settle an inconclusive claim as text, otherwise empty."""
    needed = row["seeds_needed"]
    if np.isnan(needed):
        return ""
    return f"more than {row['seeds_considered']}" if np.isinf(needed) else f"{needed:.0f}"


def _displayed(frame: pd.DataFrame, columns: list[Column]) -> Display:
    rows = frame.to_dict("records")
    return Display(
        headings=[column.heading for column in columns],
        rows=[[column.text(row) for column in columns] for row in rows],
        right=[column.right for column in columns],
    )


def _text(heading: str, name: str) -> Column:
    return Column(heading, lambda row: str(row[name]))


def _number(heading: str, name: str) -> Column:
    return Column(heading, lambda row: number(row[name], row["unit"]), right=True)


def _p(heading: str, name: str) -> Column:
    return Column(heading, lambda row: p_value(row[name]), right=True)


def _interval(heading: str, low: str = "ci_low", high: str = "ci_high") -> Column:
    def text(row: Row) -> str:
        return interval_text(row[low], row[high], row["unit"])

    return Column(heading, text, right=True)


def _mean_sd_n(heading: str, mean: str, sd: str, n: str) -> Column:
    def text(row: Row) -> str:
        return mean_sd_n(row[mean], row[sd], row[n], row["unit"])

    return Column(heading, text, right=True)


_WHERE = [
    _text("Study", "study"),
    Column("Epochs", lambda row: str(row["epochs"]), right=True),
]
_ENDS = [
    _text("Verdict", "verdict"),
    Column("Seeds needed", seeds_text, right=True),
    _text("Reason", "reason"),
    _text("Source", "source"),
]
READ = {
    "claims": [
        *_WHERE,
        _text("Arm", "arm"),
        _text("Readout", "readout"),
        _text("Metric", "our_metric"),
        _mean_sd_n("Paper", "paper", "paper_sd", "paper_n"),
        _text("On the paper's number", "paper_note"),
        _mean_sd_n("Ours", "mean", "sd", "n"),
        _interval("Interval of ours"),
        _number("Margin", "margin"),
        _p("p (H0: outside margin)", "p_equivalence_holm"),
        _p("p (H0: same as the paper's)", "p_new_runs_holm"),
        *_ENDS,
        _text("Note", "note"),
    ],
    "claim_differences": [
        *_WHERE,
        _text("Metric", "our_metric"),
        _text("Minuend", "minuend"),
        _text("Subtrahend", "subtrahend"),
        _mean_sd_n("Paper", "paper", "paper_sd", "paper_n"),
        _mean_sd_n("Ours", "mean_difference", "sd", "n"),
        _interval("Interval of ours"),
        _number("Margin", "margin"),
        _p("p (H0: arms equal)", "p_holm"),
        _p("p (H0: outside margin)", "p_equivalence_holm"),
        _p("p (H0: same as the paper's)", "p_new_runs_holm"),
        _p("p (H0: margin or more)", "p_h0_margin_or_more_holm"),
        Column("Hedges g", lambda row: number(row["hedges_g"], ""), right=True),
        Column("P(better)", lambda row: number(row["probability_of_improvement"], ""), right=True),
        *_ENDS,
        _text("Note", "note"),
    ],
    "statements": [
        *_WHERE,
        _text("Statement", "statement"),
        _text("Says", "says"),
        Column("n", lambda row: str(row["n"]), right=True),
        _text("Found", "found"),
        _text("Other readings", "other_readings"),
        _p("p (H0: does not hold)", "p_h0_fails_holm"),
        _p("p (H0: holds)", "p_h0_holds_holm"),
        *_ENDS,
        _text("Note", "note"),
    ],
    "paper_consistency": [
        _text("Check", "check"),
        _text("Claim", "claim"),
        _text("Source", "source"),
        Column("Stated", lambda row: row["stated"], right=True),
        Column("Compared", lambda row: row["compared"], right=True),
        _text("Compared source", "compared_source"),
        Column("Allowed", lambda row: _plain(row["allowed"]), right=True),
        _interval("Interval"),
        _p("p (H0 in the note)", "p"),
        _text("Verdict", "verdict"),
        _text("Note", "note"),
    ],
}
"""The columns of each table in Markdown and LaTeX, in this order."""


def _plain(value: float) -> str:
    return "" if np.isnan(value) else f"{value:g}"
