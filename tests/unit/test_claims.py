"""Claims: how they are read, and what is said of them on made-up runs, tables included."""

import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings, strategies as st
from scipy import stats
from statsmodels.stats.weightstats import DescrStatsW

from hamjepa_audit.errors import UserError
from hamjepa_audit.metrics import METRICS_SCHEMA
from hamjepa_audit.params import load_study
from hamjepa_audit.params.audit import AuditParams, load_audit
from hamjepa_audit.params.claims import Claims, claim_names, load_claims
from hamjepa_audit.reporting.audit_tables import audit_tables
from hamjepa_audit.statistics.audit import Audit, audit, without_claims
from hamjepa_audit.statistics.claim_differences import difference_evidence
from hamjepa_audit.statistics.hypothesis_tests import MOST_SIGNS
from hamjepa_audit.statistics.seeds import SeedTable
from hamjepa_audit.statistics.statements import (
    STATEMENTS,
    TRAINING_SECONDS,
    Part,
    statement_evidence,
)
from tests.unit.synthetic_claims import as_the_paper, row


@pytest.fixture(scope="module")
def claims(params_folder: Path) -> Claims:
    return load_claims(params_folder / "paper/claims.yaml")


@pytest.fixture(scope="module")
def params(params_folder: Path) -> AuditParams:
    return load_audit(params_folder)


@pytest.fixture(scope="module")
def metrics(claims: Claims) -> pd.DataFrame:
    return pd.DataFrame(as_the_paper(claims, 6))[METRICS_SCHEMA.names]


@pytest.fixture(scope="module")
def found(metrics: pd.DataFrame, claims: Claims, params: AuditParams) -> Audit:
    return audit(metrics, claims, params)


# --- reading claims


def test_the_papers_claims(claims: Claims) -> None:
    assert (len(claims.measurements), len(claims.differences)) == (93, 20)
    assert {claim.id for claim in claims.statements} == set(STATEMENTS)
    assert sum(claim.unit == "percent" for claim in claims.measurements) == 45
    names = claim_names(claims.measurements)
    assert len(set(names)) == 93
    assert [name for name in names if name.endswith(".2")] == [
        "cifar100-e30-sigreg-all-effective_rank.2",
        "cifar100-e30-hamjepa-q-effective_rank.2",
        "cifar100-e30-hamjepa-p-effective_rank.2",
    ]


def test_numbers_are_kept_as_printed(claims: Claims) -> None:
    texts = {str(claim.value) for claim in claims.measurements}
    assert {"28.10", "93.10", "0.0", "44.303"} <= texts
    assert claims.toy_transport is not None
    assert claims.toy_transport.models.dt * claims.toy_transport.models.steps == Decimal(25)


def test_every_claim_has_a_margin(claims: Claims, params: AuditParams) -> None:
    assert {params.margin(c.metric, float(c.value)) > 0 for c in claims.measurements} == {True}
    for claim in claims.differences:
        value = float(claim.value)
        assert 0 < params.difference_margin(claim.metric, value) <= min(1.0, abs(value) / 3)
    with pytest.raises(UserError, match="no equivalence margin for the metric 'alignment'"):
        params.margin("alignment", 1.0)


BROKEN = {
    "unit": (("measurements", 0, "unit"), "dimensionless", "knn_top1@20 is percent"),
    "arm": (("measurements", 0, "arm"), "Sig Reg", "measurements.0.arm is 'Sig Reg'"),
    "readout": (("measurements", 0, "readout"), "best", "measurements.0.readout is 'best'"),
    "metric": (("measurements", 0, "metric"), "knn_top1@", "measurements.0.metric"),
    "spread": (("measurements", 0, "n"), 1, "std is 0.18 with n = 1"),
    "number": (("measurements", 0, "value"), "much", "measurements.0.value is 'much'"),
    "infinite": (("measurements", 0, "value"), float("inf"), "valid decimal"),
    "at_k": (("measurements", 0, "at_k"), 20, "at_k belongs to a best over k"),
    "key": (("measurements", 0, "sdt"), 0.1, "did you mean 'std'?"),
    "twice": (("measurements", 1, "metric"), "knn_top1@20", "2 times: keep one"),
    "sides": (("differences", 0, "subtrahend"), {"arm": "hamjepa", "readout": "q"}, "are both"),
    "zero": (("differences", 0, "value"), 0.0, "no direction"),
    "side": (("differences", 0, "minuend", "readout"), "worst", "differences.0.minuend.readout"),
    "n alone": (("differences", 0, "n"), 3, "give both or neither"),
    "statement": (("statements", 1, "id"), "cone", "statements has cone 2 times"),
    "version": (("schema",), 2, "schema is 2"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_claims_are_refused_in_one_line(
    name: str, params_folder: Path, tmp_path: Path
) -> None:
    keys, value, words = BROKEN[name]
    tree = yaml.safe_load((params_folder / "paper/claims.yaml").read_text())
    node = tree
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    broken = tmp_path / "claims.yaml"
    broken.write_text(yaml.safe_dump(tree))
    with pytest.raises(UserError) as caught:
        load_claims(broken)
    assert words in str(caught.value) and str(broken) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_claims_that_are_no_claims(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing parameter file"):
        load_claims(tmp_path / "absent.yaml")
    broken = tmp_path / "claims.yaml"
    broken.write_text("measurements: 3\n")
    with pytest.raises(UserError, match="missing"):
        load_claims(broken)


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        (("minimum_seeds",), 2, "minimum_seeds is 2"),
        (("difference_share",), 0.5, "difference_share is 0.5"),
        (("margins", 0, "relative"), 0.1, "give either absolute or relative"),
        (("families", "differences"), ["seed"], "families.differences"),
        (("statements", "mots"), 0.5, "did you mean 'most'?"),
    ],
)
def test_broken_statistics_are_refused(
    keys: tuple[str | int, ...], value: Any, words: str, params_folder: Path, tmp_path: Path
) -> None:
    tree = yaml.safe_load((params_folder / "statistics.yaml").read_text())
    node = tree
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    (tmp_path / "statistics.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(UserError) as caught:
        load_audit(tmp_path)
    assert words in str(caught.value)


# --- measurements


def one(table: pd.DataFrame, **values: Any) -> pd.Series:
    rows = table
    for name, value in values.items():
        rows = rows[rows[name] == value]
    (found,) = rows.to_dict("records")
    return pd.Series(found)


def seeds_of(metrics: pd.DataFrame, study: str, epochs: int, *where: str) -> np.ndarray:
    keys = ["study", "epochs", "arm", "readout", "metric"]
    rows = metrics[(metrics[keys] == [study, epochs, *where]).all(axis=1)]
    return rows.sort_values("seed")["value"].to_numpy()


def tost(values: np.ndarray, paper: float) -> float:
    """Two one-sided t-tests by scipy, with a margin of 1."""
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
    assert with_sd["p_new_runs"] == pytest.approx(welch.pvalue)
    assert with_sd["p_equivalence"] == pytest.approx(tost(values, 31.45))

    single = one(found.claims, claim="cifar100-e80-mlp-q-linear_probe_top1")
    values = seeds_of(metrics, "cifar100", 80, "mlp", "q", "linear_probe_top1")
    student = stats.ttest_1samp(values, 42.26)
    assert single["test"] == "one-sample t"
    assert [single["t"], single["p"]] == pytest.approx([student.statistic, student.pvalue])
    assert single["p_new_runs"] > single["p"]  # a single run is not exact
    assert single["p_equivalence"] == pytest.approx(tost(values, 42.26))


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
    assert len(large) == 15
    assert set(large["verdict"]) == {"reproduced"}


def test_holm_families_are_those_declared(found: Audit) -> None:
    assert set(found.claims["family"]) == {"cifar100-30", "cifar100-80", "imagenet100-45"}
    for table in (found.claims, found.claim_differences):
        tested = table[table["p_equivalence"].notna()]
        assert (tested["p_equivalence_holm"] >= tested["p_equivalence"]).all()
    # 4.89 and 4.88 are one hypothesis of no difference: three tests in the family, not four.
    rows = found.claim_differences[found.claim_differences["family"] == "cifar100-30"]
    smallest = rows["p"].min()
    assert rows["p_holm"].min() == pytest.approx(3 * smallest)


# --- differences


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
    assert row["p_below_margin"] == pytest.approx(below)
    stated = one(found.claim_differences, claim=f"{name}.2")
    summaries = (differences.mean(), differences.std(ddof=1), 6, 4.88, 0.11, 3)
    welch = stats.ttest_ind_from_stats(*summaries, equal_var=False)
    assert stated["p_paper"] == pytest.approx(welch.pvalue)
    assert (row["paper_n"], stated["paper_n"]) == (3, 3)


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


def test_what_was_not_run_is_said(claims: Claims, params: AuditParams) -> None:
    rows = as_the_paper(claims, 2, "cifar100")
    few = audit(pd.DataFrame(rows)[METRICS_SCHEMA.names], claims, params)
    for table in few[:3]:
        assert set(table["verdict"]) == {"inconclusive", "not run"}
        assert set(table.loc[table["n"] > 0, "reason"]) == {"fewer than 3 seeds"}
    imagenet = few.claims[few.claims["study"] == "imagenet100"]
    assert set(imagenet["verdict"]) == {"not run"}
    assert imagenet[["mean", "sd", "p", "seeds_needed"]].isna().all(axis=None)
    nothing = audit(pd.DataFrame(rows)[METRICS_SCHEMA.names].iloc[:0], claims, params)
    assert {verdict for table in nothing[:3] for verdict in table["verdict"]} == {"not run"}


def test_another_study_is_judged_by_direction_alone(claims: Claims, params: AuditParams) -> None:
    rows = as_the_paper(claims, 5, "cifar100", name="tinyimagenet100")
    table = pd.DataFrame(rows)[METRICS_SCHEMA.names]
    # The same gains at half the accuracy: the size is another, the direction is the same.
    percent = table["unit"] == "percent"
    table.loc[percent, "value"] *= 0.5
    result = audit(table, claims, params)
    carried = result.claim_differences[result.claim_differences["carried"]]
    assert set(carried["study"]) == {"tinyimagenet100"}
    assert len(carried) == 11
    gains = carried[carried["paper"] > 3]
    assert set(gains["verdict"]) == {"carries over"}
    assert set(gains["paper_study"]) == {"cifar100"}
    words = result.statements[result.statements["carried"]].set_index("statement")["verdict"]
    assert words["cone"] == words["rank-not-collapsed"] == "carries over"
    assert words["same-wall-clock"] == "not run"
    assert set(result.claims["verdict"]) == {"not run"}  # no number of its own to compare with
    assert without_claims(table, claims, params) == []
    assert without_claims(table.assign(study="moon"), claims, params) == ["moon"]


def test_what_stands_for_the_papers_studies(
    params_folder: Path, claims: Claims, params: AuditParams
) -> None:
    """Each at numbers of epochs that both have, by which claims are tested."""
    claimed = {(claim.study, claim.epochs) for claim in claims.differences}
    for name, stands_for in params.stands_for.items():
        assert {(stands_for.study, theirs) for theirs in stands_for.epochs} <= claimed
        assert set(stands_for.epochs.values()) <= set(load_study(params_folder, name).epochs)
    found = {name: (like.study, like.epochs) for name, like in params.stands_for.items()}
    assert found["imagenet100_cmc"] == ("imagenet100", {45: 45})
    assert found["cifar100_controls"] == ("cifar100", {30: 30})
    assert "imagenet_smoke" not in found  # generated pictures say nothing of the paper


@pytest.mark.parametrize(
    ("study", "like", "count"),
    [("imagenet100_cmc", "imagenet100", 9), ("cifar100_controls", "cifar100", 4)],
)
def test_studies_near_the_papers_are_judged_by_direction_alone(
    study: str, like: str, count: int, claims: Claims, params: AuditParams
) -> None:
    rows = pd.DataFrame(as_the_paper(claims, 6, like, name=study))[METRICS_SCHEMA.names]
    rows = rows[rows["epochs"].isin(params.stands_for[study].epochs.values())]
    assert without_claims(rows, claims, params) == []
    result = audit(rows, claims, params)
    differences = result.claim_differences[result.claim_differences["carried"]]
    assert len(differences) == count
    run = differences[differences["n"] > 0]
    assert len(run) >= count - 1  # the best k of q alone is not among the numbers of Table 2
    assert set(run.loc[run["paper"] > 3, "verdict"]) == {"carries over"}
    assert set(result.claims["verdict"]) == {"not run"}


# --- statements


def test_statements_hold_on_the_papers_numbers(found: Audit) -> None:
    verdicts = found.statements.set_index("statement")["verdict"].to_dict()
    assert verdicts == {
        "symplectic-drives-knn": "reproduced",
        "q-is-content": "reproduced",
        "knn-decays-for-sigreg": "reproduced",
        "rank-not-collapsed": "reproduced",
        "cone": "reproduced",
        "norm-pythagoras": "reproduced",
        "rank-tracks-accuracy": "not run",
        "qp-redundant": "inconclusive",
        "same-wall-clock": "not run",
    }
    reasons = found.statements.set_index("statement")["reason"]
    assert "checkpoints" in reasons["rank-tracks-accuracy"]
    assert TRAINING_SECONDS in reasons["same-wall-clock"]


def test_qp_redundant_holds_with_more_certainty(claims: Claims, params: AuditParams) -> None:
    rows = pd.DataFrame(as_the_paper(claims, 6, "imagenet100"))[METRICS_SCHEMA.names]
    centre = rows.groupby(["arm", "readout", "metric"])["value"].transform("mean")
    rows["value"] = centre + (rows["value"] - centre) / 10
    verdicts = audit(rows, claims, params).statements.set_index("statement")["verdict"]
    assert verdicts["qp-redundant"] == "reproduced"
    swapped = rows.replace({"arm": {"hamjepa": "sigreg", "sigreg": "hamjepa"}})
    swapped["run_id"] = swapped["arm"] + swapped["seed"].astype(str)
    verdicts = audit(swapped, claims, params).statements.set_index("statement")["verdict"]
    assert verdicts["qp-redundant"] == "not reproduced"


def test_swapping_the_arms_refutes_the_statements(
    metrics: pd.DataFrame, claims: Claims, params: AuditParams
) -> None:
    whole = metrics[(metrics["study"] == "cifar100") & (metrics["epochs"] == 30)]
    sigreg = whole[whole["arm"] == "sigreg"]
    hamjepa = whole[whole["arm"] == "hamjepa"]
    parts = [sigreg.assign(arm="hamjepa", readout=part) for part in ("q", "p", "qp")]
    swapped = pd.concat(
        [*parts, hamjepa[hamjepa["readout"] == "q"].assign(arm="sigreg", readout="all")]
    )
    swapped["run_id"] = swapped["arm"] + swapped["seed"].astype(str)
    statements = audit(swapped, claims, params).statements.set_index("statement")
    for name in ("cone", "rank-not-collapsed"):
        assert statements.loc[name, "verdict"] == "not reproduced"
    assert statements.loc["norm-pythagoras", "verdict"] == "not reproduced"


def test_rank_tracks_accuracy_and_wall_clock_where_they_were_measured(
    claims: Claims, params: AuditParams
) -> None:
    rows = []
    rng = np.random.default_rng(0)
    for seed in range(5):
        for arm, sign in (("hamjepa", 1), ("sigreg", -1)):
            for epoch in range(5, 50, 5):
                for metric, slope in (("linear_probe_top1", 1), ("effective_rank_lowrank", sign)):
                    value = 50 + slope * epoch + rng.normal()
                    found = row("imagenet100", 45, arm, "q", metric, seed, value)
                    rows.append(found | {"checkpoint_epoch": epoch})
            seconds = 100 + rng.normal()
            timed = row("cifar100", 30, arm, "all", TRAINING_SECONDS, seed, seconds)
            rows.append(timed | {"unit": "seconds"})
    table = pd.DataFrame(rows)[METRICS_SCHEMA.names]
    statements = audit(table, claims, params).statements.set_index("statement")
    assert statements.loc["rank-tracks-accuracy", "verdict"] == "reproduced"
    assert statements.loc["same-wall-clock", "verdict"] == "reproduced"
    slower = table.assign(
        value=table["value"].where(
            (table["metric"] != TRAINING_SECONDS) | (table["arm"] == "sigreg"), 150.0
        )
    )
    statements = audit(slower, claims, params).statements.set_index("statement")
    assert statements.loc["same-wall-clock", "verdict"] == "not reproduced"
    flat = table.assign(
        value=table["value"].where(table["metric"] != "effective_rank_lowrank", 7.0)
    )
    statements = audit(flat, claims, params).statements.set_index("statement")
    assert statements.loc["rank-tracks-accuracy", "verdict"] == "not run"
    assert "same value" in statements.loc["rank-tracks-accuracy", "reason"]


def test_statement_evidence_by_hand() -> None:
    values = np.array([1.0, 2.0, 3.0])
    above = stats.ttest_1samp(values, 0.5, alternative="greater").pvalue
    below = stats.ttest_1samp(values, 3.0, alternative="less").pvalue
    inside, outside = statement_evidence([Part("x", values, 0.5, 3.0)])
    assert inside == pytest.approx(max(above, below))
    assert outside == pytest.approx(min(1.0, 2 * min(1 - above, 1 - below)))
    inside, outside = statement_evidence([Part("x", values, 0.5), Part("y", -values, 0.5)])
    assert inside == pytest.approx(stats.ttest_1samp(-values, 0.5, alternative="greater").pvalue)
    assert outside == pytest.approx(2 * (1 - inside))


def test_a_statement_on_one_seed_is_not_tested(claims: Claims, params: AuditParams) -> None:
    """It must not make its family's other tests stricter."""
    rows = pd.DataFrame(as_the_paper(claims, 6, "cifar100"))[METRICS_SCHEMA.names]
    assert np.isnan(statement_evidence([Part("x", np.array([1.0]), 0.5, 3.0)])).all()
    norms = rows["metric"] == "feature_norm_mean"
    statements = {
        seeds: audit(rows[~norms | (rows["seed"] < seeds)], claims, params).statements
        for seeds in (0, 1)
    }
    assert one(statements[1], statement="norm-pythagoras")["n"] == 1
    for name in ("p_holds", "p_fails", "p_holds_holm", "p_fails_holm"):
        pd.testing.assert_series_equal(statements[0][name], statements[1][name])


def test_an_unknown_statement_is_refused(
    metrics: pd.DataFrame, claims: Claims, params: AuditParams
) -> None:
    odd = claims.statements[0].model_copy(update={"id": "cones"})
    changed = claims.model_copy(update={"statements": (odd,)})
    with pytest.raises(UserError, match=r"'cones' has no test: did you mean 'cone'\?"):
        audit(metrics, changed, params)


# --- invariances

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
    differences = seeds.pairs("s", 1, "knn_top1@20", first, second).differences
    table = pd.DataFrame(
        {
            "n": [len(differences)],
            "mean_difference": differences.mean(),
            "sd": differences.std(ddof=1),
            "paper": paper,
            "paper_sd": np.nan,
            "paper_n": 1,
            "margin": margin,
        }
    )
    return difference_evidence(table, params).iloc[0]


P = ["p", "p_paper", "p_new_runs", "p_equivalence", "p_below_margin"]


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
    assert scaled["detectable"] == pytest.approx(4 * base["detectable"])


def test_equal_differences_have_no_spread() -> None:
    differences = paired([(1.2, 1.1), (2.3, 2.2), (3.4, 3.3)]).pairs(
        "s", 1, "knn_top1@20", ("a", "q"), ("b", "q")
    )
    assert np.ptp(differences.differences) == 0
    same = paired([(0.1 + 0.2, 0.3), (1.0, 1.0)])
    assert not same.pairs("s", 1, "knn_top1@20", ("a", "q"), ("b", "q")).differences.any()


def test_two_data_sets_under_one_study_are_refused(
    metrics: pd.DataFrame, claims: Claims, params: AuditParams
) -> None:
    other = metrics.assign(dataset="moon", run_id=metrics["run_id"] + "-moon")
    with pytest.raises(UserError) as caught:
        audit(pd.concat([metrics, other]), claims, params)
    words = "the study 'cifar100' has metrics of several data sets: cifar100, moon;"
    assert str(caught.value).startswith(words) and "\n" not in str(caught.value)


# --- tables and the command


def test_the_order_of_rows_changes_nothing(
    metrics: pd.DataFrame, found: Audit, claims: Claims, params: AuditParams
) -> None:
    again = audit(metrics.sample(frac=1, random_state=0), claims, params)
    for one_table, other in zip(found, again, strict=True):
        pd.testing.assert_frame_equal(one_table, other, check_exact=True)


def test_tables_in_four_formats(found: Audit, tmp_path: Path) -> None:
    written = audit_tables(found, tmp_path)
    names = ("claims", "claim_differences", "statements", "paper_consistency")
    endings = ("csv", "md", "tex", "parquet")
    assert [file.name for file in written] == [f"{n}.{e}" for n in names for e in endings]
    stored = pd.read_parquet(tmp_path / "claims.parquet")
    pd.testing.assert_frame_equal(stored, found.claims, check_dtype=False)
    shown = (tmp_path / "claims.md").read_text()
    assert "31.45 ± 0.27 (3)" in shown and "reproduced" in shown
    text = (tmp_path / "paper_consistency.md").read_text()
    assert "| disagrees " in text and "124.5" in text
    for table in names:
        lines = (tmp_path / f"{table}.md").read_text().splitlines()
        assert len(lines) == 2 + len(getattr(found, table))


def parquet(frame: pd.DataFrame, path: Path) -> Path:
    pq.write_table(pa.Table.from_pandas(frame, schema=METRICS_SCHEMA, preserve_index=False), path)
    return path


def test_the_command_takes_many_files_and_no_torch(
    metrics: pd.DataFrame, params_folder: Path, tmp_path: Path
) -> None:
    first = parquet(metrics[metrics["study"] == "cifar100"], tmp_path / "a.parquet")
    rest = metrics[metrics["study"] != "cifar100"]
    moon = rest.assign(study="moon", run_id=rest["run_id"] + "-moon")
    second = parquet(pd.concat([rest, moon]), tmp_path / "b.parquet")
    code = (
        "import sys\nfrom hamjepa_audit.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print('torch' in sys.modules, file=sys.stderr)"
    )
    arguments = ["--params", str(params_folder), "audit", "--metrics", str(first), str(second)]
    arguments += [
        "--claims",
        str(params_folder / "paper/claims.yaml"),
        "--out",
        str(tmp_path / "o"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[-1] == "False"
    assert "'moon'" in done.stderr
    table = pd.read_parquet(tmp_path / "o/claims.parquet")
    assert (table["n"] == 6).all()


def hundred_thousand_rows(claims: Claims, seeds: int) -> pd.DataFrame:
    """Five studies, all arms and readouts, every run measured at 10 checkpoints or so."""
    studies = [("cifar100", name) for name in ("cifar100", "cifar100_controls", "tinyimagenet100")]
    studies += [("imagenet100", name) for name in ("imagenet100", "imagenet100_cmc")]
    rows = [row for like, name in studies for row in as_the_paper(claims, seeds, like, name)]
    final = pd.DataFrame(rows)[METRICS_SCHEMA.names]
    noise = np.random.default_rng(3)
    earlier = []
    for checkpoint in range(1, -(-100_000 // len(final))):
        value = final["value"] * (0.5 + checkpoint / 100) + 0.1 * noise.normal(size=len(final))
        earlier.append(final.assign(checkpoint_epoch=checkpoint, value=value))
    return pd.concat([*earlier, final], ignore_index=True)


@pytest.mark.parametrize("seeds", [MOST_SIGNS])  # where the exact tests take longest
def test_a_hundred_thousand_rows_take_seconds(
    seeds: int, claims: Claims, params_folder: Path, tmp_path: Path
) -> None:
    """The command as it is typed, all of them in the studies that claims are tested on."""
    many = hundred_thousand_rows(claims, seeds)
    assert len(many) >= 100_000
    path = parquet(many.sample(frac=1, random_state=0), tmp_path / "many.parquet")
    typed = "from hamjepa_audit.cli import main; main()"
    command = [sys.executable, "-c", typed, "--params", str(params_folder), "audit"]
    command += ["--metrics", str(path), "--claims", str(params_folder / "paper/claims.yaml")]
    start = time.perf_counter()
    subprocess.run([*command, "--out", str(tmp_path / "out")], check=True, capture_output=True)
    assert time.perf_counter() - start < 10
    tables = {n: pd.read_parquet(tmp_path / f"out/{n}.parquet") for n in Audit._fields[:3]}
    assert (tables["claims"]["n"] == seeds).all()
    differences = tables["claim_differences"]
    assert (differences["n"] == seeds).mean() > 0.9 and differences["study"].nunique() == 5
    assert (tables["statements"]["n"] == seeds).sum() > 10


@pytest.mark.parametrize(
    "module",
    [
        "statistics.audit",
        "statistics.power",
        "reporting.page",
        "reporting.audit_figures",
        "cli.audit",
    ],
)
def test_the_audit_does_not_import_torch(module: str) -> None:
    code = f"import sys, hamjepa_audit.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
