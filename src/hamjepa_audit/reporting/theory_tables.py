"""The tables of the theory's checks: every theorem, and the paper's toy experiment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hamjepa_audit.params.claims import ToyTransport
from hamjepa_audit.params.theory import ToyTransportParams
from hamjepa_audit.reporting.formatting import (
    ABSENT,
    Column,
    Display,
    heading,
    number,
    number_column,
    text_column,
)
from hamjepa_audit.reporting.tables import write_displayed

DISTANCES = {
    "euler_mean": "Euler, mean over directions",
    "euler_max": "Euler, largest",
    "leapfrog_mean": "Leapfrog, mean over directions",
    "leapfrog_max": "Leapfrog, largest",
}
"""The paper's four Wasserstein-1 distances to the reference, by column, with their titles."""


def theory_tables(
    numbers: Mapping[str, pd.DataFrame],
    claim: ToyTransport,
    params: ToyTransportParams,
    folder: Path,
) -> list[Path]:
    """Writes `theory`, `toy_transport` and `toy_transport_setups`, four files each.

    CSV and Parquet have full precision and all set-ups; Markdown and LaTeX are rounded, and show
    the paper's numbers and the nearest set-ups only. `numbers` are frames of
    `theory_schemas.NUMBERS`.
    """
    checks, setups = numbers["checks"], numbers["toy_transport_setups"]
    compared = toy_comparison(setups, claim, params.tolerance)
    written = write_displayed(checks, Display.of(checks, CHECKS), folder, "theory")
    written += write_displayed(compared, Display.of(compared, COMPARISON), folder, "toy_transport")
    shown = _setups_displayed(setups.head(params.shown), claim)
    return written + write_displayed(setups, shown, folder, "toy_transport_setups")


def toy_comparison(setups: pd.DataFrame, claim: ToyTransport, tolerance: float) -> pd.DataFrame:
    """Compares the paper's four numbers with those of the nearest set-up, the first row.

    Returns:
        One row per number: `distance`, `paper`, `ours`, `deviation` (ours / paper - 1),
        `tolerance`, `within`; the nearest set-up; and how many set-ups were `tried`, are `finite`
        under every integrator, and have all four numbers within the tolerance.
    """
    nearest = setups.iloc[0]
    paper = paper_distances(claim)
    rows = []
    for name, title in DISTANCES.items():
        deviation = nearest[name] / paper[name] - 1
        rows.append(
            {
                "distance": title,
                "paper": paper[name],
                "ours": float(nearest[name]),
                "deviation": float(deviation),
                "tolerance": tolerance,
                "within": bool(abs(deviation) <= tolerance),
                "setup": setup_title(nearest),
                "tried": len(setups),
                "finite": int(np.isfinite(setups["worst_deviation"]).sum()),
                "all_within": int((setups["worst_deviation"] <= tolerance).sum()),
            }
        )
    return pd.DataFrame(rows)


def paper_distances(claim: ToyTransport) -> dict[str, float]:
    """The paper's four numbers, by the column names of SETUPS_SCHEMA."""
    return {
        f"{model}_{of}": float(getattr(distances, of))
        for model, distances in claim.w1_over_directions.items()
        for of in ("mean", "max")
    }


def setup_title(row: "pd.Series[Any]") -> str:
    """The description of a set-up, given by a row of SETUPS_SCHEMA or STATES_SCHEMA."""
    return (
        f"{row['potential']}; centre ({row['centre_q']:g}, {row['centre_p']:g}), "
        f"sd ({row['spread_q']:g}, {row['spread_p']:g})"
    )


def _two_digits(heading: str, name: str) -> Column:
    return Column(heading, lambda row: f"{row[name]:.2g}", right=True)


def _in_plane(heading: str, name: str) -> Column:
    """The columns NAME_q and NAME_p as a point of the phase plane."""
    return Column(heading, lambda row: f"({row[f'{name}_q']:g}, {row[f'{name}_p']:g})")


def _yes_no(value: bool) -> str:
    return "yes" if value else "NO"


CHECKS = [
    text_column("Statement", "statement"),
    text_column("Source", "source"),
    text_column("Instances", "instances", right=True),
    text_column("Error measure", "error"),
    _two_digits("Worst error", "worst_error"),
    _two_digits("Tolerance", "tolerance"),
    Column("Holds", lambda row: _yes_no(row["holds"])),
]
COMPARISON = [
    text_column("Wasserstein-1 to the reference", "distance"),
    number_column("Paper", "paper", ""),
    number_column("Nearest set-up", "ours", ""),
    Column("Deviation (%)", lambda row: f"{100 * row['deviation']:+.1f}", right=True),
    Column("Within", lambda row: f"{_yes_no(row['within'])} ({100 * row['tolerance']:g}%)"),
    text_column("Set-up", "setup"),
    text_column("Set-ups tried", "tried", right=True),
    text_column("Finite", "finite", right=True),
    text_column("All four within", "all_within", right=True),
]
SETUPS = [
    text_column("Potential", "potential"),
    _in_plane("Centre (q, p)", "centre"),
    _in_plane("SD (q, p)", "spread"),
    text_column("Samples", "samples", right=True),
    *(number_column(heading(name), name, "") for name in DISTANCES),
    Column("Worst deviation (%)", lambda row: f"{100 * row['worst_deviation']:.1f}", right=True),
]
"""The columns of each table in Markdown and LaTeX, in this order."""


def _setups_displayed(setups: pd.DataFrame, claim: ToyTransport) -> Display:
    """The set-ups, below the paper's numbers."""
    distances = paper_distances(claim)
    paper = ["The paper's", *[ABSENT] * 3, *(number(distances[x], "") for x in DISTANCES), "0"]
    shown = Display.of(setups, SETUPS)
    return shown._replace(rows=[paper, *shown.rows])
