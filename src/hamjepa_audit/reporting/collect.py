"""Collects the Parquet files of many runs into one table, independently of their order."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from hamjepa_audit.bookkeeping.measurements import require_origin, require_runs, training_times
from hamjepa_audit.errors import UserError
from hamjepa_audit.metrics import LONG_TABLES
from hamjepa_audit.parquet import read_parquet, write_parquet
from hamjepa_audit.plans.study import DYNAMICS, TRAJECTORY, StudyPlan

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
"""The columns that identify a measurement, as far as a schema has them."""


def collect_study(plan: StudyPlan) -> list[Path]:
    """Writes a study's long tables: the measurements and histories of exactly the plan's runs.

    The times that training took are added to the measurements from the runs' records.

    Returns:
        The tables: metrics, curves, history.

    Raises:
        UserError: as `collect`; or a file belongs to other runs, holds a measurement other than its
            name says, or was measured on checkpoints other than those that the runs have now.
    """
    layout, histories = plan.layout, plan.histories()
    runs_of_files = plan.runs_of_files()
    sources = {
        "metrics": plan.measurements("knn", "probe", "geometry", TRAJECTORY, DYNAMICS),
        "curves": plan.measurements("curves"),
        "history": histories,
    }
    targets = []
    for kind, schema in LONG_TABLES.items():
        tables = {file: read_parquet(file, schema, sealed=True) for file in sources[kind]}
        for file, table in tables.items():
            if file in histories:
                require_runs(file, table, runs_of_files[file])
            else:
                require_origin(layout, file, table, runs_of_files[file])
        targets.append(layout.study_table(plan.study.name, kind))
        times = [training_times(layout, plan.runs)] if kind == "metrics" else []
        _write_sorted(tables, times, targets[-1])
    return targets


def collect(files: Sequence[Path], schema: pa.Schema, target: Path) -> None:
    """Writes all rows of files of one schema as a sorted table; the same rows give the same bytes.

    Raises:
        UserError: no file is given; a file is missing, unreadable or of another schema; a field is
            empty or a value is not finite; or a measurement occurs twice.
    """
    if not files:
        raise UserError(f"nothing to collect into {target}; make at least one run")
    _write_sorted({source: read_parquet(source, schema) for source in files}, [], target)


def _write_sorted(tables: Mapping[Path, pa.Table], more: Sequence[pa.Table], target: Path) -> None:
    """Writes `tables`, by the files they were read from, and `more`, all of one schema, as one."""
    for source, table in tables.items():
        _refuse_gaps(source, table)
    table = pa.concat_tables([*tables.values(), *more]).replace_schema_metadata(None)
    _refuse_duplicates(tables, table)
    order = [(name, "ascending") for name in table.column_names if name not in ("value", "unit")]
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


def _refuse_duplicates(tables: Mapping[Path, pa.Table], table: pa.Table) -> None:
    key = [name for name in table.column_names if name in IDENTIFYING]
    names = table.select(key).to_pandas()
    repeated = names[names.duplicated()]
    if repeated.empty:
        return
    first = repeated.sort_values(key).iloc[0]
    holders = [
        str(source)
        for source, part in tables.items()
        if _has_row(part.select(key).to_pandas(), first)
    ]
    raise UserError(
        f"{len(repeated)} rows occur twice, the first: {first.to_dict()}, "
        f"in {', '.join(holders)}; keep one of them"
    )


def _has_row(names: pd.DataFrame, row: "pd.Series[Any]") -> bool:
    return bool((names == row).all(axis=1).any())
