"""The paper's differences on made-up runs: tests, sides and invariances."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats

from hamjepa_audit.metrics import METRICS_SCHEMA
from hamjepa_audit.params.audit import AuditParams
from hamjepa_audit.params.claims import Claims
from hamjepa_audit.statistics.audit import Audit, audit
from hamjepa_audit.statistics.claim_differences import (
    TESTS,
    difference_claims,
    difference_evidence,
)
from hamjepa_audit.statistics.comparison import family_sizes
from hamjepa_audit.statistics.hypothesis_tests import prediction_test, wilcoxon
from hamjepa_audit.statistics.seeds import SeedTable
from tests.unit import paper_audit
from tests.unit.paper_audit import one, seeds_of
from tests.unit.synthetic_claims import row

claims, params = paper_audit.claims, paper_audit.params
metrics, found = paper_audit.metrics, paper_audit.found


def test_differences_agree_with_scipy(metrics: pd.DataFrame, found: Audit) -> None:
    name = "cifar100-e30-knn_top1@20-hamjepa_q-sigreg_all"
    row = one(found.claim_differences, claim=name)
    sides = [("hamjepa", "q", "knn_top1@20"), ("sigreg", "all", "knn_top1@20")]
    minuend, subtrahend = (seeds_of(metrics, "cifar100", 30, *side) for side in sides)
    differences = minuend - subtrahend
    test = stats.ttest_rel(minuend, subtrahend)
    assert [row["t"], row["p"]] == pytest.approx([test.statistic, test.pvalue])
    assert [row["ci_low"], row["ci_high"]] == pytest.approx(list(test.confidence_interval()))
    assert row["p_wilcoxon"] == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue)
    assert row["p_sign_flip"] == pytest.approx(2 / 2**6)
    assert row["probability_of_improvement"] == 1.0
    assert row["p_paper"] == pytest.approx(stats.ttest_1samp(differences, 4.89).pvalue)
    below = stats.ttest_1samp(differences, 1.0, alternative="less").pvalue
    assert row["p_h0_margin_or_more"] == pytest.approx(below)
    stated = one(found.claim_differences, claim=f"{name}.2")
    summaries = (differences.mean(), differences.std(ddof=1), 6, 4.88, 0.11, 3)
    welch = stats.ttest_ind_from_stats(*summaries, equal_var=False)
    assert stated["p_paper"] == pytest.approx(welch.pvalue)
    assert (row["paper_n"], stated["paper_n"]) == (3, 3)


@pytest.mark.parametrize("shared", [0.0, 0.5])
def test_what_is_expected_of_new_seeds_and_of_the_papers_runs(
    shared: float, metrics: pd.DataFrame, claims: Claims, params: AuditParams
) -> None:
    """Effects of seeds shared by both arms cancel in ours; the paper's runs may be unpaired."""
    moved = metrics.assign(value=metrics["value"] + shared * metrics["seed"])
    row = one(
        difference_claims(SeedTable(moved), claims, params),
        claim="cifar100-e30-knn_top1@20-hamjepa_q-sigreg_all",
    )
    sides = [("hamjepa", "q", "knn_top1@20"), ("sigreg", "all", "knn_top1@20")]
    arms = [seeds_of(moved, "cifar100", 30, *side) for side in sides]
    differences = arms[0] - arms[1]
    mean, sd = differences.mean(), differences.std(ddof=1)
    assert row["deviation"] == pytest.approx(mean - 4.89)
    reach = stats.t.ppf(0.975, 5) * sd * np.sqrt(1 + 1 / 6)
    assert [row["new_seed_low"], row["new_seed_high"]] == pytest.approx(
        [mean - reach, mean + reach]
    )
    # The paper's value is a mean of three seeds. Without the shared part, the arms happen to be
    # negatively correlated, so pairs vary more than unpaired runs would.
    covariance = np.cov(*arms)
    assert (np.trace(covariance) > sd**2) == (shared > 0)
    pairs = np.array([[1, -1], [-1, 1]])
    weighted = (pairs / 6 + (np.eye(2) if shared else pairs) / 3) @ covariance
    df = 5 * np.trace(weighted) ** 2 / np.trace(weighted @ weighted)
    assert row["margin"] == 1.0 and abs(mean - 4.89) < 1.0
    assert row["p_h0_within_margin"] == 1.0
    for paper in (4.89 - 4.0, 4.89 + 4.0):
        far = difference_evidence(row.to_frame().T.assign(paper=paper), params).iloc[0]
        t = (abs(mean - paper) - 1.0) / np.sqrt(np.trace(weighted))
        assert far["p_h0_within_margin"] == pytest.approx(2 * stats.t.sf(t, df))


def test_a_loss_in_the_papers_stead_is_less_than_the_margin(params: AuditParams) -> None:
    pairs = [(1.0, 5.2), (2.0, 5.9), (1.5, 5.4), (3.0, 7.1)]
    for sides, paper in (("ab", 4.0), ("ba", -4.0)):
        row = evidence(paired(pairs), sides, paper, 1.0, params)
        losses = np.subtract(*np.transpose(pairs))
        expected = stats.ttest_1samp(losses, 1.0, alternative="less").pvalue
        assert row["p_h0_margin_or_more"] == pytest.approx(expected) and expected < 0.001


def test_other_metrics_of_the_same_arms_are_other_hypotheses(
    metrics: pd.DataFrame, claims: Claims, params: AuditParams
) -> None:
    """Even without variation over seeds, when all differences have the smallest possible p."""
    key = ["study", "epochs", "arm", "readout", "metric"]
    equal = metrics.assign(value=metrics.groupby(key)["value"].transform("first"))
    table = difference_claims(SeedTable(equal), claims, params)
    rows = table[table["family"] == "cifar100-30"]
    assert rows["p"].tolist() == [2 / 2**6] * 4
    assert rows["p_holm"].tolist() == [3 * 2 / 2**6] * 4  # 4.89 and 4.88 are one hypothesis


@pytest.mark.parametrize("side", [("hamjepa", "q"), ("sigreg", "all")])
def test_a_difference_without_a_number_of_runs_has_that_of_the_side_with_fewer(
    side: tuple[str, str], metrics: pd.DataFrame, claims: Claims, params: AuditParams
) -> None:
    fewer = tuple(
        claim.model_copy(update={"n": 2}) if (claim.arm, claim.readout) == side else claim
        for claim in claims.measurements
    )
    changed = claims.model_copy(update={"measurements": fewer})
    found = difference_claims(SeedTable(metrics), changed, params)
    row = one(found, claim="cifar100-e30-knn_top1@20-hamjepa_q-sigreg_all")
    assert row["paper_n"] == 2


def test_a_difference_with_a_number_of_runs_of_its_own_has_this(
    metrics: pd.DataFrame, claims: Claims, params: AuditParams
) -> None:
    changed = tuple(
        claim if claim.n is None else claim.model_copy(update={"n": 7})
        for claim in claims.differences
    )
    of_seven = claims.model_copy(update={"differences": changed})
    table = audit(metrics, of_seven, params).claim_differences
    own = table.loc[table["paper_sd"].notna(), "paper_n"]
    assert len(own) > 0 and set(own) == {7}


def test_best_is_each_seeds_best_readout(metrics: pd.DataFrame, found: Audit) -> None:
    name = "cifar100-e80-linear_probe_top1-hamjepa_best-mlp_best"
    row = one(found.claim_differences, claim=name)
    best = [
        np.max(
            [
                seeds_of(metrics, "cifar100", 80, arm, part, "linear_probe_top1")
                for part in ("q", "p", "qp")
            ],
            axis=0,
        )
        for arm in ("hamjepa", "mlp")
    ]
    assert row["mean_difference"] == pytest.approx(np.mean(best[0] - best[1]))


def test_the_best_of_several_against_one_is_noted(found: Audit) -> None:
    table = found.claim_differences
    sides = [table[side].str.endswith("_best") for side in ("minuend", "subtrahend")]
    alone = sides[0] != sides[1]
    assert alone.sum() == 3 and (sides[0] & sides[1]).sum() == 4
    assert (table["note"] != "").tolist() == alone.tolist()
    assert table.loc[alone, "note"].str.contains("favours hamjepa$|favours mlp$").all()


def test_an_arms_best_needs_all_readouts_of_its_state() -> None:
    rows = [row("s", 1, "a", part, "knn_top1@20", seed, 9.0) for part in "qp" for seed in (0, 1)]
    whole = [row("s", 1, "b", "all", "knn_top1@20", seed, 7.0) for seed in (0, 1)]
    stray = [row("s", 1, "b", "q", "knn_top1@20", 0, 8.0)]
    both = [row("s", 1, "c", part, "knn_top1@20", 0, 5.0) for part in ("q", "p", "qp")]
    both += [row("s", 1, "c", "all", "knn_top1@20", 0, 6.0)]
    seeds = SeedTable(pd.DataFrame(rows + whole + stray + both)[METRICS_SCHEMA.names])
    assert seeds.values("s", 1, "a", "best", "knn_top1@20").empty
    assert seeds.values("s", 1, "b", "best", "knn_top1@20").tolist() == [7.0, 7.0]
    assert seeds.values("s", 1, "c", "best", "knn_top1@20").tolist() == [5.0]


MLP = "cifar100-e80-knn_top1@20-mlp_best-sigreg_all"


@pytest.mark.parametrize(
    ("gain", "verdicts"),
    [
        (0.3, ("reproduced", "carries over")),
        (0.0, ("reproduced", "carries over")),
        (6.0, ("not reproduced", "does not carry over")),
        (-6.0, ("not reproduced", "does not carry over")),
        (1.3, ("inconclusive", "inconclusive")),
    ],
)
def test_the_mlps_lack_of_a_gain_is_judged_by_its_size(
    gain: float, verdicts: tuple[str, str], claims: Claims, params: AuditParams
) -> None:
    """0.32 points are the paper's evidence of no gain, so that a large gain contradicts it."""
    rows = [
        row(study, epochs, arm, part, "knn_top1@20", seed, value + noise)
        for study, epochs in (("cifar100", 80), ("tinyimagenet100_80epochs", 80))
        for arm, parts, value in (("mlp", ("q", "p", "qp"), 30 + gain), ("sigreg", ("all",), 30.0))
        for part in parts
        for seed, noise in enumerate(0.2 * np.random.default_rng(len(arm)).normal(size=6))
    ]
    seeds = SeedTable(pd.DataFrame(rows)[METRICS_SCHEMA.names])
    table = difference_claims(seeds, claims, params)
    rows_of_mlp = table[table["claim"] == MLP]
    assert tuple(rows_of_mlp["verdict"]) == verdicts
    assert (rows_of_mlp["margin"] == 1.0).all()
    assert rows_of_mlp["note"].str.contains("treats this difference as negligible").all()


VALUES = st.floats(-50, 50).map(lambda value: round(value, 3))
PAIRS = st.lists(st.tuples(VALUES, VALUES), min_size=3, max_size=6)


def paired(pairs: list[tuple[float, float]], factor: float = 1.0, shift: float = 0.0) -> SeedTable:
    rows = [
        row("s", 1, arm, "q", "knn_top1@20", seed, factor * value + shift)
        for seed, pair in enumerate(pairs)
        for arm, value in zip("ab", pair, strict=True)
    ]
    return SeedTable(pd.DataFrame(rows)[METRICS_SCHEMA.names])


def evidence(
    seeds: SeedTable, sides: str, paper: float, margin: float, params: AuditParams
) -> pd.Series:
    first, second = ((arm, "q") for arm in sides)
    pairs = seeds.pairs("s", 1, "knn_top1@20", first, second)
    differences = pairs.differences
    table = pd.DataFrame(
        {
            "n": [len(differences)],
            "mean_difference": differences.mean(),
            "sd": differences.std(ddof=1),
            "sd_minuend": pairs.minuend.std(ddof=1),
            "sd_subtrahend": pairs.subtrahend.std(ddof=1),
            "paper": paper,
            "paper_sd": np.nan,
            "paper_n": 1,
            "margin": margin,
        }
    )
    return difference_evidence(table, params).iloc[0]


P = ["p", "p_paper", "p_h0_within_margin", "p_equivalence", "p_h0_margin_or_more"]


@settings(max_examples=25, deadline=None)
@given(pairs=PAIRS, shift=st.integers(-50, 50))
def test_swapping_shifting_and_scaling(
    pairs: list[tuple[float, float]], shift: int, params: AuditParams
) -> None:
    base = evidence(paired(pairs), "ab", 4.0, 1.0, params)
    swapped = evidence(paired(pairs), "ba", -4.0, 1.0, params)
    np.testing.assert_allclose(swapped[P].astype(float), base[P].astype(float), rtol=1e-6)
    assert swapped["mean_difference"] == pytest.approx(-base["mean_difference"])
    moved = evidence(paired(pairs, shift=shift), "ab", 4.0, 1.0, params)
    if base["sd"] > 1e-3:
        np.testing.assert_allclose(
            moved[P].astype(float), base[P].astype(float), rtol=1e-5, atol=1e-12
        )
    scaled = evidence(paired(pairs, factor=4.0), "ab", 16.0, 4.0, params)
    np.testing.assert_allclose(
        scaled[P].astype(float), base[P].astype(float), rtol=1e-6, atol=1e-12
    )


def of_images(differences: list[int]) -> pd.DataFrame:
    """Metrics of runs whose probe accuracies differ by these numbers of 359 images."""
    bases = (301, 288, 313, 297, 305)
    rows = [
        row("cifar100", 30, arm, part, "linear_probe_top1", seed, 100 * images / 359)
        for seed, (base, more) in enumerate(zip(bases, differences, strict=True))
        for arm, parts, images in (
            ("hamjepa", ("q", "p", "qp"), base + more), ("sigreg", ("all",), base),
        )
        for part in parts
    ]  # fmt: skip
    return pd.DataFrame(rows)[METRICS_SCHEMA.names]


def test_ties_of_accuracies_are_ties_despite_rounding(claims: Claims, params: AuditParams) -> None:
    """100 * 303 / 359 - 100 * 301 / 359 isn't 100 * 307 / 359 - 100 * 305 / 359 in float64."""
    table = difference_claims(SeedTable(of_images([-6, 2, 6, 9, 2])), claims, params)
    found = one(table, claim="cifar100-e30-linear_probe_top1-hamjepa_best-sigreg_all")
    assert found["p_wilcoxon"] == wilcoxon([-6, 2, 6, 9, 2]) == 0.375


def test_differences_that_cancel_have_a_mean_of_zero(claims: Claims, params: AuditParams) -> None:
    metrics = of_images([3, 4, -8, -1, 2])
    found = difference_claims(SeedTable(metrics), claims, params)
    row = one(found, claim="cifar100-e30-linear_probe_top1-hamjepa_best-sigreg_all")
    assert row["mean_difference"] == row["hedges_g"] == row["t"] == 0.0


def test_small_differences_that_are_no_rounding_stay() -> None:
    pairs = paired([(50.0, 50.0 - 1e-9), (60.0, 60.0 - 2e-9), (70.0, 70.0)])
    differences = pairs.pairs("s", 1, "knn_top1@20", ("a", "q"), ("b", "q")).differences
    assert differences.tolist() == pytest.approx([1e-9, 2e-9, 0.0], rel=1e-4)


def test_what_the_seeds_detect_is_at_the_first_step_of_holms_correction(found: Audit) -> None:
    table = found.claim_differences
    late = table[(table["family"] == "cifar100-80") & ~table["negligible"]]
    gain = one(late, claim="cifar100-e80-knn_top1@20-hamjepa_q-sigreg_all")
    critical = stats.t.isf(0.05 / len(late) / 2, 5)
    power = stats.nct.sf(critical, 5, gain["detectable"] / (gain["sd"] / np.sqrt(6)))
    assert power == pytest.approx(0.8)
    mlp = one(table, claim=MLP)
    size = table[table["family"] == "cifar100-80"]
    spreads = [mlp[name] for name in ("sd_minuend", "sd_subtrahend")]
    new = prediction_test(0.0, mlp["sd"], 6, 0.0, 1, *spreads)
    critical = stats.t.isf(0.05 / len(size) / 2, new.df)
    power = stats.nct.sf(critical, new.df, (mlp["detectable"] - 1.0) / new.error)
    assert power == pytest.approx(0.8)


def test_two_values_of_one_difference_are_two_claims_of_its_size(found: Audit) -> None:
    """Within the margin of both, p is 1 for both, and still not that of one test."""
    rows = found.claim_differences
    rows = rows[rows["family"] == "cifar100-30"]
    assert (rows["p_h0_within_margin"] == 1.0).sum() >= 2
    sizes = family_sizes(found.claim_differences, TESTS).loc[rows.index]
    assert set(sizes["p"]) == {3} and set(sizes["p_h0_within_margin"]) == {4}


def test_equal_differences_have_no_spread() -> None:
    differences = paired([(1.2, 1.1), (2.3, 2.2), (3.4, 3.3)]).pairs(
        "s", 1, "knn_top1@20", ("a", "q"), ("b", "q")
    )
    assert np.ptp(differences.differences) == 0
    same = paired([(0.1 + 0.2, 0.3), (1.0, 1.0)])
    assert not same.pairs("s", 1, "knn_top1@20", ("a", "q"), ("b", "q")).differences.any()
