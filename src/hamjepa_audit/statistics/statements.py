"""What the paper says in words, each as tests on our seeds.

A statement becomes parts, each of which says that the mean of some number over seeds lies in a
range. It holds if every part is shown to (intersection-union test: no correction needed, Berger
1982), and fails if one part is shown not to (Bonferroni over all bounds).
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from hamjepa_audit.errors import UserError, nearest
from hamjepa_audit.metrics import TRAINING_SECONDS
from hamjepa_audit.params.audit import AuditParams, StatementParams
from hamjepa_audit.params.claims import Claims, StatementClaim
from hamjepa_audit.statistics.claim_differences import targets
from hamjepa_audit.statistics.comparison import adjusted, summary, with_families
from hamjepa_audit.statistics.hypothesis_tests import Array, of_mean, shown_above, shown_below
from hamjepa_audit.statistics.planning import Planned, Way, with_seeds_needed
from hamjepa_audit.statistics.seeds import NotMeasured, SeedTable, without_noise
from hamjepa_audit.statistics.summaries import interval
from hamjepa_audit.statistics.verdicts import statement_verdicts

INFINITY = float("inf")
FEWEST_CHECKPOINTS = 4
"""Below, a rank correlation over checkpoints can't be told from chance: 3 points have 6 orders."""


class Part(NamedTuple):
    """One part of a statement: the mean of `values` (n,), one a seed, lies in (low, high)."""

    what: str
    values: Array
    low: float = -INFINITY
    high: float = INFINITY

    @property
    def bounds(self) -> list[tuple[int, float]]:
        """The finite ones: 1 and the lower, -1 and the upper."""
        return [(side, at) for side, at in ((1, self.low), (-1, self.high)) if np.isfinite(at)]


@dataclass(frozen=True)
class Runs:
    """The runs that a statement is tested on."""

    seeds: SeedTable
    study: str
    epochs: int
    params: AuditParams

    @property
    def words(self) -> StatementParams:
        """What the words mean."""
        return self.params.statements

    def of(self, arm: str, readout: str, metric: str) -> "pd.Series[float]":
        """Each seed's value of a metric as the paper calls it.

        Raises:
            NotMeasured: there are none.
        """
        ours = self.params.our_metric(metric)
        return self.seeds.require(self.study, self.epochs, arm, readout, ours)

    def knn_sweep(self, arm: str, readout: str) -> pd.DataFrame:
        """KNN top-1 accuracies: seeds x every k that was measured, both sorted."""
        return self.seeds.knn_sweep(self.study, self.epochs, arm, readout)

    def checkpoints(self, arm: str, readout: str, *metrics: str) -> dict[int, pd.DataFrame]:
        """Each seed's checkpoints x metrics."""
        return self.seeds.checkpoints(self.study, self.epochs, arm, readout, metrics)


def minus(one: "pd.Series[float]", other: "pd.Series[float]") -> "pd.Series[float]":
    """Differences by seed, for the seeds that both have."""
    common = one.index.intersection(other.index)
    scale = float(np.abs(np.concatenate([one, other])).max(initial=0.0))
    values = without_noise(np.asarray(one[common] - other[common], dtype=float), scale)
    return pd.Series(values, index=common)


def symplectic_drives_knn(runs: Runs, mlp_arm: str = "mlp") -> list[Part]:
    """The MLP loses more than `most` of HamJEPA-q's kNN gain over SIGReg, less than `little` of
    the probe's.

    The share lost is (hamjepa - mlp) / (hamjepa - sigreg). That it exceeds a bound b is tested
    without a quotient: the mean of (hamjepa - mlp) - b (hamjepa - sigreg) is above 0, given a gain.
    """  # noqa: D205
    parts = []
    for metric, name in (("knn_top1@20", "kNN"), ("linear_probe_top1", "probe")):
        hamjepa, mlp = runs.of("hamjepa", "q", metric), runs.of(mlp_arm, "q", metric)
        gain = minus(hamjepa, runs.of("sigreg", "all", metric))
        lost = minus(hamjepa, mlp)
        parts.append(Part(f"{name} gain of hamjepa q over sigreg", _array(gain), low=0))
        share = runs.words.most if name == "kNN" else runs.words.little
        beyond = _array(minus(lost, share * gain))
        what = f"{name} gain lost with the mlp beyond {share:.3g} of it"
        parts.append(Part(what, beyond, *((0, INFINITY) if name == "kNN" else (-INFINITY, 0))))
    return parts


def q_is_content(runs: Runs) -> list[Part]:
    """HamJEPA's kNN@20: q not below qp by more than a negligible amount, qp above p."""
    q, p, qp = (runs.of("hamjepa", part, "knn_top1@20") for part in ("q", "p", "qp"))
    return [
        Part("hamjepa q - qp", _array(minus(q, qp)), low=-runs.words.negligible_accuracy),
        Part("hamjepa qp - p", _array(minus(qp, p)), low=0),
    ]


def knn_decays_for_sigreg(runs: Runs) -> list[Part]:
    """SIGReg's largest kNN accuracy is at a small k, and from there on it falls from k to k."""
    sweep = runs.knn_sweep("sigreg", "all")
    ks = [int(k) for k in sweep.columns]
    small = [k for k in ks if k <= runs.words.small_k]
    large = [k for k in ks if k > runs.words.small_k]
    if sweep.empty or not small or not large:
        raise NotMeasured(f"no kNN accuracy of sigreg on both sides of k = {runs.words.small_k}")
    peak = minus(sweep[small].max(axis=1), sweep[large].max(axis=1))
    what = f"best sigreg kNN at k <= {runs.words.small_k} - best at larger k"
    return [Part(what, _array(peak), low=0)] + [
        Part(f"sigreg kNN@{one} - kNN@{next_}", _array(minus(sweep[one], sweep[next_])), low=0)
        for one, next_ in itertools.pairwise(large)
    ]


def rank_not_collapsed(runs: Runs) -> list[Part]:
    """HamJEPA's q has a higher effective rank than SIGReg, its p a lower one."""
    sigreg = runs.of("sigreg", "all", "effective_rank")
    q, p = (minus(runs.of("hamjepa", part, "effective_rank"), sigreg) for part in ("q", "p"))
    return [
        Part("effective rank of hamjepa q - sigreg", _array(q), low=0),
        Part("effective rank of hamjepa p - sigreg", _array(p), high=0),
    ]


def cone(runs: Runs) -> list[Part]:
    """HamJEPA's mean random-pair cosines are strongly positive, SIGReg's near zero."""
    near = runs.words.cosine_near_zero
    strong = runs.words.cosine_strongly_positive
    hamjepa = [
        Part(f"cosine of hamjepa {part}", _array(runs.of("hamjepa", part, "cosine_mean")), strong)
        for part in ("q", "p", "qp")
    ]
    sigreg = _array(runs.of("sigreg", "all", "cosine_mean"))
    return [*hamjepa, Part("cosine of sigreg", sigreg, -near, near)]


def norm_pythagoras(runs: Runs) -> list[Part]:
    """HamJEPA: the squared mean norm of qp over the sum of those of q and p is 1, or nearly."""
    q, p, qp = (runs.of("hamjepa", part, "feature_norm_mean") for part in ("q", "p", "qp"))
    ratio = (qp**2 / (q**2 + p**2)).dropna()
    tolerance = runs.words.pythagoras_tolerance
    return [Part("hamjepa qp^2 / (q^2 + p^2)", _array(ratio), 1 - tolerance, 1 + tolerance)]


def rank_tracks_accuracy(runs: Runs) -> list[Part]:
    """Over the checkpoints of a run, Spearman's rho of probe accuracy and effective rank of q is
    positive for HamJEPA and negative for SIGReg; the unit is the seed's rho.
    """  # noqa: D205
    hamjepa, sigreg = (_rank_correlations(runs, arm) for arm in ("hamjepa", "sigreg"))
    return [
        Part("rho of hamjepa q over checkpoints", hamjepa, low=0),
        Part("rho of sigreg q over checkpoints", sigreg, high=0),
    ]


def _rank_correlations(runs: Runs, arm: str) -> Array:
    metrics = ("linear_probe_top1", runs.params.our_metric("effective_rank"))
    found = runs.checkpoints(arm, "q", *metrics).values()
    tables = [table for table in found if len(table) >= FEWEST_CHECKPOINTS]
    if not tables:
        raise NotMeasured(
            f"no run of {arm} has {' and '.join(metrics)} of readout q at "
            f"{FEWEST_CHECKPOINTS} checkpoints"
        )
    if any((table.nunique() < 2).any() for table in tables):
        raise NotMeasured(f"a run of {arm} has the same value at every checkpoint")
    return np.array([stats.spearmanr(*(table[name] for name in metrics))[0] for table in tables])


def qp_redundant(runs: Runs) -> list[Part]:
    """Joining q and p raises SIGReg's kNN@20 and probe accuracy over q's, HamJEPA's negligibly."""
    reach = runs.words.negligible_accuracy
    parts = []
    for metric, name in (("knn_top1@20", "kNN"), ("linear_probe_top1", "probe")):
        sigreg, hamjepa = (
            _array(minus(runs.of(arm, "qp", metric), runs.of(arm, "q", metric)))
            for arm in ("sigreg", "hamjepa")
        )
        parts.append(Part(f"{name} of sigreg qp - q", sigreg, low=0))
        parts.append(Part(f"{name} of hamjepa qp - q", hamjepa, -reach, reach))
    return parts


def same_wall_clock(runs: Runs) -> list[Part]:
    """HamJEPA's training time over SIGReg's, seed by seed, is 1 or nearly.

    There are times only of runs that one kind of machine trained (`training_times`).
    """
    arms = ("hamjepa", "sigreg")
    try:
        hamjepa, sigreg = (runs.of(arm, "all", TRAINING_SECONDS) for arm in arms)
    except NotMeasured as error:
        raise NotMeasured(
            f"no {TRAINING_SECONDS} of {' and '.join(arms)} at {runs.epochs} epochs, all of which "
            f"one kind of machine must have trained"
        ) from error
    tolerance = runs.words.wall_clock_tolerance
    ratio = (hamjepa / sigreg).dropna()
    return [Part("training time of hamjepa / sigreg", _array(ratio), 1 - tolerance, 1 + tolerance)]


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

OTHER_READINGS: dict[str, tuple[str, ...]] = {
    "symplectic-drives-knn": ("mlp_parameter_matched", "mlp_dt_scaled")
}
"""Arms that a statement's test also takes: other readings of what the paper leaves open."""


def statement_claims(seeds: SeedTable, claims: Claims, params: AuditParams) -> pd.DataFrame:
    """Every statement of the paper, on its study and on those like it.

    Args:
        seeds: our measurements.
        claims: the paper's.
        params: levels, families, what the words mean, which study stands for which.

    Returns:
        One row per statement and study: `statement` (its id), `says`, `source`, `study`, `epochs`,
        `paper_study`, `paper_epochs`, `carried` (bool: not the paper's study), `family`, `n`
        (seeds, the fewest of its parts), `found` (each part's mean, interval and claimed range),
        `p_holds`, `p_fails`, both also Holm-adjusted, `verdict`, `reason`, `seeds_needed` and
        `seeds_considered` (see `with_seeds_needed`; in each part of the statement).

    Raises:
        UserError: a statement has no test.
    """
    rows = [
        _row(claim, Runs(seeds, study, epochs, params))
        for claim in claims.statements
        for study, epochs in targets(claim.study, claim.epochs, seeds, params)
    ]
    table = with_families(pd.DataFrame(rows), params.families.statements)
    table = adjusted(table, ["p_holds", "p_fails"], ["statement", "study", "epochs"])
    decided = statement_verdicts(table, params.alpha, params.minimum_seeds)
    missing = table["missing"] != ""
    decided["reason"] = decided["reason"].mask(missing, table["missing"])
    table = with_seeds_needed(pd.concat([table, decided], axis=1), "p_holds", _ways, params)
    return table.drop(columns=["missing", "parts"])


def _row(claim: StatementClaim, runs: Runs) -> dict[str, object]:
    if claim.id not in STATEMENTS:
        raise UserError(f"the statement '{claim.id}' has no test: {nearest(claim.id, STATEMENTS)}")
    row: dict[str, object] = {
        "statement": claim.id,
        "says": claim.says,
        "source": claim.source,
        "study": runs.study,
        "epochs": runs.epochs,
        "paper_study": claim.study,
        "paper_epochs": claim.epochs,
        "carried": runs.study != claim.study,
    }
    try:
        parts = STATEMENTS[claim.id](runs)
    except NotMeasured as reason:
        nothing = {"n": 0, "parts": [], "found": "", "p_holds": np.nan, "p_fails": np.nan}
        return row | nothing | {"missing": str(reason)}
    holds, fails = statement_evidence(parts)
    return row | {
        "n": min(len(part.values) for part in parts),
        "parts": parts,
        "found": _found(parts, runs.params.confidence) + _in_other_readings(claim.id, runs),
        "p_holds": holds,
        "p_fails": fails,
        "missing": "",
    }


def statement_evidence(parts: list[Part]) -> tuple[float, float]:
    """P-values that every part holds, and that some part fails.

    Returns:
        The largest over the bounds of "the mean is not inside"; the smallest over them of "the mean
        is not outside", times their number. NaN with fewer than two seeds in a part.
    """
    inside, outside = [], []
    for part in parts:
        found = summary(part.values, "mean")
        for side, bound in part.bounds:
            # Mirrored where the bound is an upper one: inside is then above, too.
            estimate = of_mean(side * found["mean"], found["sd"], found["n"])
            inside.append(float(shown_above(estimate, side * bound)))
            outside.append(float(shown_below(estimate, side * bound)))
    # np.minimum keeps NaN: what was not tested must not enter its family as a p-value of 1.
    return float(np.max(inside)), float(np.minimum(1.0, len(outside) * np.min(outside)))


def _ways(row: pd.Series, seeds: Array, level: float) -> list[Way]:
    """To each line of `statement_verdicts`: every bound is shown to be kept, or one broken."""
    bounds = [
        (side * (found["mean"] - bound), found["sd"])
        for part, found in ((part, summary(part.values, "mean")) for part in row["parts"])
        for side, bound in part.bounds
    ]
    kept = [Planned(of_mean(distance, sd, seeds), level) for distance, sd in bounds]
    broken = [
        [Planned(of_mean(-distance, sd, seeds), level / len(bounds))] for distance, sd in bounds
    ]
    return [kept, *broken]


def _in_other_readings(statement: str, runs: Runs) -> str:
    """What the same test finds with other readings of an arm; the verdict is of the first alone."""
    told, missing = "", []
    for arm in OTHER_READINGS.get(statement, ()):
        try:
            parts = STATEMENTS[statement](runs, arm)
        except NotMeasured:
            missing.append(arm)
            continue
        holds, fails = statement_evidence(parts)
        told += (
            f". With {arm} in its place, p = {holds:.2g} that it holds, {fails:.2g} that it "
            f"fails: {_found(parts, runs.params.confidence)}"
        )
    return told + (f". Not run in its place: {', '.join(missing)}" if missing else "")


def _found(parts: list[Part], confidence: float) -> str:
    return "; ".join(_told(part, confidence) for part in parts)


def _told(part: Part, confidence: float) -> str:
    """One part in words: 'hamjepa q - qp: 0.57 [0.21, 0.93], claimed above -0.5'."""
    found = summary(part.values, "mean")
    low, high = interval([found["mean"]], [found["sd"]], [found["n"]], confidence)
    if np.isinf(part.high):
        claimed = f"above {part.low:.4g}"
    elif np.isinf(part.low):
        claimed = f"below {part.high:.4g}"
    else:
        claimed = f"between {part.low:.4g} and {part.high:.4g}"
    bounds = "" if np.isnan(low[0]) else f" [{low[0]:.4g}, {high[0]:.4g}]"
    return f"{part.what}: {found['mean']:.4g}{bounds}, claimed {claimed}"
