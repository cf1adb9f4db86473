"""Collects the Parquet files of many runs into one table, independently of their order."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from hamjepa_audit.bookkeeping.measurements import require_origin, require_runs, training_times
from hamjepa_audit.errors import UserError
from hamjepa_audit.metrics import LONG_TABLES
from hamjepa_audit.parquet import read_parquet, write_parquet
from hamjepa_audit.plans.study import DYNAMICS, TRAJECTORY, StudyPlan
from hamjepa_audit.statistics.summaries import require_numbers


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
        if kind == "metrics":
            tables[layout.runs()] = training_times(layout, plan.runs)
        _write_sorted(tables, targets[-1])
    return targets


def collect(files: Sequence[Path], schema: pa.Schema, target: Path) -> None:
    """Writes all rows of files of one schema as a sorted table; the same rows give the same bytes.

    Raises:
        UserError: no file is given; a file is missing, unreadable or of another schema; a field is
            empty or a value is not finite; or a measurement occurs twice.
    """
    if not files:
        raise UserError(f"nothing to collect into {target}; make at least one run")
    _write_sorted({source: read_parquet(source, schema) for source in files}, target)


def _write_sorted(tables: Mapping[Path, pa.Table], target: Path) -> None:
    """Writes tables of one schema, by the files that they come from, as one."""
    table = pa.concat_tables(
        rows.append_column("file", pa.repeat(str(file), len(rows))) for file, rows in tables.items()
    )
    require_numbers(table.to_pandas())
    table = table.drop_columns("file").replace_schema_metadata(None)
    order = [(name, "ascending") for name in table.column_names if name not in ("value", "unit")]
    # One chunk a column: how the rows were spread over files must not show in the bytes.
    write_parquet(target, table.sort_by(order).combine_chunks())
