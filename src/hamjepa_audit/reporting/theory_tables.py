"""The tables of the theory's checks: every theorem, and the paper's toy experiment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hamjepa_audit.params.claims import ToyTransport
from hamjepa_audit.params.theory import ToyTransportParams
from hamjepa_audit.reporting.formatting import ABSENT, Display, number
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
    """Writes `theory`, `toy_transport` and `toy_transport_setups`.

    CSV and Parquet have full precision and all set-ups; Markdown and LaTeX are rounded, and show
    the paper's numbers and the nearest set-ups only.

    Args:
        numbers: frames of `theory_numbers.NUMBERS`.
        claim: the paper's toy experiment.
        params: the tolerance, and how many set-ups are shown.
        folder: where the files go.

    Returns:
        The files written, four per table.

    Raises:
        UserError: a file can't be written.
    """
    checks, setups = numbers["checks"], numbers["toy_transport_setups"]
    compared = toy_comparison(setups, claim, params.tolerance)
    written = write_displayed(checks, _checks_displayed(checks), folder, "theory")
    written += write_displayed(compared, _comparison_displayed(compared), folder, "toy_transport")
    shown = _setups_displayed(setups.head(params.shown), claim)
    return written + write_displayed(setups, shown, folder, "toy_transport_setups")


def toy_comparison(setups: pd.DataFrame, claim: ToyTransport, tolerance: float) -> pd.DataFrame:
    """Compares the paper's four numbers with those of the nearest set-up.

    Args:
        setups: SETUPS_SCHEMA, nearest first.
        claim: the paper's toy experiment.
        tolerance: tolerance relative to the paper's number.

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


def _checks_displayed(checks: pd.DataFrame) -> Display:
    return Display(
        headings=["Statement", "Source", "Instances", "Error", "Worst error", "Tolerance", "Holds"],
        rows=[
            [
                row["statement"],
                row["source"],
                str(row["instances"]),
                row["error"],
                f"{row['worst_error']:.2g}",
                f"{row['tolerance']:.2g}",
                "yes" if row["holds"] else "NO",
            ]
            for row in checks.to_dict("records")
        ],
        right=[False, False, True, False, True, True, False],
    )


def _comparison_displayed(compared: pd.DataFrame) -> Display:
    return Display(
        headings=[
            "Wasserstein-1 to the reference",
            "Paper",
            "Nearest set-up",
            "Deviation (%)",
            "Within",
            "Which set-up",
            "Set-ups tried",
            "Finite",
            "All four within",
        ],
        rows=[
            [
                row["distance"],
                number(row["paper"], ""),
                number(row["ours"], ""),
                f"{100 * row['deviation']:+.1f}",
                f"{'yes' if row['within'] else 'NO'} ({100 * row['tolerance']:g}%)",
                row["setup"],
                str(row["tried"]),
                str(row["finite"]),
                str(row["all_within"]),
            ]
            for row in compared.to_dict("records")
        ],
        right=[False, True, True, True, False, False, True, True, True],
    )


def _setups_displayed(setups: pd.DataFrame, claim: ToyTransport) -> Display:
    paper = paper_distances(claim)
    rows = [
        ["The paper's", ABSENT, ABSENT, ABSENT, *(number(paper[x], "") for x in DISTANCES), "0"]
    ]
    for row in setups.to_dict("records"):
        rows.append(
            [
                str(row["potential"]),
                f"({row['centre_q']:g}, {row['centre_p']:g})",
                f"({row['spread_q']:g}, {row['spread_p']:g})",
                str(row["samples"]),
                *(number(row[x], "") for x in DISTANCES),
                f"{100 * row['worst_deviation']:.1f}",
            ]
        )
    return Display(
        headings=[
            "Potential",
            "Centre (q, p)",
            "SD (q, p)",
            "Samples",
            "Euler mean",
            "Euler max",
            "Leapfrog mean",
            "Leapfrog max",
            "Worst deviation (%)",
        ],
        rows=rows,
        right=[False, False, False, True, True, True, True, True, True],
    )
