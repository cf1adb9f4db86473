"""Many runs' Parquet files into one table, whatever their order."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from hamjepa_audit.errors import UserError
from hamjepa_audit.files import read_parquet, write_parquet

IDENTIFYING = (
    "run_id",
    "checkpoint_epoch",
    "epoch",
    "readout",
    "metric",
    "curve",
    "position",
    "term",
)
"""The columns that, as far as a schema has them, name one measurement."""


def collect(files: Sequence[Path], schema: pa.Schema, target: Path) -> None:
    """Writes the rows of all `files` as one sorted table; the same rows give the same bytes.

    Args:
        files: Parquet files of exactly `schema`.
        schema: METRICS_SCHEMA, CURVES_SCHEMA or HISTORY_SCHEMA.
        target: the Parquet file to write, atomically.

    Raises:
        UserError: there is no file; one is missing, unreadable or of another schema; a field is
            empty or a value isn't finite; or a measurement is there twice.
    """
    if not files:
        raise UserError(f"nothing to collect into {target}; make at least one run")
    tables = [read_parquet(source, schema) for source in files]
    for source, table in zip(files, tables, strict=True):
        _refuse_gaps(source, table)
    table = pa.concat_tables(tables).replace_schema_metadata(None)
    _refuse_duplicates(files, tables, table)
    order = [(name, "ascending") for name in schema.names if name not in ("value", "unit")]
    # One chunk a column: how the rows were spread over files must not show in the bytes.
    write_parquet(target, table.sort_by(order).combine_chunks())


def _refuse_gaps(source: Path, table: pa.Table) -> None:
    empty = [name for name in table.column_names if table[name].null_count]
    if empty:
        raise UserError(f"{source} has empty fields in the columns {empty}; make it again")
    odd = table.filter(pc.invert(pc.is_finite(table["value"])))
    if odd.num_rows:
        raise UserError(
            f"{source} has {odd.num_rows} values that aren't finite, the first: "
            f"{odd.slice(0, 1).to_pylist()[0]}; make it again"
        )


def _refuse_duplicates(files: Sequence[Path], tables: list[pa.Table], table: pa.Table) -> None:
    key = [name for name in table.column_names if name in IDENTIFYING]
    names = table.select(key).to_pandas()
    repeated = names[names.duplicated()]
    if repeated.empty:
        return
    first = repeated.sort_values(key).iloc[0]
    holders = [
        str(source)
        for source, part in zip(files, tables, strict=True)
        if _has_row(part.select(key).to_pandas(), first)
    ]
    raise UserError(
        f"{len(repeated)} rows are there twice, the first: {first.to_dict()}, "
        f"in {', '.join(holders)}; keep one of them"
    )


def _has_row(names: pd.DataFrame, row: "pd.Series[Any]") -> bool:
    return bool((names == row).all(axis=1).any())
