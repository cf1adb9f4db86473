"""The paper's statements as claims about our runs: ranges in which means over seeds lie."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from hamjepa_audit.metrics import TRAINING_SECONDS
from hamjepa_audit.params.audit import AuditParams, StatementParams
from hamjepa_audit.statistics.hypothesis_tests import Array
from hamjepa_audit.statistics.seeds import NotMeasured, Pairs, SeedTable
from hamjepa_audit.statistics.trajectories import FEWEST_CHECKPOINTS

INFINITY = float("inf")


class Part(NamedTuple):
    """Part of a statement: the mean of `values`, shape (n,), one per seed, lies in (low, high).

    Attributes:
        few_values: each seed's value is one of a few, so that those of a few seeds may agree by
            chance; a t-test's p is then not taken to be below the smallest of the exact sign test.
    """

    what: str
    values: Array
    low: float = -INFINITY
    high: float = INFINITY
    few_values: bool = False

    @property
    def bounds(self) -> list[tuple[int, float]]:
        """The finite bounds, each with its side: 1 for the lower and -1 for the upper bound."""
        return [(side, at) for side, at in ((1, self.low), (-1, self.high)) if np.isfinite(at)]


@dataclass(frozen=True)
class Runs:
    """The runs that a statement is tested on."""

    seeds: SeedTable
    study: str
    epochs: int
    params: AuditParams

    @property
    def thresholds(self) -> StatementParams:
        """What the words of the statements are taken to mean."""
        return self.params.statements

    def of(self, arm: str, readout: str, metric: str) -> "pd.Series[float]":
        """Each seed's value of a metric, which is given by the paper's name for it.

        Raises:
            NotMeasured: there are no values.
        """
        ours = self.params.our_metric(metric)
        return self.seeds.require(self.study, self.epochs, arm, readout, ours)

    def knn_sweep(self, arm: str, readout: str) -> pd.DataFrame:
        """KNN top-1 accuracies: seeds x all k that were measured and count, both sorted."""
        sweep = self.seeds.knn_sweep(self.study, self.epochs, arm, readout)
        stands_for = self.params.stands_for.get(self.study)
        largest = stands_for.largest_k if stands_for else None
        return sweep[[k for k in sweep.columns if largest is None or int(k) <= largest]]

    def correlations(self, arm: str, readout: str, metrics: tuple[str, str]) -> "pd.Series[float]":
        """Each run's rank correlation of two metrics over its checkpoints, by seed."""
        return self.seeds.correlations(self.study, self.epochs, arm, readout, metrics)


def minus(one: "pd.Series[float]", other: "pd.Series[float]") -> Array:
    """Differences, shape (n,), for the seeds that both sides have, free of rounding noise.

    The operands are measured values or weighted means of them. Differences as operands would have
    larger rounding errors than their sizes suggest.
    """
    return _array(Pairs.of(one, other).differences)


def symplectic_drives_knn(runs: Runs, mlp_arm: str = "mlp") -> list[Part]:
    """The MLP loses more than `most` of HamJEPA-q's kNN gain, less than `little` of the probe's.

    The gains are over SIGReg, and the share lost is (hamjepa - mlp) / (hamjepa - sigreg). That it
    exceeds a bound b is tested without a quotient: there is a gain, and the mean of
    (hamjepa - mlp) - b (hamjepa - sigreg) is above 0.
    """
    parts = []
    for metric, name in (("knn_top1@20", "kNN"), ("linear_probe_top1", "probe")):
        hamjepa, mlp = runs.of("hamjepa", "q", metric), runs.of(mlp_arm, "q", metric)
        sigreg = runs.of("sigreg", "all", metric)
        gain = minus(hamjepa, sigreg)
        parts.append(Part(f"{name} gain of hamjepa q over sigreg", gain, low=0))
        share = runs.thresholds.most if name == "kNN" else runs.thresholds.little
        # hamjepa - mlp - share (hamjepa - sigreg) as one difference of accuracies.
        left = ((1 - share) * hamjepa + share * sigreg).dropna()
        beyond = minus(left, mlp)
        what = f"{name} gain lost with the mlp, minus {share:.3g} of the gain"
        parts.append(Part(what, beyond, *((0, INFINITY) if name == "kNN" else (-INFINITY, 0))))
    return parts


def q_is_content(runs: Runs) -> list[Part]:
    """HamJEPA's kNN@20: q is at most negligibly below qp, and qp is above p."""
    q, p, qp = (runs.of("hamjepa", part, "knn_top1@20") for part in ("q", "p", "qp"))
    return [
        Part("kNN of hamjepa q - qp", minus(q, qp), low=-runs.thresholds.negligible_accuracy),
        Part("kNN of hamjepa qp - p", minus(qp, p), low=0),
    ]


def knn_decays_for_sigreg(runs: Runs) -> list[Part]:
    """SIGReg's largest kNN accuracy is at a small k, and for larger k it falls from k to k."""
    sweep = runs.knn_sweep("sigreg", "all")
    ks = [int(k) for k in sweep.columns]
    limit = runs.thresholds.small_k
    small = [k for k in ks if k <= limit]
    large = [k for k in ks if k > limit]
    if sweep.empty or not small or not large:
        raise NotMeasured(f"no kNN accuracies of sigreg both at k <= {limit} and at larger k")
    peak = minus(sweep[small].max(axis=1), sweep[large].max(axis=1))
    what = f"best kNN of sigreg at k <= {limit} - best at larger k"
    return [Part(what, peak, low=0)] + [
        Part(f"sigreg, kNN@{one} - kNN@{next_}", minus(sweep[one], sweep[next_]), low=0)
        for one, next_ in itertools.pairwise(large)
    ]


def rank_not_collapsed(runs: Runs) -> list[Part]:
    """HamJEPA's q has a higher effective rank than SIGReg, and its p a lower one."""
    sigreg = runs.of("sigreg", "all", "effective_rank")
    q, p = (minus(runs.of("hamjepa", part, "effective_rank"), sigreg) for part in ("q", "p"))
    return [
        Part("effective rank of hamjepa q - sigreg", q, low=0),
        Part("effective rank of hamjepa p - sigreg", p, high=0),
    ]


def cone(runs: Runs) -> list[Part]:
    """HamJEPA's mean random-pair cosines are strongly positive, and SIGReg's is near zero."""
    near = runs.thresholds.cosine_near_zero
    strong = runs.thresholds.cosine_strongly_positive
    hamjepa = [
        Part(
            f"mean cosine of hamjepa {part}",
            _array(runs.of("hamjepa", part, "cosine_mean")),
            strong,
        )
        for part in ("q", "p", "qp")
    ]
    sigreg = _array(runs.of("sigreg", "all", "cosine_mean"))
    return [*hamjepa, Part("mean cosine of sigreg", sigreg, -near, near)]


def norm_pythagoras(runs: Runs) -> list[Part]:
    """HamJEPA: the squared mean norm of qp divided by the sum of those of q and p is near 1."""
    q, p, qp = (runs.of("hamjepa", part, "feature_norm_mean") for part in ("q", "p", "qp"))
    ratio = (qp**2 / (q**2 + p**2)).dropna()
    tolerance = runs.thresholds.pythagoras_tolerance
    return [
        Part(
            "mean norms of hamjepa, qp^2 / (q^2 + p^2)", _array(ratio), 1 - tolerance, 1 + tolerance
        )
    ]


def rank_tracks_accuracy(runs: Runs) -> list[Part]:
    """Probe accuracy and effective rank of q correlate over the checkpoints of a run.

    Spearman's rho is positive for HamJEPA and negative for SIGReg; the unit is the rho of a seed.
    """
    hamjepa, sigreg = (_rank_correlations(runs, arm) for arm in ("hamjepa", "sigreg"))
    return [
        Part("rho of hamjepa q over checkpoints", hamjepa, low=0, few_values=True),
        Part("rho of sigreg q over checkpoints", sigreg, high=0, few_values=True),
    ]


def _rank_correlations(runs: Runs, arm: str) -> Array:
    metrics = ("linear_probe_top1", runs.params.our_metric("effective_rank"))
    found = runs.correlations(arm, "q", metrics)
    if found.empty:
        raise NotMeasured(
            f"no run of {arm} has {' and '.join(metrics)} of readout q at "
            f"{FEWEST_CHECKPOINTS} checkpoints or more"
        )
    if found.isna().any():
        raise NotMeasured(
            f"a run of {arm} has the same {' or '.join(metrics)} at every checkpoint, so rho is "
            f"undefined"
        )
    return _array(found)


def qp_redundant(runs: Runs) -> list[Part]:
    """Joining q and p raises SIGReg's kNN@20 and probe accuracy, HamJEPA's only negligibly."""
    reach = runs.thresholds.negligible_accuracy
    parts = []
    for metric, name in (("knn_top1@20", "kNN"), ("linear_probe_top1", "probe")):
        sigreg, hamjepa = (
            minus(runs.of(arm, "qp", metric), runs.of(arm, "q", metric))
            for arm in ("sigreg", "hamjepa")
        )
        parts.append(Part(f"{name} of sigreg qp - q", sigreg, low=0))
        parts.append(Part(f"{name} of hamjepa qp - q", hamjepa, -reach, reach))
    return parts


def same_wall_clock(runs: Runs) -> list[Part]:
    """The ratio of HamJEPA's training time to SIGReg's, by seed, is near 1.

    Times exist only for runs that were all trained on one kind of machine, each alone on its GPU
    (`training_times`).
    """
    arms = ("hamjepa", "sigreg")
    try:
        hamjepa, sigreg = (runs.of(arm, "all", TRAINING_SECONDS) for arm in arms)
    except NotMeasured as error:
        raise NotMeasured(
            f"no {TRAINING_SECONDS} of {' and '.join(arms)} at {runs.epochs} epochs: times are "
            f"compared only if one kind of machine trained all runs, each alone on its GPU"
        ) from error
    tolerance = runs.thresholds.wall_clock_tolerance
    ratio = (hamjepa / sigreg).dropna()
    return [Part("training time, hamjepa / sigreg", _array(ratio), 1 - tolerance, 1 + tolerance)]


def _array(values: "pd.Series[float]") -> Array:
    return np.asarray(values, dtype=float)


STATEMENTS: dict[str, Callable[..., list[Part]]] = {
    "symplectic-drives-knn": symplectic_drives_knn,
    "q-is-content": q_is_content,
    "knn-decays-for-sigreg": knn_decays_for_sigreg,
    "rank-not-collapsed": rank_not_collapsed,
    "cone": cone,
    "norm-pythagoras": norm_pythagoras,
    "rank-tracks-accuracy": rank_tracks_accuracy,
    "qp-redundant": qp_redundant,
    "same-wall-clock": same_wall_clock,
}
"""The test of each statement of claims.yaml, by its id."""

BY_CONSTRUCTION = {
    "norm-pythagoras": "it holds by construction for every encoder: the squared norm of qp is the "
    "sum of those of q and p for each image, and only averaging the norms causes a deviation"
}
"""By id the statements whose verdict says nothing about the paper, and the reason."""

OTHER_READINGS: dict[str, tuple[str, ...]] = {
    "symplectic-drives-knn": ("mlp_parameter_matched", "mlp_dt_scaled")
}
"""By id the arms for which a statement is also tested: other readings of what the paper leaves
open."""
