"""Measurement files: long tables that say which measurement they are, and of which checkpoints."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from hamjepa_audit.bookkeeping.records import Record, read_record
from hamjepa_audit.errors import UserError
from hamjepa_audit.files import canonical_json, write_parquet
from hamjepa_audit.layout import Layout
from hamjepa_audit.metrics import (
    METRICS_SCHEMA,
    TRAINING_SECONDS,
    Measurement,
    RunKey,
    metrics_table,
)

ORIGIN = b"hamjepa-audit-origin"
"""The key of the schema's metadata that holds what a measurement was made of, as JSON."""

Checkpoints = Mapping[str, Mapping[str, str]]
"""Run id -> name of a checkpoint's file -> its SHA-256."""


def write_measurement(target: Path, tables: Sequence[pa.Table], checkpoints: Checkpoints) -> None:
    """Writes the rows of all runs, sealed, with the name of the file and what was measured.

    Args:
        target: the file, STEP-DIGEST.parquet.
        tables: of one schema, METRICS_SCHEMA or CURVES_SCHEMA.
        checkpoints: what the numbers were measured on.
    """
    origin = canonical_json({"measurement": target.stem, "checkpoints": checkpoints})
    table = pa.concat_tables(tables).replace_schema_metadata({ORIGIN: origin})
    write_parquet(target, table)


def training_times(layout: Layout, run_ids: Iterable[str]) -> pa.Table:
    """What training took, from the runs' records: METRICS_SCHEMA, one row a run.

    Times of other machines can't be compared: of a study's runs of as many epochs there are times
    only if all were trained on devices of one name with the same settings, shared by as many.

    Raises:
        UserError: a record is missing, changed or damaged.
    """
    times: dict[tuple[str, int], list[tuple[str, pa.Table]]] = {}
    for run_id in run_ids:
        record = read_record(layout, run_id)
        key = RunKey(*(record[name] for name in RunKey._fields))
        seconds = Measurement("all", TRAINING_SECONDS, sum(record["epoch_seconds"]), "seconds")
        table = metrics_table(key, key.epochs, [seconds])
        times.setdefault((key.study, key.epochs), []).append((_machine(record), table))
    comparable = [group for group in times.values() if len({machine for machine, _ in group}) == 1]
    tables = [table for group in comparable for _, table in group]
    return pa.concat_tables([METRICS_SCHEMA.empty_table(), *tables])


def _machine(record: Record) -> str:
    """What a run's time depends on besides the run."""
    device = record["device"]
    shared = record["runs_per_gpu"]
    return canonical_json([device["type"], device["name"], shared, record["determinism"]])


def require_origin(
    layout: Layout, source: Path, table: pa.Table, run_ids: Collection[str], *, whole: bool = True
) -> None:
    """Checks that a measurement is that of its name, of exactly some runs as they are now.

    Args:
        layout: where the runs' records are.
        source: the file that `table` was read from.
        table: as `read_parquet` gives it, with its metadata.
        run_ids: those that its rows must be of.
        whole: whether every run must be there; else those that are not are not compared.

    Raises:
        UserError: it is another measurement, of other runs, of other checkpoints than those that
            the runs' records name, or does not say what it was made of.
    """
    origin = json.loads((table.schema.metadata or {}).get(ORIGIN, "{}"))
    if not origin:
        raise _again(source, "does not say which checkpoints it was measured on")
    if origin["measurement"] != source.stem:
        raise _again(source, f"holds the measurement {origin['measurement']}")
    require_runs(source, table, run_ids)
    if set(origin["checkpoints"]) != set(run_ids):
        raise _again(source, f"was measured on {_list(origin['checkpoints'])}")
    for run_id, files in origin["checkpoints"].items():
        if not whole and not layout.record(run_id).exists():
            continue
        recorded = read_record(layout, run_id)["files"]
        for name, digest in files.items():
            if recorded.get(name) != digest:
                raise _again(
                    source, f"was measured on another {name} than {layout.run(run_id)} holds"
                )


def require_runs(source: Path, table: pa.Table, run_ids: Collection[str]) -> None:
    """Checks that the rows of a file are of exactly some runs.

    Raises:
        UserError: they are of others, or of fewer.
    """
    found = set(table["run_id"].unique().to_pylist())
    if found != set(run_ids):
        strange, missing = found - set(run_ids), set(run_ids) - found
        what = f"of {_list(strange)}" if strange else f"none of {_list(missing)}"
        raise UserError(
            f"{source} holds rows {what}, but is to be of {_list(run_ids)}; delete it, and "
            f"{_command(source)}"
        )


def _list(run_ids: Collection[str]) -> str:
    """One run, or the first of several and how many more."""
    first, *rest = sorted(run_ids) or ["no run"]
    return f"{first} and {len(rest)} more" if rest else first


def _again(source: Path, fault: str) -> UserError:
    return UserError(f"{source} {fault}; delete it, and {_command(source)}")


def _command(source: Path) -> str:
    return f"`snakemake --cores all {source}` makes it again"
