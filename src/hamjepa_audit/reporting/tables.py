"""The tables of a study: every number in full precision, and rounded for reading."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa

from hamjepa_audit.bookkeeping.table_provenance import FORMS, MADE_FROM
from hamjepa_audit.files import canonical_json, write_text
from hamjepa_audit.parquet import write_parquet
from hamjepa_audit.reporting.formatting import (
    Display,
    displayed,
    latex,
    markdown,
    mean_column,
    text_column,
)
from hamjepa_audit.reporting.names import with_unit
from hamjepa_audit.reporting.order import OVERVIEW, final_checkpoint, in_reading_order, single
from hamjepa_audit.statistics import paired_differences, per_seed, summarise
from hamjepa_audit.statistics.summaries import side_by_side

ROW = ["arm", "epochs", "readout"]

OF_DIFFERENCES = (
    "Intervals and p-values (paired t-test, H0: arms equal) are for each row by itself, without a "
    "correction for the number of rows. They cover the choice of pretraining seeds, not of test "
    "images."
)
"""The note below the table `differences`."""


def study_tables(
    metrics: pd.DataFrame,
    arm_order: Sequence[str],
    confidence: float,
    folder: Path,
    origin: str | None = None,
) -> list[Path]:
    """Writes a study's tables `seeds`, `summary`, `differences` and `overview`.

    `arm_order` has every arm in `metrics`, baseline first: it determines the order of the rows, and
    which arm is subtracted from which (see `paired_differences`). `origin` is a line that says what
    the tables were made of.

    Raises:
        UserError: `metrics` is unusable (see `statistics.checked`), has no rows, several studies,
            arms that `arm_order` lacks, or nothing that was measured at a last epoch.
    """
    single(metrics, "study")
    # First, because it is what checks the arms.
    differences = paired_differences(metrics, arm_order, confidence)
    summary = summarise(metrics, confidence)
    written = write_tables(in_reading_order(per_seed(metrics), arm_order), folder, "seeds", origin)
    written += write_tables(in_reading_order(summary, arm_order), folder, "summary", origin)
    differences = in_reading_order(differences, arm_order)
    written += write_tables(differences, folder, "differences", origin, OF_DIFFERENCES)
    wide = overview(summary, arm_order)
    return written + write_displayed(
        wide, overview_displayed(wide, summary), folder, "overview", origin
    )


def write_tables(
    frame: pd.DataFrame,
    folder: Path,
    name: str,
    origin: str | None = None,
    note: str | None = None,
) -> list[Path]:
    """Writes `frame` as NAME.csv, NAME.md, NAME.tex and NAME.parquet, each atomically.

    CSV (floats by repr; NaN is an empty field) and Parquet have full precision. Markdown and LaTeX
    (a booktabs tabular) have rounded numbers: 2 decimals in rows whose `unit` is percent, otherwise
    4 significant digits; for `p` 3 significant digits or '<0.001'. All but CSV contain `origin`, as
    a comment or as metadata. `note` is below the Markdown table, and a comment in LaTeX.
    """
    return write_displayed(frame, displayed(frame), folder, name, origin, note)


def overview(summary: pd.DataFrame, arm_order: Sequence[str]) -> pd.DataFrame:
    """The main metrics at the last epoch, one row per arm, number of epochs and readout.

    Returns:
        `arm`, `epochs`, `readout`, then METRIC_mean, METRIC_sd and METRIC_n for every metric of
        OVERVIEW, in the metric's unit; NaN (and n 0) where it was not measured.

    Raises:
        UserError: nothing was measured at a last epoch.
    """
    shown = summary[summary["metric"].isin(OVERVIEW)]
    final = in_reading_order(final_checkpoint(shown), arm_order)
    return side_by_side(final, ROW, OVERVIEW)


def overview_displayed(wide: pd.DataFrame, summary: pd.DataFrame) -> Display:
    """The overview as texts, 'mean ± sd (n)' in one field, or 'mean (1)' for a single seed.

    `summary` is what `wide` was made from, for the units.
    """
    units = dict(zip(summary["metric"], summary["unit"], strict=True))
    columns = [
        text_column("Arm", "arm"),
        text_column("Epochs", "epochs", right=True),
        text_column("Readout", "readout"),
    ]
    for metric in OVERVIEW:
        unit, names = units.get(metric, ""), [f"{metric}_{part}" for part in ("mean", "sd", "n")]
        columns.append(mean_column(with_unit(metric, unit), names, unit))
    return Display.of(wide, columns)


def write_displayed(
    frame: pd.DataFrame,
    shown: Display,
    folder: Path,
    name: str,
    origin: str | None = None,
    note: str | None = None,
) -> list[Path]:
    """Writes NAME.csv and NAME.parquet from `frame`, and NAME.md and NAME.tex from `shown`.

    The Parquet file, which is sealed, contains the digests of the other files (FORMS). `origin` and
    `note` are as in `write_tables`.
    """
    below = (note, origin and f"<!-- {origin} -->")
    texts = {
        f"{name}.csv": frame.to_csv(index=False, lineterminator="\n"),
        f"{name}.md": markdown(shown) + "".join(f"\n{line}\n" for line in below if line),
        f"{name}.tex": "".join(f"% {line}\n" for line in (origin, note) if line) + latex(shown),
    }
    for file, text in texts.items():
        write_text(folder / file, text)
    forms = {file: hashlib.sha256(text.encode()).hexdigest() for file, text in texts.items()}
    metadata = {FORMS: canonical_json(forms)} | ({MADE_FROM: origin} if origin else {})
    target = folder / f"{name}.parquet"
    write_parquet(target, _arrow(frame).replace_schema_metadata(metadata))
    return [*(folder / file for file in texts), target]


def _arrow(frame: pd.DataFrame) -> pa.Table:
    """An Arrow table with plain strings, without pandas' metadata, which contains versions."""
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    plain = [
        field.with_type(pa.string()) if pa.types.is_large_string(field.type) else field
        for field in table.schema
    ]
    return table.cast(pa.schema(plain))
