"""What each seed measured, looked up by arm, readout and metric, and paired by seed."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from hamjepa_audit.errors import UserError
from hamjepa_audit.statistics.hypothesis_tests import Array
from hamjepa_audit.statistics.paired import ROUNDING
from hamjepa_audit.statistics.summaries import READOUTS, checked

KNN_AT = r"^knn_top1@(\d+)$"
"""The metrics of a kNN sweep, and their k."""


class NotMeasured(Exception):
    """What a claim needs isn't among the metrics; the message says what."""


class Pairs(NamedTuple):
    """Two measurements of the same runs' seeds, each of shape (n,), in the order of the seeds."""

    minuend: Array
    subtrahend: Array

    @property
    def differences(self) -> Array:
        """Minuend - subtrahend, (n,), rounding noise taken for zero (see `without_noise`)."""
        scale = float(np.abs(np.concatenate(self)).max(initial=0.0))
        return without_noise(self.minuend - self.subtrahend, scale)


def without_noise(differences: Array, scale: float) -> Array:
    """Differences, made equal or zero where they only miss it by the rounding of their operands.

    Spreads of rounding noise would make p-values of nothing.

    Args:
        differences: (n,).
        scale: the largest operand's absolute value.
    """
    noise = ROUNDING * scale
    if len(differences) and np.ptp(differences) <= noise:
        differences = np.full_like(differences, differences[0])
    return np.where(np.abs(differences) <= noise, 0.0, differences)


class SeedTable:
    """The metrics of many studies by seed.

    `studies`: those that have any metrics, sorted.

    Raises:
        UserError: the metrics are unusable (see `statistics.checked`), or a study has several data
            sets, whose seeds would be taken for those of one.
    """

    def __init__(self, metrics: pd.DataFrame) -> None:
        self._metrics = checked(metrics)
        _refuse_several_data_sets(self._metrics)
        self.studies = sorted(self._metrics["study"].unique())
        self._wide: dict[tuple[str, int], pd.DataFrame] = {}

    def values(
        self, study: str, epochs: int, arm: str, readout: str, metric: str
    ) -> "pd.Series[float]":
        """Each seed's value at the last epoch, seeds as the index, sorted; empty if not measured.

        `best` is each seed's largest value over the arm's readouts, as it is read off a single
        run; of seeds that lack a readout nothing is said.
        """
        wide = self._final(study, epochs)
        parts = READOUTS if readout == "best" else (readout,)
        columns = [(arm, part, metric) for part in parts if (arm, part, metric) in wide.columns]
        return wide[columns].dropna().max(axis=1) if columns else pd.Series(dtype=float)

    def require(
        self, study: str, epochs: int, arm: str, readout: str, metric: str
    ) -> "pd.Series[float]":
        """As `values`.

        Raises:
            NotMeasured: there are none.
        """
        found = self.values(study, epochs, arm, readout, metric)
        if found.empty:
            raise NotMeasured(f"no {metric} of {arm}, readout {readout}, at {epochs} epochs")
        return found

    def pairs(
        self,
        study: str,
        epochs: int,
        metric: str,
        minuend: tuple[str, str],
        subtrahend: tuple[str, str],
    ) -> Pairs:
        """Two sides (arm, readout) of a difference, for the seeds that both have."""
        sides = [self.values(study, epochs, *side, metric) for side in (minuend, subtrahend)]
        common = sides[0].index.intersection(sides[1].index)
        minuends, subtrahends = (np.asarray(side.loc[common], dtype=float) for side in sides)
        return Pairs(minuends, subtrahends)

    def knn_sweep(self, study: str, epochs: int, arm: str, readout: str) -> pd.DataFrame:
        """KNN top-1 accuracies at the last epoch: seeds that have all x k, both sorted."""
        rows = self._rows(study, epochs)
        k = rows["metric"].str.extract(KNN_AT)[0]
        of_sweep = (rows["arm"] == arm) & (rows["readout"] == readout) & k.notna()
        chosen = rows[of_sweep & (rows["checkpoint_epoch"] == epochs)]
        table = chosen.assign(k=k[chosen.index].astype(int))
        return table.pivot(index="seed", columns="k", values="value").dropna()

    def checkpoints(
        self, study: str, epochs: int, arm: str, readout: str, metrics: Sequence[str]
    ) -> dict[int, pd.DataFrame]:
        """Some metrics of every checkpoint that has them all, by seed: epochs x metrics."""
        rows = self._rows(study, epochs)
        chosen = rows[(rows["arm"] == arm) & (rows["readout"] == readout)]
        table = chosen.pivot(
            index=["seed", "checkpoint_epoch"], columns="metric", values="value"
        ).reindex(columns=list(metrics))
        complete = table.dropna()
        seeds = complete.index.get_level_values("seed")
        return {int(seed): complete[seeds == seed].droplevel("seed") for seed in seeds.unique()}

    def _rows(self, study: str, epochs: int) -> pd.DataFrame:
        metrics = self._metrics
        return metrics[(metrics["study"] == study) & (metrics["epochs"] == epochs)]

    def _final(self, study: str, epochs: int) -> pd.DataFrame:
        """Seeds x (arm, readout, metric) at the last epoch."""
        key = (study, epochs)
        if key not in self._wide:
            rows = self._rows(study, epochs)
            self._wide[key] = rows[rows["checkpoint_epoch"] == epochs].pivot(
                index="seed", columns=["arm", "readout", "metric"], values="value"
            )
        return self._wide[key]


def _refuse_several_data_sets(metrics: pd.DataFrame) -> None:
    for study, names in metrics.groupby("study")["dataset"].unique().items():
        if len(names) > 1:
            raise UserError(
                f"the study '{study}' has metrics of several data sets: "
                f"{', '.join(sorted(names))}; "
                f"give each a study of its own, or leave one out"
            )
