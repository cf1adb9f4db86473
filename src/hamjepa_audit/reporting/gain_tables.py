"""The table `gain`, which shows what causes the gain."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from hamjepa_audit.params.studies import GainParams
from hamjepa_audit.reporting.formatting import (
    Column,
    Display,
    Row,
    interval_text,
    mean_column,
    number,
    number_column,
    text_column,
)
from hamjepa_audit.reporting.names import with_unit
from hamjepa_audit.reporting.tables import write_displayed
from hamjepa_audit.statistics.gain import MAP_METRICS

HEADINGS = {
    "map_error_removed": "Error removed",
    "map_displacement_share": "Displacement / view distance",
    "map_learned_force_share": "Learned share of force",
    "map_symplecticity_defect": "Symplecticity defect",
    "map_log_abs_determinant": "Log |det|",
    "map_reversal_error": "Reversal error",
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

    `table` is what `statistics.gain` returns for `params`; `origin` is a line that says what it was
    made of.
    """
    columns = [
        Column("Arm", lambda row: titles[row["arm"]]),
        text_column("Epochs", "epochs", right=True),
        text_column("Readout", "readout"),
        *(column for metric in params.accuracies for column in _of(metric, params, titles)),
        *(number_column(HEADINGS[name], name, "dimensionless") for name in MAP_METRICS),
    ]
    return write_displayed(table, Display.of(table, columns), folder, "gain", origin)


def _of(metric: str, params: GainParams, titles: Mapping[str, str]) -> Iterator[Column]:
    """The columns of an accuracy: its mean, and its differences from both references."""
    title = with_unit(metric, "percent")
    yield mean_column(title, [f"{metric}_{part}" for part in ("mean", "sd", "n")], "percent")
    for arm in (params.baseline, params.method):
        yield _difference(f"{title} − {titles[arm]}", f"{metric}_minus_{arm}")


def _difference(heading: str, column: str) -> Column:
    """A difference with interval and reading as text: '1.20 [0.31, 2.09], differs'.

    The reference's own rows have none, and neither has a difference of one seed.
    """

    def text(row: Row) -> str:
        difference = number(row[column], "percent")
        if pd.isna(row[column]) or row[f"{column}_n"] < 2:
            return difference
        bounds = interval_text(row[f"{column}_ci_low"], row[f"{column}_ci_high"], "percent")
        return f"{difference} {bounds}, {row[f'{column}_reading']}"

    return Column(heading, text, right=True)
