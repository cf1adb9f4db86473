"""Verdicts on simulated runs with known truth."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from hamjepa_audit.metrics import METRICS_SCHEMA
from hamjepa_audit.params.audit import AuditParams, load_audit
from hamjepa_audit.params.claims import Claims, load_claims
from hamjepa_audit.statistics.audit import audit
from hamjepa_audit.statistics.claim_differences import difference_evidence
from hamjepa_audit.statistics.claims import measurement_evidence
from hamjepa_audit.statistics.comparison import adjusted
from hamjepa_audit.statistics.decision_tables import Verdict
from hamjepa_audit.statistics.verdicts import (
    difference_verdicts,
    direction_verdicts,
    measurement_verdicts,
)
from tests.unit.synthetic_claims import row as row_of

DRAWS = 1000
SAME_SIGN = {Verdict.REPRODUCED, Verdict.SIZE_DIFFERS, Verdict.CARRIES_OVER}


@pytest.fixture(scope="module")
def params(params_folder: Path) -> AuditParams:
    return load_audit(params_folder)


class Paper(NamedTuple):
    """A difference that the paper states, and the standard deviation of ours over seeds."""

    value: float
    sd: float
    paper_sd: float = np.nan
    paper_n: int = 1


TABLE_1 = [  # CIFAR-100, 30 epochs; standard deviations as for independent seeds in Table 1
    Paper(4.89, 0.32, paper_n=3),
    Paper(4.88, 0.32, 0.11, 3),
    Paper(3.52, 0.38, paper_n=3),
    Paper(3.75, 0.34, paper_n=3),
]
TABLE_3 = [  # 80 epochs: the large gains and the two small ones
    Paper(6.45, 0.4),
    Paper(10.64, 0.4),
    Paper(5.72, 0.4),
    Paper(6.13, 0.4),
    Paper(8.82, 0.4),
    Paper(1.82, 0.3),
    Paper(0.32, 0.4),
]
TABLE_2 = [  # ImageNet-100: the large gains, and SIGReg's two small ones from joining q and p
    Paper(4.82, 0.4),
    Paper(7.52, 0.4),
    Paper(4.90, 0.4),
    Paper(6.54, 0.4),
    Paper(4.26, 0.4),
    Paper(3.98, 0.4),
    Paper(6.38, 0.4),
    Paper(0.84, 0.4),
    Paper(1.14, 0.4),
]
SMALLEST_TOLD_APART = 1.8
"""Percentage points: ten seeds can't determine the size of the paper's smaller gains."""
TRUTHS = {"equal": 0.0, "as the paper": 1.0, "half": 0.5, "opposite": -1.0}
RIGHT = {
    "equal": Verdict.NOT_REPRODUCED,
    "as the paper": Verdict.REPRODUCED,
    "half": Verdict.SIZE_DIFFERS,
    "opposite": Verdict.NOT_REPRODUCED,
}


def simulated(
    paper: list[Paper], n: int, truth: float, params: AuditParams, scatter: float = 1.0
) -> pd.DataFrame:
    """Evidence from DRAWS audits of all claims, each audit a family: DRAWS x claims rows."""
    noise = np.random.default_rng(n).normal(size=(DRAWS, len(paper), n))
    value, sd, paper_sd, paper_n = (np.tile(column, DRAWS) for column in zip(*paper, strict=True))
    seeds = truth * value[:, None] + scatter * sd[:, None] * noise.reshape(-1, n)
    table = pd.DataFrame(
        {
            "family": np.repeat(np.arange(DRAWS), len(paper)),
            "claim": np.tile(np.arange(len(paper)), DRAWS),
            "n": n,
            "mean_difference": seeds.mean(axis=1),
            "sd": seeds.std(axis=1, ddof=1),
            "sd_minuend": seeds.std(axis=1, ddof=1) / np.sqrt(2),  # of unrelated arms
            "sd_subtrahend": seeds.std(axis=1, ddof=1) / np.sqrt(2),
            "paper": value,
            "paper_sd": paper_sd,
            "paper_n": paper_n,
            "margin": [params.difference_margin("knn_top1@20", one) for one in value],
        }
    )
    tests = ("p", "p_h0_within_margin", "p_equivalence", "p_h0_margin_or_more")
    return adjusted(difference_evidence(table, params), dict.fromkeys(tests, ("claim",)))


def shares(table: pd.DataFrame, decide) -> pd.DataFrame:
    """Frequencies of verdicts, claims x verdicts."""
    verdicts = decide(table, 0.05, 3)["verdict"]
    return pd.crosstab(table["claim"], verdicts, normalize="index")


@pytest.mark.parametrize("truth", TRUTHS)
@pytest.mark.parametrize(
    "paper", [TABLE_1, TABLE_2, TABLE_3], ids=["Table 1", "Table 2", "Table 3"]
)
def test_the_right_verdict_at_ten_seeds(
    paper: list[Paper], truth: str, params: AuditParams
) -> None:
    table = simulated(paper, 10, TRUTHS[truth], params)
    found = shares(table, difference_verdicts)
    told_apart = [at for at, claim in enumerate(paper) if claim.value > SMALLEST_TOLD_APART]
    direction = shares(table, direction_verdicts).loc[told_apart]
    right = Verdict.CARRIES_OVER if TRUTHS[truth] > 0 else Verdict.NOT_CARRIED
    assert (direction[right] >= 0.95).all()
    if truth == "half":
        told_apart = [at for at in told_apart if half_is_another_size(paper[at], 10, params)]
        assert told_apart
    assert (found.loc[told_apart, RIGHT[truth]] >= 0.95).all()
    others = found.drop(index=told_apart)
    for verdict in {Verdict.REPRODUCED, Verdict.SIZE_DIFFERS, Verdict.NOT_REPRODUCED}:
        if verdict != RIGHT[truth] and verdict in others:
            assert (others[verdict] <= 0.05).all()


def half_is_another_size(claim: Paper, n: int, params: AuditParams) -> bool:
    """Whether half of the paper's difference is clearly beyond the margin, given its few runs."""
    margin = params.difference_margin("knn_top1@20", claim.value)
    error = claim.sd * np.sqrt(1 / n + 1 / claim.paper_n)
    return bool(claim.value / 2 - margin > 4 * error)


def test_the_probes_small_gain_over_the_mlp(params: AuditParams) -> None:
    """1.82 is distinguished from 0, from its opposite and from itself, but not from its half.

    Here, the true difference is the half.
    """
    found = shares(simulated(TABLE_3, 10, 0.5, params), difference_verdicts).loc[5]
    assert found[Verdict.INCONCLUSIVE] > 0.9
    assert found[Verdict.INCONCLUSIVE] + found[Verdict.SIZE_DIFFERS] >= 0.999


KEPT = ("study", "epochs", "arm", "readout", "metric")


def long_metrics(claims: Claims, n: int, truth: float, rng: np.random.Generator) -> pd.DataFrame:
    """Long metrics in which differences from SIGReg are `truth` times the paper's.

    All arms of a seed share a random offset, as differences paired by seed assume. It is small
    enough that the paper's differences, whose arms may be unpaired, are still informative.
    """
    percent = [claim for claim in claims.measurements if claim.unit == "percent"]
    mean = {tuple(getattr(claim, name) for name in KEPT): float(claim.value) for claim in percent}
    rows = []
    for where, value in mean.items():
        study, epochs, arm, readout, metric = where
        base = {
            part: mean.get((study, epochs, "sigreg", part, metric)) for part in (readout, "all")
        }
        zero = base[readout] if base["all"] is None else base["all"]
        if zero is None:  # a best k of HamJEPA that the paper gives for SIGReg only on qp
            continue
        centre = value if arm == "sigreg" else zero + truth * (value - zero)
        shared = 0.25 * np.random.default_rng([n, epochs]).normal(size=n)
        for seed, noise in enumerate(0.25 * rng.normal(size=n)):
            rows.append(row_of(*where, seed, centre + noise + shared[seed]))
    return pd.DataFrame(rows)[METRICS_SCHEMA.names]


@pytest.mark.parametrize("truth", TRUTHS)
def test_the_right_verdict_from_long_metrics(
    truth: str, params: AuditParams, params_folder: Path
) -> None:
    """The complete audit, from rows of seeds, readouts, arms and studies to verdicts."""
    every = load_claims(params_folder / "paper/claims.yaml")
    few = every.model_copy(update={"statements": every.statements[:1]})
    rng, right, count = np.random.default_rng(7), 0, 0
    for _ in range(8):
        metrics = long_metrics(every, 10, TRUTHS[truth], rng).sample(frac=1, random_state=0)
        table = audit(metrics, few, params).claim_differences
        table = table[(table["n"] == 10) & (table["paper"] > (5 if truth == "half" else 3))]
        assert len(table) >= (6 if truth == "half" else 13) and set(table["study"]) == {
            "cifar100",
            "imagenet100",
        }
        right += int((table["verdict"] == RIGHT[truth]).sum())
        count += len(table)
        assert set(table["verdict"]) <= {RIGHT[truth], Verdict.INCONCLUSIVE}
    assert right >= 0.95 * count


def wrong_signs(table: pd.DataFrame, truth: float) -> pd.Series:
    """Frequency of verdicts with a wrong sign, by claim."""
    told = difference_verdicts(table, 0.05, 3)
    same = told["verdict"].isin(SAME_SIGN)
    opposite = told["reason"] == "the sign is opposite to the paper's"
    return (same if truth < 0 else opposite).groupby(table["claim"]).mean()


@pytest.mark.parametrize("truth", ["as the paper", "half", "opposite"])
@pytest.mark.parametrize("n", [3, 5, 10])
def test_never_a_wrong_sign(truth: str, n: int, params: AuditParams) -> None:
    for paper in (TABLE_1, TABLE_3[:5]):
        table = simulated(paper, n, TRUTHS[truth], params)
        assert (wrong_signs(table, TRUTHS[truth]) == 0).all()
        if TRUTHS[truth] > 0:
            assert Verdict.NOT_REPRODUCED not in shares(table, difference_verdicts)
            assert Verdict.NOT_CARRIED not in shares(table, direction_verdicts)


@pytest.mark.parametrize("truth", ["as the paper", "half", "opposite"])
@pytest.mark.parametrize("n", [3, 10])
def test_hardly_ever_a_wrong_sign_in_noise(truth: str, n: int, params: AuditParams) -> None:
    """With ten times the noise, errors keep the level, and wrong signs are much rarer."""
    table = simulated(TABLE_1, n, TRUTHS[truth], params, scatter=10.0)
    assert (wrong_signs(table, TRUTHS[truth]) < 0.005).all()
    if TRUTHS[truth] > 0:
        found = shares(table, difference_verdicts)
        assert (found.get(Verdict.NOT_REPRODUCED, pd.Series([0.0])) < 0.025).all()


@pytest.mark.parametrize("truth", TRUTHS)
def test_inconclusive_where_power_is_low(truth: str, params: AuditParams) -> None:
    # With thirty times the noise and five seeds, neither size nor sign can be determined.
    noisy = shares(simulated(TABLE_1, 5, TRUTHS[truth], params, scatter=30.0), difference_verdicts)
    assert (noisy[Verdict.INCONCLUSIVE] >= 0.9).all()
    # Ten seeds can't decide on a gain of 0.32 with a standard deviation of 0.4.
    small = shares(simulated(TABLE_3, 10, TRUTHS[truth], params), difference_verdicts).loc[6]
    wrong = {Verdict.REPRODUCED, Verdict.SIZE_DIFFERS, Verdict.NOT_REPRODUCED} - {RIGHT[truth]}
    assert small.reindex(sorted(wrong)).fillna(0).sum() < 0.05
    if truth in ("as the paper", "half"):
        assert small[Verdict.INCONCLUSIVE] >= 0.95


def test_a_reproduced_size_is_never_claimed_of_half(params: AuditParams) -> None:
    """Half of the paper's difference is outside the margin for any difference."""
    for n in (3, 5, 10):
        found = shares(simulated(TABLE_3, n, 0.5, params), difference_verdicts)
        if Verdict.REPRODUCED in found:
            assert (found[Verdict.REPRODUCED] <= 0.05).all()


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize(("paper_sd", "paper_n"), [(0.27, 3), (np.nan, 1)])
def test_measurements_of_the_same_runs(
    n: int, paper_sd: float, paper_n: int, params: AuditParams
) -> None:
    """The paper's value is random, too: distributed like our mean, or shifted by three points."""
    rng = np.random.default_rng(n)
    ours = 31.45 + 0.27 * rng.normal(size=(300, n))
    theirs = 31.45 + 0.27 * rng.normal(size=(300, paper_n)).mean(axis=1)
    spread = np.nan if np.isnan(paper_sd) else paper_sd
    for shift, right in ((0.0, Verdict.REPRODUCED), (3.0, Verdict.NOT_REPRODUCED)):
        table = pd.DataFrame(
            {
                "family": range(300), "claim": range(300), "n": n, "mean": ours.mean(axis=1),
                "sd": ours.std(axis=1, ddof=1), "paper": theirs + shift, "paper_sd": spread,
                "paper_n": paper_n, "margin": 1.0,
            }
        )  # fmt: skip
        tests = dict.fromkeys(["p_h0_within_margin", "p_equivalence"], ("claim",))
        evidence = adjusted(measurement_evidence(table, params), tests)
        found = measurement_verdicts(evidence, 0.05, 3)["verdict"].value_counts(normalize=True)
        wrong = {Verdict.REPRODUCED, Verdict.NOT_REPRODUCED} - {right}
        assert found.reindex(sorted(wrong)).fillna(0).sum() <= 0.07
        assert found.get(right, 0.0) >= (0.95 if n == 10 else 0.5)
