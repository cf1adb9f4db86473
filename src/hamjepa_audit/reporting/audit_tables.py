"""The tables of an audit: all numbers as CSV and Parquet, the main ones as Markdown and LaTeX."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from hamjepa_audit.reporting.formatting import (
    Column,
    Display,
    Row,
    interval_text,
    mean_column,
    number_column,
    p_value,
    text_column,
)
from hamjepa_audit.reporting.tables import write_displayed
from hamjepa_audit.statistics.audit import Audit


def audit_tables(
    audit: Audit, folder: Path, names: Sequence[str] = Audit._fields, origin: str | None = None
) -> list[Path]:
    """Writes `claims`, `claim_differences`, `statements` and `paper_consistency`, or some of them.

    CSV and Parquet contain every column in full precision, Markdown and LaTeX the columns on which
    the verdicts rest, rounded (see `formatting.number`). P-values in the latter are Holm-adjusted,
    and their headings name the null hypothesis (H0) that a small p-value speaks against; those on
    which no verdict rests have none. `origin` is a line that says which claims they are made from.
    """
    tables = audit._asdict()
    return [file for name in names for file in audit_table(name, tables[name], folder, origin)]


def audit_table(
    name: str, frame: pd.DataFrame, folder: Path, origin: str | None = None
) -> list[Path]:
    """Writes one of the tables of `audit_tables`, in its four forms."""
    return write_displayed(frame, Display.of(frame, READ[name]), folder, name, origin)


def seeds_text(row: Row) -> str:
    """The number of seeds that would settle an inconclusive claim as text, otherwise empty."""
    needed = row["seeds_needed"]
    if np.isnan(needed):
        return ""
    return f"more than {row['seeds_considered']}" if np.isinf(needed) else f"{needed:.0f}"


def _p(heading: str, name: str) -> Column:
    return Column(heading, lambda row: p_value(row[name]), right=True)


def _interval(heading: str, low: str = "ci_low", high: str = "ci_high") -> Column:
    def text(row: Row) -> str:
        return interval_text(row[low], row[high], row["unit"])

    return Column(heading, text, right=True)


_WHERE = [
    text_column("Study", "study"),
    text_column("Epochs", "epochs", right=True),
]
_ENDS = [
    text_column("Verdict", "verdict"),
    Column("Seeds needed", seeds_text, right=True),
    text_column("Reason", "reason"),
    text_column("Source", "source"),
]
READ = {
    "claims": [
        *_WHERE,
        text_column("Arm", "arm"),
        text_column("Readout", "readout"),
        text_column("Metric", "our_metric"),
        mean_column("Paper", ("paper", "paper_sd", "paper_n")),
        text_column("Note on the paper's value", "paper_note"),
        mean_column("Ours", ("mean", "sd", "n")),
        _interval("Our interval"),
        number_column("Margin", "margin"),
        _p("p (H0: outside margin)", "p_equivalence_holm"),
        _p("p (H0: inside margin)", "p_h0_within_margin_holm"),
        *_ENDS,
        text_column("Note", "note"),
    ],
    "claim_differences": [
        *_WHERE,
        text_column("Metric", "our_metric"),
        text_column("Minuend", "minuend"),
        text_column("Subtrahend", "subtrahend"),
        mean_column("Paper", ("paper", "paper_sd", "paper_n")),
        mean_column("Ours", ("mean_difference", "sd", "n")),
        _interval("Our interval"),
        number_column("Margin", "margin"),
        _p("p (H0: arms equal)", "p_holm"),
        _p("p (H0: gain of margin or more)", "p_h0_margin_or_more_holm"),
        _p("p (H0: outside margin)", "p_equivalence_holm"),
        _p("p (H0: inside margin)", "p_h0_within_margin_holm"),
        number_column("Hedges g", "hedges_g", ""),
        number_column("P(better)", "probability_of_improvement", ""),
        *_ENDS,
        text_column("Note", "note"),
    ],
    "statements": [
        *_WHERE,
        text_column("Statement", "statement"),
        text_column("The paper says", "says"),
        text_column("Seeds", "n", right=True),
        text_column("Found", "found"),
        text_column("Other readings", "other_readings"),
        _p("p (H0: does not hold)", "p_h0_fails_holm"),
        _p("p (H0: holds)", "p_h0_holds_holm"),
        *_ENDS,
        text_column("Note", "note"),
    ],
    "paper_consistency": [
        text_column("Check", "check"),
        text_column("Claim", "claim"),
        text_column("Source", "source"),
        text_column("Stated", "stated", right=True),
        text_column("Compared with", "compared", right=True),
        text_column("Its source", "compared_source"),
        Column("Rounding allows", lambda row: _plain(row["allowed"]), right=True),
        _interval("Interval"),
        _p("p (H0 in the note)", "p"),
        text_column("Verdict", "verdict"),
        text_column("Note", "note"),
    ],
}
"""The columns of each table in Markdown and LaTeX, in this order."""


def _plain(value: float) -> str:
    return "" if np.isnan(value) else f"{value:g}"
