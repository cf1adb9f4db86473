"""Measurement files: long tables that name their measurement and the checkpoints measured."""

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from hamjepa_audit.bookkeeping.records import Record, read_record
from hamjepa_audit.errors import UserError
from hamjepa_audit.files import canonical_json
from hamjepa_audit.layout import Layout
from hamjepa_audit.metrics import (
    METRICS_SCHEMA,
    TRAINING_SECONDS,
    Measurement,
    RunKey,
    long_table,
)
from hamjepa_audit.parquet import write_parquet

ORIGIN = b"hamjepa-audit-origin"
"""The key of the schema metadata that holds the origin of a measurement, as JSON."""

Checkpoints = Mapping[str, Mapping[str, str]]
"""Run id -> file name of a checkpoint -> its SHA-256."""


def write_measurement(target: Path, tables: Sequence[pa.Table], checkpoints: Checkpoints) -> None:
    """Writes the rows of all runs as a sealed file that contains its own name and its origin.

    The file is named STEP-DIGEST.parquet; the tables have METRICS_SCHEMA or CURVES_SCHEMA, and the
    checkpoints are those on which they were measured.
    """
    origin = canonical_json({"measurement": target.stem, "checkpoints": checkpoints})
    table = pa.concat_tables(tables).replace_schema_metadata({ORIGIN: origin})
    write_parquet(target, table)


def training_times(layout: Layout, run_ids: Iterable[str]) -> pa.Table:
    """The training times in the runs' records: METRICS_SCHEMA, one row per run.

    Times of different machines can't be compared, and neither can those of runs that shared a GPU,
    which depend on what ran beside them. The runs of a study with the same number of epochs have
    times only if all were trained on the same kind of device with the same settings, each alone on
    its GPU.

    Raises:
        UserError: a record is missing, changed or damaged.
    """
    times: dict[tuple[str, int], list[tuple[str | None, pa.Table]]] = {}
    for run_id in run_ids:
        record = read_record(layout, run_id)
        key = RunKey(*(record[name] for name in RunKey._fields))
        # Not `sum`, which rounds differently from Python 3.12 on, so that a table made with one
        # Python would not verify with another.
        total = math.fsum(record["epoch_seconds"])
        seconds = Measurement("all", TRAINING_SECONDS, total, "seconds")
        table = long_table(METRICS_SCHEMA, key, key.epochs, [seconds])
        times.setdefault((key.study, key.epochs), []).append((_machine(record), table))
    tables = []
    for group in times.values():
        machines = {machine for machine, _ in group}
        if len(machines) == 1 and None not in machines:
            tables += [table for _, table in group]
    return pa.concat_tables([METRICS_SCHEMA.empty_table(), *tables])


def _machine(record: Record) -> str | None:
    """What the training time depends on besides the run itself, as JSON; None on a shared GPU."""
    device = record["device"]
    if (record["runs_per_gpu"] or 1) > 1:
        return None
    return canonical_json([device["type"], device["name"], record["determinism"]])


def require_origin(
    layout: Layout, source: Path, table: pa.Table, run_ids: Collection[str], *, whole: bool = True
) -> None:
    """Checks that a measurement is the one in its file name, made on exactly the given runs.

    The checkpoints that it was made on must be those that the runs have now; unless `whole`, runs
    that don't exist are not compared. `table` was read from `source`, with its metadata.

    Raises:
        UserError: it is another measurement, or was made on other runs or on checkpoints other than
            those in the runs' records; or it does not contain its origin.
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
                    source, f"was measured on another {name} than the one in {layout.run(run_id)}"
                )


def require_runs(source: Path, table: pa.Table, run_ids: Collection[str]) -> None:
    """Checks that the rows of a file belong to exactly the given runs.

    Raises:
        UserError: there are rows of other runs, or none of some of these.
    """
    found = set(table["run_id"].unique().to_pylist())
    if found != set(run_ids):
        extra, missing = found - set(run_ids), set(run_ids) - found
        what = f"rows of {_list(extra)}" if extra else f"no rows of {_list(missing)}"
        raise UserError(
            f"{source} has {what}, but must have those of exactly {_list(run_ids)}; "
            f"{_remedy(source)}"
        )


def _list(run_ids: Collection[str]) -> str:
    """The only run, or the first one and the number of others, as text."""
    first, *rest = sorted(run_ids) or ["no run"]
    return f"{first} and {len(rest)} more" if rest else first


def _again(source: Path, fault: str) -> UserError:
    return UserError(f"{source} {fault}; {_remedy(source)}")


def _remedy(source: Path) -> str:
    study = source.parent.name.partition("-")[0]
    return (
        f"delete it and run: snakemake --cores all results/tables --config studies='[{study}]' "
        f"(it is made again only if the parameters still ask for it)"
    )
