"""Titles of metrics and readouts, as they are shown in tables and figures."""

import re

TITLES = {
    "cosine_mean": "Mean cosine",
    "effective_rank": "Effective rank",
    "feature_norm_mean": "Mean feature norm",
    "linear_probe_top1": "Linear probe top-1",
    "linear_probe_top5": "Linear probe top-5",
    "participation_ratio": "Participation ratio",
}
"""Titles of the metrics whose name, with spaces for underscores, is not a title."""


def metric_title(metric: str) -> str:
    """The title of a metric: 'knn_top1@20' becomes 'kNN@20 top-1'."""
    knn = re.fullmatch(r"knn_top(\d)@(\d+|best)", metric)
    if knn:
        at = "Best kNN" if knn[2] == "best" else f"kNN@{knn[2]}"
        return f"{at} top-{knn[1]}"
    plain = metric.removesuffix("_lowrank")
    title = TITLES.get(plain, plain.replace("_", " ").capitalize())
    return title if plain == metric else f"{title} (randomised)"


def readout_title(readout: str) -> str:
    """The title of a readout: 'Readout q', or 'Whole state'."""
    return "Whole state" if readout == "all" else f"Readout {readout}"


def with_readout(title: str, readout: str) -> str:
    """The title of an arm and its readout: 'HamJEPA q', or 'SIGReg' if it is the whole state."""
    return title if readout == "all" else f"{title} {readout}"


def with_unit(metric: str, unit: str) -> str:
    """The title of a metric with its unit, if it has one: 'kNN@20 top-1 (%)'."""
    return f"{metric_title(metric)} (%)" if unit == "percent" else metric_title(metric)
