"""Compares the numbers that the paper reports with those of our runs, claim by claim.

The unit of analysis is the pretraining seed. The functions that compute evidence operate on whole
columns, so that real claims and thousands of simulated ones are treated alike.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from hamjepa_audit.params.audit import AuditParams
from hamjepa_audit.params.claims import Claims, MeasurementClaim, named
from hamjepa_audit.statistics.comparison import (
    adjusted,
    against_paper,
    equivalence,
    summary,
    with_families,
    with_intervals,
)
from hamjepa_audit.statistics.equivalence import beyond_margin
from hamjepa_audit.statistics.hypothesis_tests import Array, statistic, two_sided
from hamjepa_audit.statistics.planning import (
    Plan,
    beyond_margin_tests,
    detectable_by,
    equivalence_tests,
    with_seeds_needed,
)
from hamjepa_audit.statistics.seeds import SeedTable
from hamjepa_audit.statistics.verdicts import measurement_verdicts

NEAR_ZERO = "the margin is not below the paper's value: within the margin only means near zero"
"""The note on a claim whose value is so small that its margin says little."""


def measurement_claims(seeds: SeedTable, claims: Claims, params: AuditParams) -> pd.DataFrame:
    """Tests every number that the paper reports.

    Args:
        seeds: our measurements.
        claims: the paper's.
        params: levels, margins, families.

    Returns:
        One row per measurement claim, in the order of `claims`; numbers are in the row's `unit`
        unless stated otherwise. What is claimed: `claim` (its name), `study`, `epochs`, `arm`,
        `readout`, `metric`, `our_metric` (what it is compared with), `unit`, `source`, `family`,
        `paper`, `paper_sd`, `paper_n`, `paper_note` (a remark on the value, such as the paper's own
        words for it, or empty), `margin`, `note` (NEAR_ZERO where it applies). Ours: `n` seeds,
        `mean`, `sd`; the columns of `measurement_evidence`, Holm-adjusted p-values, `detectable`
        (the smallest deviation that n seeds show to be beyond the margin), `verdict`, `reason`,
        `seeds_needed` and `seeds_considered` (see `with_seeds_needed`).

    Raises:
        UserError: a metric has no margin.
    """
    rows = [
        _measurement_row(name, claim, seeds, params) for name, claim in named(claims.measurements)
    ]
    table = with_families(pd.DataFrame(rows), params.families.measurements)
    tests = dict.fromkeys(["p", "p_h0_within_margin", "p_equivalence"], ("claim",))
    table = adjusted(measurement_evidence(table, params), tests)
    _, new = against_paper(table, "mean")
    found = detectable_by(table, "p_h0_within_margin", tests, new, params)
    table["detectable"] = table["margin"] + found
    decided = measurement_verdicts(table, params.alpha, params.minimum_seeds)
    table = pd.concat([table, decided], axis=1)
    return with_seeds_needed(table, tests, _plans, params)


def _plans(row: pd.Series, seeds: Array, levels: Mapping[str, float]) -> list[Plan]:
    """The tests that lead to each line of `measurement_verdicts`."""
    deviation = row["deviation"]
    return [
        equivalence_tests(row, deviation, seeds, levels["p_equivalence"]),
        beyond_margin_tests(row, deviation, seeds, levels["p_h0_within_margin"]),
    ]


def _measurement_row(
    name: str, claim: MeasurementClaim, seeds: SeedTable, params: AuditParams
) -> dict[str, object]:
    ours = params.our_metric(claim.metric)
    values = np.asarray(
        seeds.values(claim.study, claim.epochs, claim.arm, claim.readout, ours), dtype=float
    )
    paper = float(claim.value)
    margin = params.margin(claim.metric, paper)
    return {
        "claim": name,
        "study": claim.study,
        "epochs": claim.epochs,
        "arm": claim.arm,
        "readout": claim.readout,
        "metric": claim.metric,
        "our_metric": ours,
        "unit": claim.unit,
        "source": claim.source,
        "paper_note": claim.note or "",
        "paper": paper,
        "paper_sd": np.nan if claim.std is None else float(claim.std),
        "paper_n": claim.n,
        "margin": margin,
        "note": NEAR_ZERO if margin >= abs(paper) else "",
        **summary(values, "mean"),
    }


def measurement_evidence(table: pd.DataFrame, params: AuditParams) -> pd.DataFrame:
    """Intervals of means, and their tests against the paper's values.

    Args:
        table: `n`, `mean`, `sd`, `paper`, `paper_sd` (NaN where the paper has none), `paper_n`,
            `margin`.
        params: confidence.

    Returns:
        The table with `ci_low`, `ci_high` (t interval of our mean), `new_seed_low`,
        `new_seed_high` (prediction interval of one more seed of ours), `deviation` (ours minus the
        paper's), `test` ("Welch" where the paper has a standard deviation, otherwise
        "one-sample t", which treats the paper's value as exact), `t` and `p` (of that test,
        two-sided), `p_h0_within_margin` (of the hypothesis that the means of the paper's runs and
        of ours are within the margin of each other: Welch, or where the paper has no standard
        deviation the prediction test, because a single run is not exact) and `p_equivalence` (TOST
        around the printed value).
    """
    fixed, new = against_paper(table, "mean")
    return with_intervals(table, "mean", params.confidence).assign(
        deviation=fixed.value,
        test=np.where(table["paper_sd"].notna(), "Welch", "one-sample t"),
        t=statistic(fixed),
        p=two_sided(fixed),
        p_h0_within_margin=beyond_margin(new, table["margin"]),
        p_equivalence=equivalence(table, "mean"),
    )
