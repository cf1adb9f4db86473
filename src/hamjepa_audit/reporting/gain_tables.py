"""The table `gain`, which shows what causes the gain."""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hamjepa_audit.params.studies import GainParams
from hamjepa_audit.reporting.formatting import Display, interval_text, mean_sd_n, number
from hamjepa_audit.reporting.names import with_unit
from hamjepa_audit.reporting.tables import write_displayed
from hamjepa_audit.statistics.gain import DYNAMICS

HEADINGS = {
    "map_error_removed": "Error removed",
    "map_displacement_share": "Displacement / view distance",
    "map_learned_force_share": "Learned share of force",
    "map_symplecticity_defect": "Symplecticity defect",
    "map_log_abs_determinant": "Log |det|",
    "map_reversal_error": "Reversal error",
    "map_growth_rate": "Growth per application",
    "map_common_energy_drift": "Common energy drift",
    "map_common_energy_growth": "Common energy growth",
    "map_energy_drift": "Own energy drift",
}


def write_gain_table(
    table: pd.DataFrame,
    titles: Mapping[str, str],
    params: GainParams,
    folder: Path,
    origin: str | None = None,
) -> list[Path]:
    """Writes the table `gain`: CSV and Parquet in full precision, Markdown and LaTeX rounded.

    Args:
        table: what `statistics.gain` returns.
        titles: the name of each arm.
        params: the references and accuracies with which the table was made.
        folder: where the files go.
        origin: a line that says what the table was made of.

    Returns:
        The four files.

    Raises:
        UserError: a file can't be written.
    """
    references = (params.baseline, params.method)
    headings = ["Arm", "Epochs", "Readout"]
    for metric in params.accuracies:
        name = with_unit(metric, "percent")
        headings += [name, *(f"{name} − {titles[arm]}" for arm in references)]
    headings += [HEADINGS[name] for name in DYNAMICS]
    rows = [
        [titles[row["arm"]], str(row["epochs"]), row["readout"], *_fields(row, params, references)]
        for row in table.to_dict("records")
    ]
    shown = Display(headings, rows, right=[name not in ("Arm", "Readout") for name in headings])
    return write_displayed(table, shown, folder, "gain", origin)


def _fields(row: dict[Hashable, Any], params: GainParams, references: Sequence[str]) -> list[str]:
    fields = []
    for metric in params.accuracies:
        mean, sd, n = (row[f"{metric}_{part}"] for part in ("mean", "sd", "n"))
        fields.append(mean_sd_n(mean, sd, n, "percent"))
        fields += [_interval(row, f"{metric}_minus_{arm}") for arm in references]
    return fields + [number(row[name], "dimensionless") for name in DYNAMICS]


def _interval(row: dict[Hashable, Any], column: str) -> str:
    """A difference with interval and reading as text: '1.20 [0.31, 2.09], differs'."""
    difference = number(row[column], "percent")
    if pd.isna(row[f"{column}_ci_low"]):
        return difference
    bounds = interval_text(row[f"{column}_ci_low"], row[f"{column}_ci_high"], "percent")
    return f"{difference} {bounds}, {row[f'{column}_reading']}"
