"""The long tables to which all measurements are written, with one number of one seed per row."""

from collections.abc import Iterable
from typing import NamedTuple

import pyarrow as pa


def _of_runs(**columns: pa.DataType) -> pa.Schema:
    """The schema of a long table: RunKey's columns around its own ones."""
    run = {"study": pa.string(), "dataset": pa.string(), "arm": pa.string()}
    run |= {"epochs": pa.int64(), "seed": pa.int64()}
    return pa.schema(run | columns | {"run_id": pa.string()})


METRICS_SCHEMA = _of_runs(
    checkpoint_epoch=pa.int64(),
    readout=pa.string(),
    metric=pa.string(),
    value=pa.float64(),
    unit=pa.string(),
)
"""One row per number: `readout` is q, p, qp or all; `unit` is percent, dimensionless or seconds."""

TRAINING_SECONDS = "training_seconds"
"""The metric, of the readout `all`, for the training time of a run: the sum over its epochs."""

CURVES_SCHEMA = _of_runs(
    checkpoint_epoch=pa.int64(),
    readout=pa.string(),
    curve=pa.string(),
    position=pa.float64(),
    value=pa.float64(),
    unit=pa.string(),
)
"""One row per point. Curves: `eigenvalue` (position: rank from 1), `cosine_quantile` and
`norm_quantile` (position: probability in (0, 1))."""

HISTORY_SCHEMA = _of_runs(epoch=pa.int64(), term=pa.string(), value=pa.float64())
"""One row per epoch (from 1) and term: the epoch's mean of each unweighted loss term, of `total`
and of `gradient_norm` (before clipping), and the `learning_rate` of the epoch's last step."""

LONG_TABLES = {"metrics": METRICS_SCHEMA, "curves": CURVES_SCHEMA, "history": HISTORY_SCHEMA}
"""The schema of each of a study's long tables, by the table's name."""


class RunKey(NamedTuple):
    """The columns that identify a run in every table."""

    study: str
    dataset: str
    arm: str
    epochs: int
    seed: int
    run_id: str


class Measurement(NamedTuple):
    """One number measured on one readout of one checkpoint."""

    readout: str
    metric: str
    value: float
    unit: str


class Point(NamedTuple):
    """One point of one curve measured on one readout of one checkpoint."""

    readout: str
    curve: str
    position: float
    value: float
    unit: str


def long_table(
    schema: pa.Schema, run: RunKey, checkpoint_epoch: int, rows: Iterable[Measurement | Point]
) -> pa.Table:
    """The long table of one checkpoint, METRICS_SCHEMA or CURVES_SCHEMA."""
    constant = run._asdict() | {"checkpoint_epoch": checkpoint_epoch}
    return pa.Table.from_pylist([constant | row._asdict() for row in rows], schema=schema)
