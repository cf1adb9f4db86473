"""Numbers of seeds needed: always more than there are, and enough to reach a verdict."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import Phase, given, settings, strategies as st
from statsmodels.stats.power import TTestPower

from hamjepa_audit.metrics import METRICS_SCHEMA
from hamjepa_audit.params.audit import AuditParams, load_audit
from hamjepa_audit.params.claims import Claims, load_claims
from hamjepa_audit.reporting.audit_tables import seeds_text
from hamjepa_audit.statistics.audit import audit
from hamjepa_audit.statistics.claim_differences import _plans, difference_evidence
from hamjepa_audit.statistics.comparison import ARMS, adjusted
from hamjepa_audit.statistics.hypothesis_tests import Array, one_sample
from hamjepa_audit.statistics.planning import (
    Plan,
    PlannedTest,
    beyond_margin_tests,
    equivalence_tests,
    fewest_seeds,
    with_seeds_needed,
)
from hamjepa_audit.statistics.statement_parts import Part
from hamjepa_audit.statistics.statements import _plans as plans_of_statement
from hamjepa_audit.statistics.verdicts import (
    difference_verdicts,
    direction_verdicts,
    negligible_verdicts,
)
from tests.unit.synthetic_claims import as_the_paper

NUMBERS = np.arange(3.0, 1001.0)
TESTS = dict.fromkeys(
    ["p", "p_h0_within_margin", "p_equivalence", "p_h0_margin_or_more"], ("claim",)
)


@pytest.fixture(scope="module")
def claims(params_folder: Path) -> Claims:
    """The paper's claims, with only 22 of its numbers: the first ones, from Table 1 and C.2.1."""
    every = load_claims(params_folder / "paper/claims.yaml")
    return every.model_copy(update={"measurements": every.measurements[:22]})


@pytest.fixture(scope="module")
def params(params_folder: Path) -> AuditParams:
    return load_audit(params_folder)


@pytest.mark.parametrize("effect", [0.3, 0.8, 2.0])
def test_seeds_for_a_sign_agree_with_statsmodels(effect: float) -> None:
    plans = [[PlannedTest(one_sample(effect, 1.0, NUMBERS), 0.025)]]
    oracle = TTestPower().solve_power(effect_size=effect, alpha=0.05, power=0.8)
    assert fewest_seeds(plans, NUMBERS, 0.8) == math.ceil(oracle)


def test_seeds_have_limits() -> None:
    def plans(effect: float) -> list[list[PlannedTest]]:
        return [[PlannedTest(one_sample(effect, 1.0, NUMBERS), 0.025)]]

    assert fewest_seeds(plans(50.0), NUMBERS, 0.8) == 3
    for effect in (0.01, 0.0, -5.0):
        assert fewest_seeds(plans(effect), NUMBERS, 0.8) == math.inf
    # The easiest plan counts; tests that must succeed together need more seeds than each alone.
    assert fewest_seeds(plans(0.01) + plans(0.5), NUMBERS, 0.8) == 34
    together = [[*plans(0.5)[0], *plans(0.5)[0]]]
    assert 34 < fewest_seeds(together, NUMBERS, 0.8) < 68


def claim(paper_sd: float = np.nan) -> pd.Series:
    spreads = {"sd": 0.8, "sd_minuend": 0.6, "sd_subtrahend": 0.7, "paper_sd": paper_sd}
    return pd.Series(spreads | {"margin": 1.0, "paper_n": 3})


def test_a_difference_from_few_runs_of_the_paper_may_never_be_shown() -> None:
    """The paper's own error remains, however many seeds we have."""
    for paper_sd in (np.nan, 0.8):
        for deviation, enough in ((3.5, True), (-3.5, True), (1.4, False), (0.9, False)):
            plan = beyond_margin_tests(claim(paper_sd), deviation, NUMBERS, 0.05)
            assert (fewest_seeds([plan], NUMBERS, 0.8) < 20) == enough
            assert math.isinf(fewest_seeds([plan], NUMBERS, 0.8)) != enough
    equal = equivalence_tests(claim(), 0.4, NUMBERS, 0.05)
    assert fewest_seeds([equal], NUMBERS, 0.8) == fewest_seeds(
        [equivalence_tests(claim(), -0.4, NUMBERS, 0.05)], NUMBERS, 0.8
    )


def test_beyond_margin_tests_count_the_papers_error_and_both_sides() -> None:
    seeds = np.array([3.0, 12.0])
    # The error of the paper's mean of 3 uses its standard deviation of 0.5 if given, else ours.
    for paper_sd, spread in ((0.5, 0.5), (np.nan, 0.8)):
        (planned,) = beyond_margin_tests(claim(paper_sd), -2.5, seeds, 0.05)
        assert planned.level == 0.025 and (planned.truth.value == 2.5 - 1.0).all()
        expected = np.sqrt(0.8**2 / seeds + spread**2 / 3)
        assert planned.truth.error == pytest.approx(expected)


def test_beyond_margin_tests_let_the_papers_arms_be_unpaired() -> None:
    """Our pairs have the standard deviation 0.8, unpaired runs sqrt(0.6^2 + 0.7^2)."""
    (planned,) = beyond_margin_tests(claim(), 2.5, NUMBERS, 0.05, ARMS)
    assert planned.truth.error == pytest.approx(np.sqrt(0.8**2 / NUMBERS + (0.6**2 + 0.7**2) / 3))
    row = claim().to_dict() | {
        "paper": 4.0, "mean_difference": 6.5, "deviation": 2.5, "carried": False,
        "negligible": False,
    }  # fmt: skip
    *_, (_, of_claim) = _plans(pd.Series(row), NUMBERS, dict.fromkeys(TESTS, 0.05))
    assert of_claim.truth.error.tolist() == planned.truth.error.tolist()


def test_ways_of_a_statement_by_hand() -> None:
    """Either all bounds hold, or one of the three is violated."""
    parts = [
        Part("x", np.array([1.0, 2.0, 3.0]), 0.5, 4.0),
        Part("y", np.array([5.0, 7.0]), high=9),
    ]
    levels = {"p_h0_fails": 0.04, "p_h0_holds": 0.03}
    kept, *broken = plans_of_statement(pd.Series({"parts": parts}), np.array([4.0]), levels)
    distances = [1.5, 2.0, 3.0]
    assert [test.truth.value.item() for test in kept] == distances
    assert [test.truth.error.item() for test in kept] == pytest.approx([0.5, 0.5, 2**0.5 / 2])
    assert [test.level for test in kept] == [0.04] * 3
    assert [test.truth.value.item() for (test,) in broken] == [-distance for distance in distances]
    assert [test.level for (test,) in broken] == pytest.approx([0.01] * 3)


def test_no_number_of_seeds_is_enough_that_the_signs_can_not_show() -> None:
    plans = [[PlannedTest(one_sample(9.0, 1.0, NUMBERS), 0.02, few_values=few)] for few in (0, 1)]
    assert [fewest_seeds([plan], NUMBERS, 0.8) for plan in plans] == [3, 6]  # 1 / 2^6 < 0.02
    parts = [Part("x", np.array([0.9, 1.0]), 0.0, few_values=True), Part("y", np.ones(2), 0.0)]
    levels = {"p_h0_fails": 0.04, "p_h0_holds": 0.03}
    kept, *broken = plans_of_statement(pd.Series({"parts": parts}), np.array([4.0]), levels)
    assert [test.few_values for test in kept] == [True, False]
    assert [test.few_values for (test,) in broken] == [True, False]


def test_plans_of_a_difference_by_hand() -> None:
    row = claim().to_dict() | {
        "paper": -4.0, "mean_difference": -3.0, "deviation": 1.0, "carried": True,
        "negligible": False,
    }  # fmt: skip
    levels = dict(zip(TESTS, (0.04, 0.01, 0.02, 0.03), strict=True))
    same, opposite, absent = _plans(pd.Series(row), np.array([4.0]), levels)
    found = [(test.truth.value.item(), test.level) for (test,) in (same, opposite, absent)]
    assert found == [(3.0, 0.02), (-3.0, 0.02), (1.0 - 3.0, 0.03)]
    own = _plans(pd.Series(row | {"carried": False}), np.array([4.0]), levels)
    assert [[test.level for test in plan] for plan in own] == [
        [0.02], [0.03], [0.02, 0.02, 0.02], [0.02, 0.005],
    ]  # fmt: skip
    size = _plans(pd.Series(row | {"negligible": True}), np.array([4.0]), levels)
    assert [[test.level for test in plan] for plan in size] == [[0.02, 0.02], [0.005]]


def inconclusive(families: str, n: int = 3) -> pd.DataFrame:
    claims = {"claim": range(len(families)), "family": list(families), "p": 0.5, "p_holm": 0.9}
    return pd.DataFrame({"verdict": "inconclusive", "n": n} | claims)


def one_sign(row: pd.Series, seeds: Array, levels: Mapping[str, float]) -> list[Plan]:
    return [[PlannedTest(one_sample(0.8, 1.0, seeds), levels["p"] / 2)]]


def seeds_needed(table: pd.DataFrame, params: AuditParams) -> "pd.Series[float]":
    return with_seeds_needed(table, {"p": ["claim"]}, one_sign, params)["seeds_needed"]


def test_seeds_needed_are_those_of_holms_first_step(params: AuditParams) -> None:
    needed = seeds_needed(inconclusive("aaaab"), params)
    expected = [
        math.ceil(TTestPower().solve_power(effect_size=0.8, alpha=0.05 / tests, power=0.8))
        for tests in (4, 1)
    ]
    assert needed.tolist() == [expected[0]] * 4 + [expected[1]]
    # Repeated or untested claims don't enlarge the family, nor do they in Holm's correction.
    more = inconclusive("aaaaaaa").assign(claim=[0, 1, 2, 3, 3, 3, 4], p=[0.5] * 6 + [np.nan])
    more["p_holm"] = more["p"]
    assert seeds_needed(more, params).tolist()[:6] == [expected[0]] * 6
    small = adjusted(more.assign(p=[0.01, *more["p"][1:]]), {"p": ["claim"]})
    assert small["p_holm"][0] == pytest.approx(4 * 0.01)


def test_seeds_needed_are_one_more_at_least_and_as_many_as_considered_at_most(
    params: AuditParams,
) -> None:
    def needed(n: int, most: int) -> float:
        limited = params.model_copy(update={"maximum_seeds": most})
        return float(seeds_needed(inconclusive("a", n), limited).item())

    assert needed(50, 1000) == 51  # still inconclusive although there are enough
    enough = int(needed(3, 1000))
    assert needed(3, enough) == enough and math.isinf(needed(3, enough - 1))


TRUTHS = {"paper": 4.0, "half": 2.0, "small": 0.3, "opposite": -2.5, "beyond": 5.4}
KINDS = {"own": difference_verdicts, "carried": direction_verdicts, "size": negligible_verdicts}


@pytest.mark.parametrize("truth", TRUTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_as_many_seeds_settle_it(truth: str, kind: str, params: AuditParams) -> None:
    """Simulates that the seeds needed reach the planned power, and 70% of them don't."""
    decide, carried = KINDS[kind], kind == "carried"
    planned = pd.DataFrame(
        {
            "n": [3], "mean_difference": TRUTHS[truth], "sd": 1.5, "paper": 4.0,
            "sd_minuend": 1.0, "sd_subtrahend": 1.0,
            "paper_sd": np.nan, "paper_n": 300, "margin": 1.0, "carried": carried,
            "family": "one", "verdict": "inconclusive", "negligible": kind == "size",
        }
    )  # fmt: skip
    planned = adjusted(difference_evidence(planned.assign(claim=0), params), TESTS)
    needed = with_seeds_needed(planned, TESTS, _plans, params)
    needed = needed["seeds_needed"].item()

    def settled(n: int) -> float:
        noise = np.random.default_rng(n).normal(size=(4000, n))
        seeds = TRUTHS[truth] + 1.5 * noise
        drawn = pd.DataFrame(
            {
                "n": n, "mean_difference": seeds.mean(axis=1), "sd": seeds.std(axis=1, ddof=1),
                "sd_minuend": 1.0, "sd_subtrahend": 1.0,
                "paper": 4.0, "paper_sd": np.nan, "paper_n": 300, "margin": 1.0,
            }
        )  # fmt: skip
        found = difference_evidence(drawn, params)
        found = found.assign(carried=False, **{f"{name}_holm": found[name] for name in TESTS})
        return float((decide(found, 0.05, 3)["verdict"] != "inconclusive").mean())

    assert settled(int(needed)) > 0.79
    assert settled(int(needed * 0.7)) < 0.8


@settings(max_examples=20, deadline=None, phases=[Phase.generate])
@given(
    seeds=st.integers(2, 6),
    scatter=st.sampled_from([0.0, 1.0, 5.0, 20.0]),
    shift=st.floats(-6, 6),
    draw=st.integers(0, 10**6),
)
def test_what_is_inconclusive_needs_more_seeds_than_there_are(
    seeds: int, scatter: float, shift: float, draw: int, claims: Claims, params: AuditParams
) -> None:
    found = audit(made_up(claims, seeds, scatter, shift, draw), claims, params)
    for table in found[:3]:
        inconclusive = table["verdict"] == "inconclusive"
        assert (table.loc[inconclusive, "seeds_needed"] > table.loc[inconclusive, "n"]).all()
        assert (table.loc[inconclusive, "seeds_needed"] >= params.minimum_seeds).all()
        assert table.loc[~inconclusive, "seeds_needed"].isna().all()


def made_up(claims: Claims, seeds: int, scatter: float, shift: float, draw: int) -> pd.DataFrame:
    """Metrics like the paper's, with only SIGReg and p shifted, and scaled variation over seeds."""
    rows = pd.DataFrame(as_the_paper(claims, seeds))[METRICS_SCHEMA.names]
    key = ["study", "arm", "epochs", "readout", "metric"]
    centre = rows.groupby(key)["value"].transform("mean")
    noise = np.random.default_rng(draw).normal(size=len(rows))
    spread = (rows["value"] - centre).abs().groupby(rows["metric"]).transform("mean")
    moved = (rows["arm"] == "sigreg") | (rows["readout"] == "p")
    unit = np.where(rows["unit"] == "percent", 1.0, spread)
    return rows.assign(value=centre + scatter * spread * noise + moved * shift * unit)


def test_inconclusive_statements_have_seeds_needed(claims: Claims, params: AuditParams) -> None:
    every = audit(made_up(claims, 4, 20.0, 0.0, 3), claims, params)
    statements = every.statements[every.statements["verdict"] == "inconclusive"]
    assert len(statements) >= 2
    assert statements["seeds_needed"].notna().all()
    texts = [seeds_text(row) for row in every.statements.to_dict("records")]
    assert any(text.isdigit() for text in texts) and "" in texts


def test_seeds_needed_in_words(claims: Claims, params: AuditParams) -> None:
    row = {"verdict": "inconclusive", "seeds_considered": 1000}
    words = [seeds_text(row | {"seeds_needed": needed}) for needed in (17.0, math.inf, math.nan)]
    assert words == ["17", "more than 1000", ""]
