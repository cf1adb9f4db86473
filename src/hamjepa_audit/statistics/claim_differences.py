"""Compares the differences that the paper states with those of our runs, paired by seed."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from hamjepa_audit.params.audit import AuditParams
from hamjepa_audit.params.claims import Claims, DifferenceClaim, named
from hamjepa_audit.statistics.comparison import (
    ARMS,
    adjusted,
    against_paper,
    equivalence,
    summary,
    with_families,
    with_intervals,
)
from hamjepa_audit.statistics.consistency import stated_values
from hamjepa_audit.statistics.effect_size import (
    effect_size_interval,
    hedges_g,
    probability_of_improvement,
)
from hamjepa_audit.statistics.equivalence import beyond_margin
from hamjepa_audit.statistics.hypothesis_tests import (
    Array,
    one_sample,
    p_less,
    sign_flip,
    statistic,
    two_sided,
    wilcoxon,
)
from hamjepa_audit.statistics.planning import (
    Plan,
    PlannedTest,
    beyond_margin_tests,
    detectable_by,
    equivalence_tests,
    with_seeds_needed,
)
from hamjepa_audit.statistics.seeds import Pairs, SeedTable
from hamjepa_audit.statistics.verdicts import (
    difference_verdicts,
    direction_verdicts,
    negligible_verdicts,
)

_SAME_ARMS = ("study", "epochs", "our_metric", "minuend", "subtrahend")
_SAME_CLAIM = (*_SAME_ARMS, "paper", "paper_sd", "paper_n", "margin")
TESTS = {
    "p": _SAME_ARMS,
    "p_h0_margin_or_more": (*_SAME_ARMS, "margin"),
    "p_equivalence": _SAME_CLAIM,
    "p_h0_within_margin": _SAME_CLAIM,
}
"""The tests that verdicts rest on, as in `adjusted`: 4.89 and 4.88 ± 0.11 are two claims about one
difference, which are the same hypothesis only where the paper's value doesn't matter."""


def difference_claims(seeds: SeedTable, claims: Claims, params: AuditParams) -> pd.DataFrame:
    """Tests every difference that the paper states, on its study and on those that stand for it.

    Args:
        seeds: our measurements.
        claims: the paper's.
        params: levels, margins, families, and which study stands for which.

    Returns:
        One row per difference claim and study on which it is tested: the paper's study, then those
        of `params.stands_for` that have any metrics. The columns are those of `measurement_claims`
        and: `paper_study`, `paper_epochs`, `carried` (bool: the study is not the paper's, and the
        sign is judged), `negligible` (bool: the paper's point is how small it is, so that its size
        is judged on any study, by the metric's margin), `minuend` and `subtrahend`
        (arm_readout), `note` (how it is read and what biases it, or empty), `mean_difference`,
        `detectable` (the smallest difference from zero that n seeds find, or where `negligible` the
        smallest deviation from the paper's that they show to be beyond the margin),
        `sd_minuend` and `sd_subtrahend` (of each side over the paired seeds, n - 1), the columns
        of `difference_evidence`, and from the seeds `p_sign_flip` and `p_wilcoxon` (exact,
        two-sided), `probability_of_improvement` (of minuend over subtrahend).

    Raises:
        UserError: a metric has no margin.
    """
    rows = [
        _difference_row(name, claim, study, epochs, seeds, claims, params)
        for name, claim in named(claims.differences)
        for study, epochs in targets(claim.study, claim.epochs, seeds, params)
    ]
    table = with_families(pd.DataFrame(rows), params.families.differences)
    table = adjusted(difference_evidence(table, params), TESTS, _judged(table))
    table["detectable"] = _detectable(table, params)
    table = pd.concat([table, _verdicts(table, params)], axis=1)
    return with_seeds_needed(table, TESTS, _plans, params)


def _judged(table: pd.DataFrame) -> dict[str, "pd.Series[bool]"]:
    """The rows whose verdict rests on each of TESTS."""
    direction, size = ~table["negligible"], ~table["carried"] | table["negligible"]
    return {
        "p": direction,
        "p_h0_margin_or_more": direction,
        "p_equivalence": size,
        "p_h0_within_margin": size,
    }


def _detectable(table: pd.DataFrame, params: AuditParams) -> Array:
    zero = one_sample(table["mean_difference"], table["sd"], table["n"])
    direction = detectable_by(table, "p", TESTS, zero, params)
    _, new = against_paper(table, "mean_difference", ARMS)
    size = table["margin"] + detectable_by(table, "p_h0_within_margin", TESTS, new, params)
    return np.where(table["negligible"], size, direction)


def _verdicts(table: pd.DataFrame, params: AuditParams) -> pd.DataFrame:
    limits = (params.alpha, params.minimum_seeds)
    direction = direction_verdicts(table, *limits)
    decided = direction.where(table["carried"], difference_verdicts(table, *limits))
    return negligible_verdicts(table, *limits).where(table["negligible"], decided)


def _plans(row: pd.Series, seeds: Array, levels: Mapping[str, float]) -> list[Plan]:
    """The tests that lead to each line of the claim's decision table."""
    if row["negligible"]:
        return _size_plans(row, seeds, levels)
    same, opposite, below = _direction_plans(row, seeds, levels)
    if row["carried"]:
        return [same, opposite, below]
    equal, beyond = _size_plans(row, seeds, levels)
    return [opposite, below, [*same, *equal], [*same, *beyond]]


def _direction_plans(row: pd.Series, seeds: Array, levels: Mapping[str, float]) -> list[Plan]:
    """Tests that show the paper's sign, its opposite, and less than the margin in its direction."""
    gain, level = np.sign(row["paper"]) * row["mean_difference"], levels["p"] / 2
    return [
        [PlannedTest(one_sample(gain, row["sd"], seeds), level)],
        [PlannedTest(one_sample(-gain, row["sd"], seeds), level)],
        [
            PlannedTest(
                one_sample(row["margin"] - gain, row["sd"], seeds), levels["p_h0_margin_or_more"]
            )
        ],
    ]


def _size_plans(row: pd.Series, seeds: Array, levels: Mapping[str, float]) -> list[Plan]:
    """Tests that show our value within the margin of the paper's, and beyond it."""
    deviation, level = row["deviation"], levels["p_h0_within_margin"]
    return [
        equivalence_tests(row, deviation, seeds, levels["p_equivalence"]),
        beyond_margin_tests(row, deviation, seeds, level, ARMS),
    ]


def targets(
    study: str, epochs: int, seeds: SeedTable, params: AuditParams
) -> Iterator[tuple[str, int]]:
    """Yields the study and epochs of a claim, then those that stand for them and have metrics."""
    yield study, epochs
    for name, stands_for in params.stands_for.items():
        known = name in seeds.studies and name != study
        if known and stands_for.study == study and epochs in stands_for.epochs:
            yield name, stands_for.epochs[epochs]


def _difference_row(
    name: str,
    claim: DifferenceClaim,
    study: str,
    epochs: int,
    seeds: SeedTable,
    claims: Claims,
    params: AuditParams,
) -> dict[str, object]:
    metric = params.our_metric(claim.metric)
    sides = [(side.arm, side.readout) for side in claim.sides]
    pairs = seeds.pairs(study, epochs, metric, sides[0], sides[1])
    paper = float(claim.value)
    return {
        "claim": name,
        "study": study,
        "epochs": epochs,
        "paper_study": claim.study,
        "paper_epochs": claim.epochs,
        "carried": study != claim.study,
        "negligible": claim.negligible,
        "metric": claim.metric,
        "our_metric": metric,
        "minuend": str(claim.minuend),
        "subtrahend": str(claim.subtrahend),
        "unit": claim.unit,
        "source": claim.source,
        "note": _note(claim),
        "paper": paper,
        "paper_sd": np.nan if claim.std is None else float(claim.std),
        "paper_n": claim.n or _paper_runs(claim, claims),
        "margin": (
            params.absolute_margin(claim.metric)
            if claim.negligible
            else params.difference_margin(claim.metric, paper)
        ),
        **_of_pairs(pairs),
    }


def _note(claim: DifferenceClaim) -> str:
    """Says how the claim is read, and what biases it: the best of several readouts on one side."""
    best = [side for side in claim.sides if side.readout == "best"]
    notes = []
    if claim.negligible:
        notes.append(
            "by our reading, the paper treats this difference as negligible: its size is tested, "
            "with the metric's margin, and not its sign"
        )
    if len(best) == 1:
        notes.append(
            f"the best of several readouts is biased upwards: comparing it with a single "
            f"readout favours {best[0].arm}"
        )
    return "; ".join(notes)


def _paper_runs(claim: DifferenceClaim, claims: Claims) -> int:
    """The smaller number of seeds of the paper's two sides; 1 where none is given."""
    return min(
        max((value.n for value in stated_values(claims, claim, side)), default=1)
        for side in claim.sides
    )


def _of_pairs(pairs: Pairs) -> dict[str, object]:
    *sides, differences = (np.asarray(x, dtype=float) for x in (*pairs, pairs.differences))
    spreads = [summary(side, "mean")["sd"] for side in sides]
    found = summary(differences, "mean_difference")
    if abs(found["mean_difference"]) <= pairs.noise:
        found["mean_difference"] = 0.0
    return {
        **found,
        **dict(zip(ARMS, spreads, strict=True)),
        "p_sign_flip": sign_flip(differences),
        "p_wilcoxon": wilcoxon(differences),
        "probability_of_improvement": probability_of_improvement(*sides),
    }


def difference_evidence(table: pd.DataFrame, params: AuditParams) -> pd.DataFrame:
    """Intervals and tests of mean paired differences, against zero and the paper's difference.

    Args:
        table: `n`, `mean_difference`, `sd` (of the differences), `sd_minuend`, `sd_subtrahend`,
            `paper`, `paper_sd`, `paper_n`, `margin`.
        params: confidence.

    Returns:
        The table with `ci_low`, `ci_high` (t interval), `new_seed_low`, `new_seed_high`
        (prediction interval), `t` and `p` (paired t-test of no difference), `hedges_g`, `g_low`,
        `g_high` (paired effect size and exact interval, dimensionless), `deviation` (ours -
        paper's), `p_paper` (Welch or one-sample t, as in `measurement_evidence`),
        `p_h0_within_margin` (Welch, or the prediction test, valid whether or not the paper's arms
        are paired by seed), `p_equivalence` (TOST around the printed difference) and
        `p_h0_margin_or_more` (one-sided, of the hypothesis that the difference in the paper's
        direction is the margin or more).
    """
    names = ("mean_difference", "sd", "n", "paper")
    mean, sd, n, paper = (table[name].to_numpy(dtype=float) for name in names)
    zero = one_sample(mean, sd, n)
    fixed, new = against_paper(table, "mean_difference", ARMS)
    g_low, g_high = effect_size_interval(mean, sd, n, params.confidence)
    gain = one_sample(np.sign(paper) * mean, sd, n)
    return with_intervals(table, "mean_difference", params.confidence).assign(
        t=statistic(zero),
        p=two_sided(zero),
        hedges_g=hedges_g(mean, sd, n),
        g_low=g_low,
        g_high=g_high,
        deviation=fixed.value,
        p_paper=two_sided(fixed),
        p_h0_within_margin=beyond_margin(new, table["margin"]),
        p_equivalence=equivalence(table, "mean_difference"),
        p_h0_margin_or_more=p_less(gain, table["margin"]),
    )
