"""Family-wise error rates of verdicts, simulated in the worst case, against the page's promises.

The worst cases are claims that are exactly true, or exactly at the boundary of a test's hypothesis.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from hamjepa_audit.params.audit import AuditParams, load_audit
from hamjepa_audit.statistics.claim_differences import difference_evidence
from hamjepa_audit.statistics.claims import measurement_evidence
from hamjepa_audit.statistics.comparison import adjusted
from hamjepa_audit.statistics.decision_tables import (
    CARRIED,
    DECISIONS,
    DIFFERENCES,
    MEASUREMENTS,
    STATEMENTS,
    Verdict,
)
from hamjepa_audit.statistics.statement_parts import Part
from hamjepa_audit.statistics.statements import statement_evidence
from hamjepa_audit.statistics.verdicts import (
    difference_verdicts,
    direction_verdicts,
    measurement_verdicts,
    statement_verdicts,
)

ALPHA, DRAWS = 0.05, 2000
PAPER, MARGIN = 6.0, 1.0
TESTS = dict.fromkeys(
    ["p", "p_h0_within_margin", "p_equivalence", "p_h0_margin_or_more"], ("claim",)
)
NUMBER_TESTS = {name: TESTS[name] for name in ("p_h0_within_margin", "p_equivalence")}
SAMPLING = 0.015
"""Three standard errors of a share of 5% in DRAWS draws."""
SCATTERS = [0.3, 1.0]
"""Standard deviations over seeds: at most a sixth of the difference, so that no single run of the
paper has the opposite sign."""


@pytest.fixture(scope="module")
def params(params_folder: Path) -> AuditParams:
    return load_audit(params_folder)


class Claim(NamedTuple):
    """A kind of claim: our true difference; `single`: the paper's value is that of a single run.

    Otherwise it is the mean of infinitely many.
    """

    truth: float
    single: bool = False


TRUE = Claim(PAPER, single=True)
NOTHING = Claim(0.0)
COUNTS_JUST = Claim(MARGIN)
ABOVE, BELOW = Claim(PAPER + MARGIN), Claim(PAPER - MARGIN)
SAME_JUST = Claim(PAPER + MARGIN, single=True)
FAMILIES = {
    "at the edge of the same": [SAME_JUST] * 8,
    "true and at the edge of equal": [TRUE] * 4 + [BELOW, ABOVE] * 2,
    "at the edge of counting": [COUNTS_JUST] * 8,
    "one of each": [SAME_JUST, BELOW, COUNTS_JUST, NOTHING],
}
"""Claims that are true, or for which a test's rejection rate equals its level (or half of it, for
the two-sided test of a deviation that is not beyond the margin)."""


def drawn(family: list[Claim], n: int, sd: float) -> pd.DataFrame:
    """DRAWS audits of a family, one row per claim: `truth`, summaries of our seeds, the paper's."""
    rng = np.random.default_rng(n)
    truth, single = (np.tile(column, DRAWS) for column in zip(*family, strict=True))
    seeds = truth[:, None] + sd * rng.normal(size=(len(truth), n))
    theirs = np.where(single, PAPER + sd * rng.normal(size=len(truth)), PAPER)
    return pd.DataFrame(
        {
            "family": np.repeat(np.arange(DRAWS), len(family)),
            "claim": np.tile(np.arange(len(family)), DRAWS),
            "truth": truth,
            "n": n,
            "mean": seeds.mean(axis=1),
            "mean_difference": seeds.mean(axis=1),
            "sd": seeds.std(axis=1, ddof=1),
            # Negatively correlated arms, whose unpaired differences don't vary more.
            "sd_minuend": seeds.std(axis=1, ddof=1) / 2,
            "sd_subtrahend": seeds.std(axis=1, ddof=1) / 2,
            "paper": theirs,
            "paper_sd": np.nan,
            "paper_n": 1,
            "margin": MARGIN,
        }
    )


def share(table: pd.DataFrame, false: pd.Series) -> float:
    """Share of families in which anything is false."""
    return float(false.groupby(table["family"]).any().mean())


def edge_of_equal(table: pd.DataFrame) -> pd.Series:
    """Rows in which our value isn't equivalent to the paper's, including the boundary."""
    return (table["truth"] - table["paper"]).abs() >= table["margin"] * (1 - 1e-9)


def same(table: pd.DataFrame) -> pd.Series:
    """Rows in which our mean is not beyond the margin of the paper's runs' mean."""
    return (table["truth"] - PAPER).abs() <= MARGIN * (1 + 1e-9)


def false_findings(table: pd.DataFrame) -> dict[str, pd.Series]:
    """True hypotheses that are rejected, by kind of test."""
    true = {
        "p": table["truth"] == 0,
        "p_h0_within_margin": same(table),
        "p_equivalence": edge_of_equal(table),
        "p_h0_margin_or_more": table["truth"] >= MARGIN,
    }
    return {name: holds & (table[f"{name}_holm"] < ALPHA) for name, holds in true.items()}


def false_differences(table: pd.DataFrame, verdicts: pd.Series) -> pd.Series:
    """Rows with false verdicts on differences."""
    counts, positive = table["truth"] >= MARGIN, table["truth"] > 0
    return (
        ((verdicts == Verdict.REPRODUCED) & edge_of_equal(table))
        | ((verdicts == Verdict.SIZE_DIFFERS) & (same(table) | ~positive))
        | ((verdicts == Verdict.CARRIES_OVER) & ~positive)
        | (verdicts.isin([Verdict.NOT_REPRODUCED, Verdict.NOT_CARRIED]) & counts)
    )


def false_numbers(table: pd.DataFrame, verdicts: pd.Series) -> pd.Series:
    """Rows with false verdicts on numbers."""
    reproduced, not_reproduced = verdicts == Verdict.REPRODUCED, verdicts == Verdict.NOT_REPRODUCED
    return (reproduced & edge_of_equal(table)) | (not_reproduced & same(table))


def test_how_many_kinds_of_tests_verdicts_draw_on() -> None:
    assert {table.title: table.kinds for table in DECISIONS if table.kinds != 2} == {
        DIFFERENCES.title: 4
    }


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("n", [3, 10])
def test_false_findings_and_verdicts_in_a_family(family: str, n: int, params: AuditParams) -> None:
    """Each kind of test keeps the level, and verdicts keep the stated multiple of it."""
    worst = 0.0
    for sd in SCATTERS:
        table = drawn(FAMILIES[family], n, sd)
        differences = adjusted(difference_evidence(table, params), TESTS)
        for name, false in false_findings(differences).items():
            assert share(table, false) < ALPHA + SAMPLING, (name, sd)
        numbers = adjusted(measurement_evidence(table, params), NUMBER_TESTS)
        for decisions, decide, told, false_in in (
            (DIFFERENCES, difference_verdicts, differences, false_differences),
            (CARRIED, direction_verdicts, differences, false_differences),
            (MEASUREMENTS, measurement_verdicts, numbers, false_numbers),
        ):
            found = share(table, false_in(told, decide(told, ALPHA, 3)["verdict"]))
            assert found < decisions.kinds * ALPHA, (decisions.title, sd)
            worst = max(worst, found)
    assert worst > ALPHA / 2 - SAMPLING  # every family is a hard case


def papers_runs(
    n: int,
    runs: int,
    correlation: float,
    ratio: float,
    paired: bool,
    params: AuditParams,
    margin: float,
) -> pd.DataFrame:
    """Evidence on many differences; the paper's runs have our distribution, paired or unpaired.

    Our arms have standard deviations 1 and `ratio`, and the given correlation over seeds.
    """
    rng, draws = np.random.default_rng(0), 20_000
    covariance = np.array([[1, correlation * ratio], [correlation * ratio, ratio**2]])
    ours = rng.multivariate_normal([PAPER, 0], covariance, size=(draws, n))
    theirs = covariance if paired else np.diag(np.diag(covariance))
    paper = rng.multivariate_normal([PAPER, 0], theirs / runs, size=draws)
    difference = ours[..., 0] - ours[..., 1]
    table = pd.DataFrame(
        {
            "n": n,
            "mean_difference": difference.mean(axis=1),
            "sd": difference.std(axis=1, ddof=1),
            "sd_minuend": ours[..., 0].std(axis=1, ddof=1),
            "sd_subtrahend": ours[..., 1].std(axis=1, ddof=1),
            "paper": paper[:, 0] - paper[:, 1],
            "paper_sd": np.nan,
            "paper_n": runs,
            "margin": margin,
        }
    )
    return difference_evidence(table, params)


@pytest.mark.parametrize("paired", [True, False], ids=["paired", "unpaired"])
@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize(
    ("correlation", "ratio"), [(-0.5, 1.0), (0.0, 1.0), (0.5, 1.0), (0.9, 1.0), (0.9, 0.3)]
)
def test_the_papers_runs_are_rarely_told_from_ours_if_they_are_as_ours(
    paired: bool, n: int, runs: int, correlation: float, ratio: float, params: AuditParams
) -> None:
    """This holds whether or not the paper's arms were paired by seed, which it doesn't say."""
    found = papers_runs(n, runs, correlation, ratio, paired, params, margin=0.0)
    assert float((found["p_h0_within_margin"] < ALPHA).mean()) < ALPHA + 0.006


def test_more_than_the_level_is_false_where_several_kinds_of_tests_are(params: AuditParams) -> None:
    """Therefore claiming one level for all verdicts would be wrong.

    At the edge of a margin around a value of many runs, each of the two verdicts is false.
    """
    table = drawn([ABOVE], 10, 1.0).assign(paper_sd=1.0, paper_n=10_000)
    found = adjusted(measurement_evidence(table, params), NUMBER_TESTS)
    verdicts = measurement_verdicts(found, ALPHA, 3)["verdict"]
    assert share(table, false_numbers(table, verdicts)) > ALPHA + SAMPLING


@pytest.mark.parametrize("n", [3, 10])
def test_false_verdicts_on_statements(n: int) -> None:
    """Every part is exactly at its bound, so any decision is false."""
    rng, draws, statements = np.random.default_rng(n), 400, 3
    rows = []
    for draw in range(draws):
        for _ in range(statements):
            parts = [Part("x", rng.normal(size=n), 0.0), Part("y", 9 + rng.normal(size=n), 0.0)]
            holds, fails = statement_evidence(parts)
            rows.append({"family": draw, "n": n, "p_h0_fails": holds, "p_h0_holds": fails})
    table = pd.DataFrame(rows).assign(carried=False, claim=range(len(rows)))
    found = adjusted(table, dict.fromkeys(["p_h0_fails", "p_h0_holds"], ("claim",)))
    verdicts = statement_verdicts(found, ALPHA, 3)["verdict"]
    assert 0.02 < share(table, verdicts != Verdict.INCONCLUSIVE) < STATEMENTS.kinds * ALPHA
