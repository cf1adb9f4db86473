"""Tests the paper's verbal statements on our seeds.

A statement is divided into parts, each of which says that the mean of a number over seeds lies in a
range. The statement holds if every part is shown to hold (intersection-union test, which needs no
correction, Berger 1982), and fails if one part is shown not to hold (Bonferroni over all bounds).
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from hamjepa_audit.errors import UserError, nearest
from hamjepa_audit.params.audit import AuditParams
from hamjepa_audit.params.claims import Claims, StatementClaim
from hamjepa_audit.statistics.claim_differences import targets
from hamjepa_audit.statistics.comparison import adjusted, summary, with_families
from hamjepa_audit.statistics.hypothesis_tests import Array, one_sample, p_greater, p_less
from hamjepa_audit.statistics.planning import Plan, PlannedTest, with_seeds_needed
from hamjepa_audit.statistics.seeds import NotMeasured, SeedTable
from hamjepa_audit.statistics.statement_parts import (
    BY_CONSTRUCTION,
    OTHER_READINGS,
    STATEMENTS,
    Part,
    Runs,
)
from hamjepa_audit.statistics.summaries import interval
from hamjepa_audit.statistics.verdicts import statement_verdicts

BETWEEN_PARTS, BETWEEN_READINGS = "; ", " | "
"""Separators of the parts of a statement in `found`, and of the readings in `other_readings`."""


def statement_claims(seeds: SeedTable, claims: Claims, params: AuditParams) -> pd.DataFrame:
    """Tests every statement of the paper, on its study and on those that stand for it.

    Args:
        seeds: our measurements.
        claims: the paper's.
        params: levels, families, the meaning of the words, and which study stands for which.

    Returns:
        One row per statement and study: `statement` (its id), `says`, `source`, `study`, `epochs`,
        `paper_study`, `paper_epochs`, `carried` (bool: not the paper's study), `by_construction`
        (bool: it can hardly fail, so that its verdict says nothing about the paper) and `note`
        (why, or empty), `family`, `n` (seeds, the fewest of its parts), `found` (each part's mean,
        interval and claimed range),
        `other_readings` (what the same test finds with other readings of an arm, or empty),
        `p_h0_fails` and `p_h0_holds` (of the hypotheses that it does not hold, and that it holds;
        see `statement_evidence`), both also Holm-adjusted, `verdict`, `reason`, `seeds_needed` and
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
    tests = dict.fromkeys(["p_h0_fails", "p_h0_holds"], ("statement", "study", "epochs"))
    table = adjusted(table, tests)
    decided = statement_verdicts(table, params.alpha, params.minimum_seeds)
    missing = table["missing"] != ""
    decided["reason"] = decided["reason"].mask(missing, table["missing"])
    table = with_seeds_needed(pd.concat([table, decided], axis=1), tests, _plans, params)
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
        "by_construction": claim.id in BY_CONSTRUCTION,
        "note": BY_CONSTRUCTION.get(claim.id, ""),
    }
    try:
        parts = STATEMENTS[claim.id](runs)
    except NotMeasured as reason:
        nothing = {"n": 0, "parts": [], "found": "", "other_readings": ""}
        untested = {"p_h0_fails": np.nan, "p_h0_holds": np.nan}
        return row | nothing | untested | {"missing": str(reason)}
    against_failing, against_holding = statement_evidence(parts)
    return row | {
        "n": min(len(part.values) for part in parts),
        "parts": parts,
        "found": _found(parts, runs.params.confidence),
        "other_readings": BETWEEN_READINGS.join(_other_readings(claim.id, runs)),
        "p_h0_fails": against_failing,
        "p_h0_holds": against_holding,
        "missing": "",
    }


def statement_evidence(parts: list[Part]) -> tuple[float, float]:
    """P-values of two null hypotheses: the statement does not hold, and the statement holds.

    Returns:
        The first is the largest p-value over the bounds, each of the hypothesis that the mean is
        not inside; the second is the smallest over the bounds, each of the hypothesis that the
        mean is inside, times their number. NaN with fewer than two seeds in a part.
    """
    inside, outside = [], []
    for part in parts:
        found = summary(part.values, "mean")
        for side, bound in part.bounds:
            # Mirrored where the bound is an upper one: inside is then above, too.
            estimate = one_sample(side * found["mean"], found["sd"], found["n"])
            least = float(estimate.smallest_p) if part.few_values else 0.0
            inside.append(np.maximum(p_greater(estimate, side * bound), least))
            outside.append(np.maximum(p_less(estimate, side * bound), least))
    # np.minimum keeps NaN: what was not tested must not enter its family as a p-value of 1.
    return float(np.max(inside)), float(np.minimum(1.0, len(outside) * np.min(outside)))


def _plans(row: pd.Series, seeds: Array, levels: Mapping[str, float]) -> list[Plan]:
    """The tests that lead to each line of `statement_verdicts`: every bound kept, or one broken."""
    bounds = [
        (side * (found["mean"] - bound), found["sd"], part.few_values)
        for part, found in ((part, summary(part.values, "mean")) for part in row["parts"])
        for side, bound in part.bounds
    ]
    level = levels["p_h0_fails"]
    kept = [PlannedTest(one_sample(x, sd, seeds), level, few) for x, sd, few in bounds]
    level = levels["p_h0_holds"] / len(bounds)
    broken = [PlannedTest(one_sample(-x, sd, seeds), level, few) for x, sd, few in bounds]
    return [kept, *([test] for test in broken)]


def _other_readings(statement: str, runs: Runs) -> list[str]:
    """The results of the same test with other readings of an arm, on which no verdict rests."""
    results, missing = [], []
    for arm in OTHER_READINGS.get(statement, ()):
        try:
            parts = STATEMENTS[statement](runs, arm)
        except NotMeasured:
            missing.append(arm)
            continue
        against_failing, against_holding = statement_evidence(parts)
        results.append(
            f"With {arm} instead: p = {against_failing:.2g} (H0: does not hold), "
            f"p = {against_holding:.2g} (H0: holds), both unadjusted; "
            f"{_found(parts, runs.params.confidence)}"
        )
    return results + ([f"Not run: {', '.join(missing)}"] if missing else [])


def _found(parts: list[Part], confidence: float) -> str:
    return BETWEEN_PARTS.join(_described(part, confidence) for part in parts)


def _described(part: Part, confidence: float) -> str:
    """The result of one part as text: 'kNN of hamjepa qp - p: 0.57 [0.2, 0.9], claimed above 0'."""
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
