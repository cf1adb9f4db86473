"""The measurements of each seed, by arm, readout and metric, and paired by seed."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from hamjepa_audit.errors import UserError
from hamjepa_audit.statistics.hypothesis_tests import Array
from hamjepa_audit.statistics.summaries import ROUNDING, SPLIT, checked
from hamjepa_audit.statistics.trajectories import run_correlations

KNN_AT = r"^knn_top1@(\d+)$"
"""Matches the metrics of a kNN sweep and captures k."""


class NotMeasured(Exception):
    """A measurement that a claim needs is missing from the metrics; the message names it."""


class Pairs(NamedTuple):
    """Two measurements of the same seeds, each indexed by seed, in the same order."""

    minuend: "pd.Series[float]"
    subtrahend: "pd.Series[float]"

    @classmethod
    def of(cls, minuend: "pd.Series[float]", subtrahend: "pd.Series[float]") -> "Pairs":
        """Pairs the measurements of the seeds that both sides have."""
        common = minuend.index.intersection(subtrahend.index)
        return cls(minuend.loc[common], subtrahend.loc[common])

    @property
    def differences(self) -> "pd.Series[float]":
        """Minuend - subtrahend by seed, free of rounding noise (see `without_noise`)."""
        values = np.asarray(self.minuend - self.subtrahend, dtype=float)
        return pd.Series(without_noise(values, self.noise), index=self.minuend.index)

    @property
    def noise(self) -> float:
        """The largest rounding error of a difference."""
        return ROUNDING * float(np.abs(np.concatenate(self)).max(initial=0.0))


def without_noise(differences: Array, noise: float) -> Array:
    """Makes sizes of differences exactly equal, or zero, where only rounding prevents it.

    Otherwise the spread of rounding noise would yield p-values that mean nothing, and ranks would
    miss ties. `noise` is the largest rounding error of a difference.
    """
    sizes = np.abs(differences)
    ordered = np.concatenate([[0.0], np.sort(sizes)])
    starts = ordered[np.concatenate([[True], np.diff(ordered) > noise])]
    return np.sign(differences) * starts[np.searchsorted(starts, sizes, side="right") - 1]


class SeedTable:
    """The metrics of several studies, accessible by seed.

    Attributes:
        studies: the studies that have any metrics, sorted by name.

    Raises:
        UserError: the metrics are unusable (see `statistics.checked`), or a study has several data
            sets, whose seeds would be confused.
    """

    def __init__(self, metrics: pd.DataFrame) -> None:
        self._metrics = checked(metrics)
        _refuse_several_data_sets(self._metrics)
        self.studies = sorted(self._metrics["study"].unique())
        self._wide: dict[tuple[str, int], pd.DataFrame] = {}

    def values(
        self, study: str, epochs: int, arm: str, readout: str, metric: str
    ) -> "pd.Series[float]":
        """Each seed's value at the last epoch, indexed and sorted by seed; empty if not measured.

        The readout `best` is each seed's largest value over q, p and qp, as one would read it off a
        single run, or of an arm that was not measured on all three the value of its whole state.
        """
        wide = self._final(study, epochs)
        parts: tuple[str, ...] = (readout,)
        if readout == "best":
            split = all((arm, part, metric) in wide.columns for part in SPLIT)
            parts = SPLIT if split else ("all",)
        columns = [(arm, part, metric) for part in parts]
        if any(column not in wide.columns for column in columns):
            return pd.Series(dtype=float)
        return wide[columns].dropna().max(axis=1)

    def require(
        self, study: str, epochs: int, arm: str, readout: str, metric: str
    ) -> "pd.Series[float]":
        """As `values`, but missing values are an error.

        Raises:
            NotMeasured: there are no values.
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
        """The two sides (arm, readout) of a difference, for the seeds that both sides have."""
        sides = (self.values(study, epochs, *side, metric) for side in (minuend, subtrahend))
        return Pairs.of(*sides)

    def knn_sweep(self, study: str, epochs: int, arm: str, readout: str) -> pd.DataFrame:
        """KNN top-1 accuracies at the last epoch: seeds x k, both sorted, for complete seeds."""
        rows = self._rows(study, epochs)
        k = rows["metric"].str.extract(KNN_AT)[0]
        of_sweep = (rows["arm"] == arm) & (rows["readout"] == readout) & k.notna()
        chosen = rows[of_sweep & (rows["checkpoint_epoch"] == epochs)]
        table = chosen.assign(k=k[chosen.index].astype(int))
        return table.pivot(index="seed", columns="k", values="value").dropna()

    def correlations(
        self, study: str, epochs: int, arm: str, readout: str, metrics: tuple[str, str]
    ) -> "pd.Series[float]":
        """Each run's rank correlation of two metrics, by seed (see `run_correlations`)."""
        rows = self._rows(study, epochs)
        chosen = rows[(rows["arm"] == arm) & (rows["readout"] == readout)]
        return run_correlations(chosen, *metrics).set_index("seed")["rho"]

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
