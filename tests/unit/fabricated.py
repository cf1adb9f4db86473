"""Fabricated results in the format of an audit's, written quickly without training."""

from pathlib import Path

import pyarrow as pa

from hamjepa_audit.bookkeeping.measurements import write_measurement
from hamjepa_audit.bookkeeping.records import read_record
from hamjepa_audit.files import sha256_file, write_bytes, write_json, write_sealed_json
from hamjepa_audit.layout import Layout
from hamjepa_audit.metrics import (
    CURVES_SCHEMA,
    HISTORY_SCHEMA,
    METRICS_SCHEMA,
    Measurement,
    Point,
    long_table,
)
from hamjepa_audit.params import load_study
from hamjepa_audit.params.studies import RunParams
from hamjepa_audit.parquet import write_parquet
from hamjepa_audit.plans.identity import TRAINING_NUMERICS, run_key
from hamjepa_audit.plans.study import Batch, StudyPlan
from hamjepa_audit.reporting.collect import collect, collect_study

METRICS = {
    "knn": "knn_top1@20",
    "probe": "linear_probe_top1",
    "geometry": "cosine_mean",
    "dynamics": "map_error_removed",
}


def plan_of(layout: Layout, study: str) -> StudyPlan:
    """The plan of a study whose parameters pin the digest of its data."""
    params = load_study(layout.params, study)
    assert params.data.digest is not None
    return StudyPlan(layout, params, params.data.digest)


def write_results(plan: StudyPlan) -> None:
    """Writes all files of a finished study except figures; checkpoints contain no weights."""
    layout, study = plan.layout, plan.study.name
    for run in plan.runs.values():
        write_run(layout, run, plan.data_digest)
    for batch in plan.batches.values():
        write_measurements(batch)
    plan.write_selection()
    write_json(layout.studies_selection(), [study])
    collect_study(plan)
    collect([layout.study_table(study, "metrics")], METRICS_SCHEMA, layout.metrics())


def write_run(layout: Layout, run: RunParams, data_digest: str) -> None:
    """Writes a run's folder; the checkpoint is the run's name, repeated."""
    key = run_key(run, data_digest)
    checkpoint, history = layout.checkpoint(key.run_id), layout.run_history(key.run_id)
    write_bytes(checkpoint, key.run_id.encode() * 50)
    row = key._asdict() | {"epoch": 1, "term": "total", "value": 1.0 + run.seed}
    write_parquet(history, pa.Table.from_pylist([row], schema=HISTORY_SCHEMA))
    write_record(layout, run, data_digest)


def write_record(layout: Layout, run: RunParams, data_digest: str) -> None:
    """Writes a record of the existing checkpoint and history."""
    key = run_key(run, data_digest)
    files = (layout.checkpoint(key.run_id), layout.run_history(key.run_id))
    record = {
        **key._asdict(),
        "params": run.training_content() | {"title": run.arm.title},
        "data_digest": data_digest,
        "training_numerics": TRAINING_NUMERICS,
        "files": {path.name: sha256_file(path) for path in files},
        "version": "0.1.0",
        "commit": "0123456789abcdef",
        "uncommitted_changes": False,
        "lock_sha256": "0" * 64,
        "python": "3.11.9",
        "packages": {"torch": "2.14.1"},
        "platform": "Linux",
        "device": {"type": "cpu", "name": "x86_64", "cores": 2},
        "determinism": {"threads": 1},
        "runs_per_gpu": None,
        "epoch_seconds": [1.5, 2.0 + key.seed],
        "started": "2026-01-01T00:00:00+00:00",
        "resumed": [],
        "ended": "2026-01-01T00:01:00+00:00",
        "data_wait_share": None,
        "peak_memory": {"host_bytes": 1},
    }
    write_sealed_json(layout.record(key.run_id), record)


def write_measurements(batch: Batch) -> None:
    """Writes one number per step, and one point of a curve, for each run."""
    keys = [run_key(run, batch.data_digest) for run in batch.runs]
    checkpoints = {name: _checkpoint(batch.layout, name) for name in batch.run_ids}
    for step, name in METRICS.items():
        if step not in batch.steps:
            continue
        tables = [
            long_table(
                METRICS_SCHEMA,
                key,
                key.epochs,
                [Measurement("all", name, key.seed + 0.5, "percent")],
            )
            for key in keys
        ]
        write_measurement(batch.measurement(step), tables, checkpoints)
    point = Point("all", "eigenvalue", 1.0, 2.0, "dimensionless")
    curves = [long_table(CURVES_SCHEMA, key, key.epochs, [point]) for key in keys]
    write_measurement(batch.measurement("curves"), curves, checkpoints)


def _checkpoint(layout: Layout, run_id: str) -> dict[str, str]:
    name = layout.checkpoint(run_id).name
    return {name: read_record(layout, run_id)["files"][name]}


def flip_bit(path: Path, position: int, bit: int) -> None:
    """Flips one bit of a file; `position` wraps around at the end."""
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 1 << bit
    path.write_bytes(content)
