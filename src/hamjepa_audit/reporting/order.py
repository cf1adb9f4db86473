"""What is shown, and in which order: arms as given, readouts as q, p, qp, all, metrics by k."""

import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from hamjepa_audit.errors import UserError
from hamjepa_audit.statistics.order import sorted_in_order
from hamjepa_audit.statistics.summaries import READOUTS

ACCURACIES = ("knn_top1@20", "linear_probe_top1")
"""The accuracies by which arms are distinguished in figures of power and of training."""

LEADING = (*ACCURACIES, "effective_rank")
"""The metrics with which a study is introduced: by seed, and as differences from its baseline."""

OVERVIEW = (*LEADING, "participation_ratio", "cosine_mean", "feature_norm_mean")
"""The metrics of the overview and of the forest plot of differences, in this order."""

SORTED_BY = (
    "study", "dataset", "epochs", "checkpoint_epoch", "arm", "readout", "metric", "seed",
)  # fmt: skip


def in_reading_order(frame: pd.DataFrame, arm_order: Sequence[str]) -> pd.DataFrame:
    """Sorts `frame` by the columns of SORTED_BY that it has; rows equal in them keep their order.

    Raises:
        UserError: `frame` has an arm that `arm_order` lacks, or an unknown readout.
    """
    by = [name for name in SORTED_BY if name in frame]
    metrics = sorted(frame["metric"].unique(), key=_by_number) if "metric" in by else []
    orders = {"arm": arm_order, "readout": READOUTS, "metric": metrics}
    return sorted_in_order(frame, by, orders)


def _by_number(name: str) -> str:
    """A sort key in which numbers count as such: knn_top1@20 comes before knn_top1@100."""
    return re.sub(r"\d+", lambda digits: digits.group().zfill(9), name)


def present(names: Sequence[str], column: "pd.Series[Any]") -> list[str]:
    """Those of `names` that a column contains, in their order."""
    found = set(column)
    return [name for name in names if name in found]


def final_checkpoint(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows measured at the last epoch of their run.

    Raises:
        UserError: there are no such rows.
    """
    rows = frame[frame["checkpoint_epoch"] == frame["epochs"]]
    if rows.empty:
        raise UserError(
            f"nothing was measured at the last epoch: checkpoints at the epochs "
            f"{sorted(set(frame['checkpoint_epoch']))} of {sorted(set(frame['epochs']))}; "
            f"evaluate the last checkpoint"
        )
    return rows


def single(frame: pd.DataFrame, column: str) -> Any:
    """The only value in a column.

    Raises:
        UserError: there is none, or more than one.
    """
    values = sorted(set(frame[column]))
    if len(values) != 1:
        raise UserError(f"expected one value of '{column}', got {values}; select one")
    return values[0]
