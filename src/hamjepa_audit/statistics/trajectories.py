"""Rank correlations of two metrics over the checkpoints of a run."""

import numpy as np
import pandas as pd
from scipy import stats

from hamjepa_audit.statistics.summaries import checked, interval

RUN = ["study", "epochs", "arm", "readout", "seed"]

FEWEST_CHECKPOINTS = 4
"""With fewer checkpoints a rank correlation cannot be told from chance: 3 points have 6 orders."""


def run_correlations(metrics: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """Spearman's rho of two metrics over the checkpoints of each run; needs `checked` metrics.

    Returns:
        RUN and `rho` of the runs that have both metrics at FEWEST_CHECKPOINTS checkpoints or more.
        Rho is NaN where a metric is constant: a figure leaves out such a run (`rank_correlations`),
        while a statement about runs can't be tested (`statement_parts.rank_tracks_accuracy`).
    """
    chosen = metrics[metrics["metric"].isin([first, second])]
    wide = chosen.pivot(index=[*RUN, "checkpoint_epoch"], columns="metric", values="value")
    both = wide.reindex(columns=[first, second]).dropna()
    rows = [
        (*key, _spearman(run))
        for key, run in both.groupby(level=RUN)
        if len(run) >= FEWEST_CHECKPOINTS
    ]
    return pd.DataFrame(rows, columns=[*RUN, "rho"])


def _spearman(run: pd.DataFrame) -> float:
    constant = (run.nunique() < 2).any()
    return np.nan if constant else float(stats.spearmanr(run.iloc[:, 0], run.iloc[:, 1])[0])


def rank_correlations(
    metrics: pd.DataFrame, first: str, second: str, confidence: float
) -> pd.DataFrame:
    """Spearman's rho of two metrics over each run's checkpoints, summarised over seeds.

    Returns:
        One row per study, number of epochs, arm and readout with at least one run that has both
        metrics, neither of them constant, at FEWEST_CHECKPOINTS checkpoints or more: `n` (such
        runs), `mean`, and `ci_low` and `ci_high` (Student's t interval over seeds, clipped to
        [-1, 1]; NaN for one seed, and where all seeds are equal).
    """
    found = run_correlations(checked(metrics), first, second).dropna()
    groups = found.groupby(RUN[:-1])["rho"].agg(["count", "mean", "std"]).reset_index()
    low, high = interval(groups["mean"], groups["std"], groups["count"], confidence)
    result = groups.drop(columns="std").rename(columns={"count": "n"})
    return result.assign(ci_low=np.clip(low, -1, 1), ci_high=np.clip(high, -1, 1))
