"""The long tables that every measurement is written to: never a number without its seed."""

from collections.abc import Iterable
from typing import NamedTuple

import pyarrow as pa

METRICS_SCHEMA = pa.schema(
    [
        ("study", pa.string()),
        ("dataset", pa.string()),
        ("arm", pa.string()),
        ("epochs", pa.int64()),
        ("seed", pa.int64()),
        ("checkpoint_epoch", pa.int64()),
        ("readout", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("unit", pa.string()),
        ("run_id", pa.string()),
    ]
)
"""One row a number: `readout` is q, p, qp or all; `unit` is percent, dimensionless or seconds."""

TRAINING_SECONDS = "training_seconds"
"""The metric, on the readout `all`, that holds what training a run took: the sum of its epochs."""

CURVES_SCHEMA = pa.schema(
    [
        ("study", pa.string()),
        ("dataset", pa.string()),
        ("arm", pa.string()),
        ("epochs", pa.int64()),
        ("seed", pa.int64()),
        ("checkpoint_epoch", pa.int64()),
        ("readout", pa.string()),
        ("curve", pa.string()),
        ("position", pa.float64()),
        ("value", pa.float64()),
        ("unit", pa.string()),
        ("run_id", pa.string()),
    ]
)
"""One row a point. Curves: `eigenvalue` (position: rank from 1), `cosine_quantile` and
`norm_quantile` (position: probability in (0, 1))."""

HISTORY_SCHEMA = pa.schema(
    [
        ("study", pa.string()),
        ("dataset", pa.string()),
        ("arm", pa.string()),
        ("epochs", pa.int64()),
        ("seed", pa.int64()),
        ("epoch", pa.int64()),
        ("term", pa.string()),
        ("value", pa.float64()),
        ("run_id", pa.string()),
    ]
)
"""One row an epoch (from 1) and term: the epoch's mean of each unweighted loss term, of `total`,
of `gradient_norm` (before clipping), and the `learning_rate` of its last step."""


class RunKey(NamedTuple):
    """What names a run in every table."""

    study: str
    dataset: str
    arm: str
    epochs: int
    seed: int
    run_id: str


class Measurement(NamedTuple):
    """One number about one readout of one checkpoint."""

    readout: str
    metric: str
    value: float
    unit: str


class Point(NamedTuple):
    """One point of one curve about one readout of one checkpoint."""

    readout: str
    curve: str
    position: float
    value: float
    unit: str


def metrics_table(run: RunKey, checkpoint_epoch: int, rows: Iterable[Measurement]) -> pa.Table:
    """The long metric table of one checkpoint (METRICS_SCHEMA)."""
    return _table(METRICS_SCHEMA, run, checkpoint_epoch, rows)


def curves_table(run: RunKey, checkpoint_epoch: int, rows: Iterable[Point]) -> pa.Table:
    """The long curve table of one checkpoint (CURVES_SCHEMA)."""
    return _table(CURVES_SCHEMA, run, checkpoint_epoch, rows)


def _table(
    schema: pa.Schema, run: RunKey, checkpoint_epoch: int, rows: Iterable[Measurement | Point]
) -> pa.Table:
    constant = run._asdict() | {"checkpoint_epoch": checkpoint_epoch}
    return pa.Table.from_pylist([constant | row._asdict() for row in rows], schema=schema)
