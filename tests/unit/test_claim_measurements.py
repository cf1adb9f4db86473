"""The paper's measurements on made-up runs: tests, verdicts and Holm's families."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.weightstats import DescrStatsW

from hamjepa_audit.params.audit import AuditParams
from hamjepa_audit.statistics.audit import Audit
from hamjepa_audit.statistics.claims import NEAR_ZERO, measurement_evidence
from hamjepa_audit.statistics.comparison import adjusted
from tests.unit import paper_audit
from tests.unit.paper_audit import one, seeds_of

claims, params = paper_audit.claims, paper_audit.params
metrics, found = paper_audit.metrics, paper_audit.found


def tost(values: np.ndarray, paper: float) -> float:
    """p of two one-sided t-tests (TOST) by SciPy, with a margin of 1."""
    above = stats.ttest_1samp(values, paper - 1, alternative="greater").pvalue
    below = stats.ttest_1samp(values, paper + 1, alternative="less").pvalue
    return max(above, below)


def test_measurements_agree_with_scipy_and_statsmodels(
    metrics: pd.DataFrame, found: Audit, params: AuditParams
) -> None:
    with_sd = one(found.claims, claim="cifar100-e30-hamjepa-q-knn_top1@20")
    values = seeds_of(metrics, "cifar100", 30, "hamjepa", "q", "knn_top1@20")
    oracle = DescrStatsW(values)
    assert (with_sd["n"], with_sd["mean"]) == (6, pytest.approx(oracle.mean))
    assert with_sd["sd"] == pytest.approx(values.std(ddof=1))
    low, high = oracle.tconfint_mean(0.05)
    assert [with_sd["ci_low"], with_sd["ci_high"]] == pytest.approx([low, high])
    reach = stats.t.ppf(0.975, 5) * values.std(ddof=1) * np.sqrt(1 + 1 / 6)
    assert with_sd["new_seed_low"] == pytest.approx(values.mean() - reach)
    assert with_sd["new_seed_high"] == pytest.approx(values.mean() + reach)
    summaries = (values.mean(), values.std(ddof=1), 6, 31.45, 0.27, 3)
    welch = stats.ttest_ind_from_stats(*summaries, equal_var=False)
    assert with_sd["test"] == "Welch"
    assert [with_sd["t"], with_sd["p"]] == pytest.approx([welch.statistic, welch.pvalue])
    assert with_sd["p_h0_within_margin"] == 1.0 and abs(values.mean() - 31.45) < 1
    assert with_sd["p_equivalence"] == pytest.approx(tost(values, 31.45))

    single = one(found.claims, claim="cifar100-e80-mlp-q-linear_probe_top1")
    values = seeds_of(metrics, "cifar100", 80, "mlp", "q", "linear_probe_top1")
    student = stats.ttest_1samp(values, 42.26)
    assert single["test"] == "one-sample t"
    assert [single["t"], single["p"]] == pytest.approx([student.statistic, student.pvalue])
    assert single["p_equivalence"] == pytest.approx(tost(values, 42.26))
    # What six seeds show to be beyond the margin of a single run, which has an error as well, at
    # the first step of Holm's correction.
    family = found.claims[found.claims["family"] == single["family"]]
    critical = stats.t.isf(0.05 / family["p_h0_within_margin"].notna().sum() / 2, 5)
    error = values.std(ddof=1) * np.sqrt(1 / 6 + 1)
    power = stats.nct.sf(critical, 5, (single["detectable"] - 1.0) / error)
    assert power == pytest.approx(0.8)


@pytest.mark.parametrize(("paper_sd", "paper_n"), [(0.27, 3), (np.nan, 1)])
@pytest.mark.parametrize("deviation", [-3.0, -0.9, 0.0, 0.9, 1.0, 1.2, 3.0])
def test_only_what_is_beyond_the_margin_speaks_against_the_paper(
    paper_sd: float, paper_n: int, deviation: float, params: AuditParams
) -> None:
    table = pd.DataFrame(
        {
            "n": [6], "mean": 30 + deviation, "sd": 0.1, "paper": 30.0, "paper_sd": paper_sd,
            "paper_n": paper_n, "margin": 1.0,
        }
    )  # fmt: skip
    found = measurement_evidence(table, params)["p_h0_within_margin"].item()
    if abs(deviation) <= 1:
        assert found == 1.0
        return
    if paper_n == 1:
        df, error = 5, 0.1 * np.sqrt(1 / 6 + 1)
    else:
        squares = 0.1**2 / 6, 0.27**2 / 3
        df = sum(squares) ** 2 / (squares[0] ** 2 / 5 + squares[1] ** 2 / 2)
        error = np.sqrt(sum(squares))
    assert found == pytest.approx(2 * stats.t.sf((abs(deviation) - 1) / error, df))


def test_spectra_are_compared_with_the_papers_method(found: Audit) -> None:
    ranks = found.claims[found.claims["metric"] == "effective_rank"]
    assert set(ranks["our_metric"]) == {"effective_rank_lowrank"}
    assert (ranks["n"] == 6).all()
    assert ranks["margin"].tolist() == pytest.approx((ranks["paper"] / 10).tolist())


def test_the_papers_own_runs_again_are_reproduced(found: Audit) -> None:
    percent = found.claims[found.claims["unit"] == "percent"]
    assert (percent["verdict"] == "reproduced").mean() == 1
    assert not (found.claims["verdict"] == "not reproduced").any()
    large = found.claim_differences[found.claim_differences["paper"] > 3]
    large = large[large["n"] > 0]
    assert len(large) == 14
    assert set(large["verdict"]) == {"reproduced"}


def test_one_hypothesis_with_one_p_counts_once_in_its_own_family() -> None:
    table = pd.DataFrame(
        {
            "family": ["f", "f", "f", "f", "g"],
            "what": ["a", "a", "a", "b", "a"],
            "p": [0.01, 0.01, 0.02, 0.03, 0.01],
        }
    )
    found = adjusted(table, {"p": ["what"]})
    assert found["p_holm"].tolist() == pytest.approx([0.03, 0.03, 0.04, 0.04, 0.01])


def test_holm_families_are_those_declared(found: Audit) -> None:
    assert set(found.claims["family"]) == {"cifar100-30", "cifar100-80", "imagenet100-45"}
    for table in (found.claims, found.claim_differences):
        tested = table[table["p_equivalence"].notna()]
        assert (tested["p_equivalence_holm"] >= tested["p_equivalence"]).all()
    # 4.89 and 4.88 share the hypothesis of no difference: the family has three tests, not four.
    rows = found.claim_differences[found.claim_differences["family"] == "cifar100-30"]
    smallest = rows["p"].min()
    assert rows["p_holm"].min() == pytest.approx(3 * smallest)


def test_a_margin_that_is_not_below_the_value_is_noted(found: Audit) -> None:
    noted = found.claims[found.claims["note"] != ""]
    assert set(noted["note"]) == {NEAR_ZERO} and set(noted["metric"]) == {"cosine_mean"}
    assert sorted(noted["paper"]) == [0.0, 0.006, 0.01699, 0.042, 0.047]  # 0.053 is above 0.05
