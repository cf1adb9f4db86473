"""What causes the gain: every arm compared with the baseline and the method, paired by seed."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from hamjepa_audit.params.studies import GainParams
from hamjepa_audit.statistics.equivalence import tost
from hamjepa_audit.statistics.hypothesis_tests import one_sample
from hamjepa_audit.statistics.order import sorted_in_order
from hamjepa_audit.statistics.paired import paired_differences
from hamjepa_audit.statistics.summaries import READOUTS, side_by_side, summarise

MAP_METRICS = (
    "map_error_removed",
    "map_displacement_share",
    "map_learned_force_share",
    "map_symplecticity_defect",
    "map_log_abs_determinant",
    "map_reversal_error",
    "map_common_energy_drift",
    "map_common_energy_growth",
    "map_energy_drift",
)
"""The metrics of a trained predictor that are shown beside its arm's accuracies."""

BY_READOUT = ("map_error_removed", "map_displacement_share")
"""Those that are measured on a part of the state; the others concern the whole map."""

ROW = ["epochs", "arm", "readout"]

PARTS = ("ci_low", "ci_high", "p", "n", "p_equivalence", "reading")
"""The columns that accompany a difference."""

WITHIN, DIFFERS, UNDECIDED = "within margin", "differs", "undecided"
"""Readings of a difference: shown to be small; otherwise, shown not to be zero; neither."""


class Equivalence(NamedTuple):
    """When an arm counts as equivalent to a reference.

    Attributes:
        margins: the equivalence margin of each accuracy, in its unit.
        minimum_seeds: the smallest number of seeds from which a difference is read.
    """

    margins: Mapping[str, float]
    minimum_seeds: int


def gain(
    metrics: pd.DataFrame,
    arm_order: Sequence[str],
    params: GainParams,
    confidence: float,
    equivalence: Equivalence,
) -> pd.DataFrame:
    """Compares every arm with two references at the last epoch.

    A readout is compared with the same readout of a reference. Where the reference has no such
    readout, whole states are compared with whole states (`all` with `qp`), and parts with the
    whole.

    Args:
        metrics: the long metric table (METRICS_SCHEMA) of one study.
        arm_order: every arm in it, in the order of the rows.
        params: the two references and the accuracies.
        confidence: level of the intervals and of each reading, in (0, 1).
        equivalence: margins and number of seeds for the readings.

    Returns:
        One row per number of epochs, arm and readout, with the columns ROW and for each accuracy
        METRIC_mean, METRIC_sd and METRIC_n; then for each reference METRIC_minus_REFERENCE, the
        mean paired difference in the metric's unit, and the same name followed by _ci_low,
        _ci_high, _p, _n (see `paired_differences`), _p_equivalence (see `tost`) and _reading
        (WITHIN, DIFFERS or UNDECIDED), all missing in the reference's own rows; and the means over
        seeds of MAP_METRICS, missing where there is no such predictor.

    Raises:
        UserError: the metrics are unusable (see `statistics.checked`).
    """
    final = metrics[metrics["checkpoint_epoch"] == metrics["epochs"]]
    accuracies = final[final["metric"].isin(params.accuracies)]
    table = side_by_side(summarise(accuracies, confidence), ROW, params.accuracies)
    for reference in (params.baseline, params.method):
        order = [reference, *(arm for arm in arm_order if arm != reference)]
        found = paired_differences(accuracies, order, confidence)
        of_reference = _read(found[found["subtrahend_arm"] == reference], confidence, equivalence)
        table = _with_differences(table, of_reference, reference, params.accuracies)
    table = _with_dynamics(table, final)
    return sorted_in_order(table, ROW, {"arm": arm_order, "readout": READOUTS})


def _read(differences: pd.DataFrame, confidence: float, equivalence: Equivalence) -> pd.DataFrame:
    """Adds `p_equivalence` and `reading`; like the intervals, the tests are not corrected."""
    estimate = one_sample(*(differences[x] for x in ("mean_difference", "sd", "n")))
    p_equivalence = tost(estimate, differences["metric"].map(equivalence.margins))
    small = p_equivalence < 1 - confidence
    not_zero = (differences["p"] < 1 - confidence).to_numpy()
    enough = (differences["n"] >= equivalence.minimum_seeds).to_numpy()
    reading = np.select([~enough, small, not_zero], [UNDECIDED, WITHIN, DIFFERS], UNDECIDED)
    return differences.assign(p_equivalence=p_equivalence, reading=reading)


def compared_readout(readout: str, available: Sequence[str]) -> str:
    """The readout of a reference, of those available, that an arm's readout is compared with."""
    if readout in available:
        return readout
    return "qp" if readout == "all" else "all"


def _with_differences(
    table: pd.DataFrame, differences: pd.DataFrame, reference: str, accuracies: Sequence[str]
) -> pd.DataFrame:
    available = list(table.loc[table["arm"] == reference, "readout"].unique())
    wanted = differences["minuend_readout"].map(lambda x: compared_readout(x, available))
    chosen = differences[differences["subtrahend_readout"] == wanted]
    for metric in accuracies:
        column = f"{metric}_minus_{reference}"
        names: Mapping[str, str] = {
            "minuend_arm": "arm", "minuend_readout": "readout", "mean_difference": column,
            **{part: f"{column}_{part}" for part in PARTS},
        }  # fmt: skip
        rows = chosen[chosen["metric"] == metric][["epochs", *names]].rename(columns=names)
        table = table.merge(rows, how="left", on=ROW, validate="one_to_one")
    return table


def _with_dynamics(table: pd.DataFrame, final: pd.DataFrame) -> pd.DataFrame:
    for metric in MAP_METRICS:
        key = ROW if metric in BY_READOUT else ROW[:2]
        of_metric = final[final["metric"] == metric]
        means = of_metric.groupby(key)["value"].mean().rename(metric).reset_index()
        table = table.merge(means, how="left", on=key, validate="many_to_one")
    return table
