"""What metrics are called where people read them."""

import re

TITLES = {
    "cosine_mean": "Mean cosine",
    "effective_rank": "Effective rank",
    "feature_norm_mean": "Mean feature norm",
    "linear_probe_top1": "Linear probe top-1",
    "linear_probe_top5": "Linear probe top-5",
    "participation_ratio": "Participation ratio",
}
"""Titles of the metrics whose name, with spaces for underscores, isn't one."""


def metric_title(metric: str) -> str:
    """'knn_top1@20' is 'kNN@20 top-1', 'effective_rank_lowrank' 'Effective rank (randomised)'."""
    knn = re.fullmatch(r"knn_top(\d)@(\d+|best)", metric)
    if knn:
        at = "Best kNN" if knn[2] == "best" else f"kNN@{knn[2]}"
        return f"{at} top-{knn[1]}"
    plain = metric.removesuffix("_lowrank")
    title = TITLES.get(plain, plain.replace("_", " ").capitalize())
    return title if plain == metric else f"{title} (randomised)"


def with_unit(metric: str, unit: str) -> str:
    """The title, with the unit where it has one: 'kNN@20 top-1 (%)'."""
    return f"{metric_title(metric)} (%)" if unit == "percent" else metric_title(metric)
