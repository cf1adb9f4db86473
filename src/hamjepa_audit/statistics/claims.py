"""The paper's measurements and differences against our runs, claim by claim.

The unit of analysis is the pretraining seed. Every function takes and returns whole columns, so that
one claim and a thousand simulated ones are treated alike.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd

from hamjepa_audit.params.audit import AuditParams
from hamjepa_audit.params.claims import Claims, DifferenceClaim, MeasurementClaim, claim_names
from hamjepa_audit.statistics.effect_size import (
    effect_size_interval,
    hedges_g,
    probability_of_improvement,
)
from hamjepa_audit.statistics.equivalence import tost
from hamjepa_audit.statistics.hypothesis_tests import (
    Array,
    Estimate,
    holm,
    of_mean,
    of_mean_and_new_runs,
    shown_below,
    sign_flip,
    statistic,
    two_sided,
    welch,
    wilcoxon,
)
from hamjepa_audit.statistics.power import detectable, seeds_for_equivalence, seeds_to_detect
from hamjepa_audit.statistics.seeds import Pairs, SeedTable
from hamjepa_audit.statistics.summaries import interval
from hamjepa_audit.statistics.verdicts import (
    difference_verdicts,
    direction_verdicts,
    measurement_verdicts,
)


def measurement_claims(seeds: SeedTable, claims: Claims, params: AuditParams) -> pd.DataFrame:
    """Every number that the paper reports, beside ours.

    Args:
        seeds: our measurements.
        claims: the paper's.
        params: levels, margins, families.

    Returns:
        One row per measurement claim, in the order of `claims`; numbers in the row's `unit` unless
        said otherwise. What is claimed: `claim` (its name), `study`, `epochs`, `arm`, `readout`,
        `metric`, `our_metric` (what it is compared with), `unit`, `source`, `family`, `paper`,
        `paper_sd`, `paper_n`, `margin`. Ours: `n` seeds, `mean`, `sd`; the columns of
        `measurement_evidence`, Holm-adjusted p-values, `seeds_needed` (NaN if unknown, infinite
        if more than the maximum), `verdict`, `reason`.

    Raises:
        UserError: a metric has no margin.
    """
    names = claim_names(claims.measurements)
    rows = [
        _measurement_row(name, claim, seeds, params)
        for name, claim in zip(names, claims.measurements, strict=True)
    ]
    table = with_families(pd.DataFrame(rows), params.families.measurements)
    table = adjusted(measurement_evidence(table, params), ["p", "p_new_runs", "p_equivalence"])
    table["seeds_needed"] = _seeds_needed(table, params, _measurement_seeds)
    decided = measurement_verdicts(table, params.alpha, params.minimum_seeds)
    return pd.concat([table, decided], axis=1)


def _measurement_row(
    name: str, claim: MeasurementClaim, seeds: SeedTable, params: AuditParams
) -> dict[str, object]:
    ours = params.our_metric(claim.metric)
    values = seeds.values(claim.study, claim.epochs, claim.arm, claim.readout, ours).to_numpy()
    paper = float(claim.value)
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
        "paper": paper,
        "paper_sd": np.nan if claim.std is None else float(claim.std),
        "paper_n": claim.n,
        "margin": params.margin(claim.metric, paper),
        **_summary(values, "mean"),
    }


def _summary(values: Array, mean: str) -> dict[str, object]:
    return {
        "n": len(values),
        mean: float(np.mean(values)) if len(values) else np.nan,
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else np.nan,
    }


def measurement_evidence(table: pd.DataFrame, params: AuditParams) -> pd.DataFrame:
    """Intervals and tests of means against the paper's values.

    Args:
        table: `n`, `mean`, `sd`, `paper`, `paper_sd` (NaN where the paper has none), `paper_n`,
            `margin`.
        params: confidence and power.

    Returns:
        The table with `ci_low`, `ci_high` (t interval of our mean), `new_seed_low`,
        `new_seed_high` (prediction interval of one more seed of ours), `deviation` (ours -
        paper's), `test` ("Welch" where the paper has a standard deviation, else "one-sample t":
        the paper's value taken for exact), `t` and `p` (of that test, two-sided), `p_new_runs`
        (could the paper's seeds have been ours? Welch, or the prediction test where it has no
        standard deviation: a single run is not exact), `p_equivalence` (TOST), `detectable` (the
        smallest deviation that n seeds find).
    """
    mean, sd, n = (table[name].to_numpy(dtype=float) for name in ("mean", "sd", "n"))
    fixed, new = against_paper(table, "mean")
    low, high = interval(mean, sd, n, params.confidence)
    # The interval of the mean, sqrt(1 + n) times as wide: a new seed has its own scatter, too.
    reach = (high - low) / 2 * np.sqrt(1 + n)
    return table.assign(
        ci_low=low,
        ci_high=high,
        new_seed_low=mean - reach,
        new_seed_high=mean + reach,
        deviation=fixed.value,
        test=np.where(table["paper_sd"].notna(), "Welch", "one-sample t"),
        t=statistic(fixed),
        p=two_sided(fixed),
        p_new_runs=two_sided(new),
        p_equivalence=tost(fixed, table["margin"]),
        detectable=detectable(fixed, params.alpha, params.power),
    )


def against_paper(table: pd.DataFrame, mean: str) -> tuple[Estimate, Estimate]:
    """Ours minus the paper's, twice: its value as it stands, and as the mean of its few seeds.

    Where the paper has a standard deviation both are Welch's. Otherwise the first takes the value
    for exact, the second lets the paper's seeds scatter as ours do.
    """
    ours = (table[mean], table["sd"], table["n"])
    known = table["paper_sd"].notna().to_numpy()
    fixed = of_mean(*ours, table["paper"])
    new = of_mean_and_new_runs(*ours, table["paper"], table["paper_n"])
    both = welch(*ours, table["paper"], table["paper_sd"], table["paper_n"])
    return _chosen(known, both, fixed), _chosen(known, both, new)


def _chosen(first: "np.typing.NDArray[np.bool_]", one: Estimate, other: Estimate) -> Estimate:
    return Estimate(*(np.where(first, a, b) for a, b in zip(one, other, strict=True)))


def difference_claims(seeds: SeedTable, claims: Claims, params: AuditParams) -> pd.DataFrame:
    """Every difference that the paper states, beside ours, on its study and on those like it.

    Args:
        seeds: our measurements.
        claims: the paper's.
        params: levels, margins, families, and which study stands for which.

    Returns:
        One row per difference claim and study it is tested on: the paper's, then those of
        `params.stands_for` that have any metrics. As in `measurement_claims`, and: `paper_study`,
        `paper_epochs`, `carried` (bool: not the paper's study, only the sign is judged), `minuend`
        and `subtrahend` (arm_readout), `mean_difference`, the columns of `difference_evidence`,
        and from the seeds `p_sign_flip` and `p_wilcoxon` (exact, two-sided),
        `probability_of_improvement` (of minuend over subtrahend).

    Raises:
        UserError: a metric has no margin.
    """
    rows = [
        _difference_row(name, claim, study, epochs, seeds, claims, params)
        for name, claim in zip(claim_names(claims.differences), claims.differences, strict=True)
        for study, epochs in targets(claim.study, claim.epochs, seeds, params)
    ]
    table = with_families(pd.DataFrame(rows), params.families.differences)
    table = adjusted(
        difference_evidence(table, params),
        ["p", "p_new_runs", "p_equivalence", "p_below_margin"],
    )
    table["seeds_needed"] = _seeds_needed(table, params, _difference_seeds)
    limits = (params.alpha, params.minimum_seeds)
    direction = direction_verdicts(table, *limits)
    decided = direction.where(table["carried"], difference_verdicts(table, *limits))
    return pd.concat([table, decided], axis=1)


def targets(
    study: str, epochs: int, seeds: SeedTable, params: AuditParams
) -> Iterator[tuple[str, int]]:
    """The study and epochs of a claim, then those of ours that stand for them and have metrics."""
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
    sides = [(side.arm, side.readout) for side in (claim.minuend, claim.subtrahend)]
    pairs = seeds.pairs(study, epochs, metric, sides[0], sides[1])
    paper = float(claim.value)
    return {
        "claim": name,
        "study": study,
        "epochs": epochs,
        "paper_study": claim.study,
        "paper_epochs": claim.epochs,
        "carried": study != claim.study,
        "metric": claim.metric,
        "our_metric": metric,
        "minuend": str(claim.minuend),
        "subtrahend": str(claim.subtrahend),
        "unit": claim.unit,
        "source": claim.source,
        "paper": paper,
        "paper_sd": np.nan if claim.std is None else float(claim.std),
        "paper_n": claim.n or _paper_runs(claim, claims),
        "margin": params.difference_margin(claim.metric, paper),
        **_summary(pairs.differences, "mean_difference"),
        **_of_pairs(pairs),
    }


def _paper_runs(claim: DifferenceClaim, claims: Claims) -> int:
    """Over how many seeds the paper's two sides are averaged; one where it doesn't say."""
    return min(
        max(
            (
                found.n
                for found in claims.measurements
                if (found.study, found.epochs, found.arm, found.metric)
                == (claim.study, claim.epochs, side.arm, claim.metric)
                and side.readout in (found.readout, "best")
            ),
            default=1,
        )
        for side in (claim.minuend, claim.subtrahend)
    )


def _of_pairs(pairs: Pairs) -> dict[str, object]:
    return {
        "p_sign_flip": sign_flip(pairs.differences),
        "p_wilcoxon": wilcoxon(pairs.differences),
        "probability_of_improvement": probability_of_improvement(*pairs),
    }


def difference_evidence(table: pd.DataFrame, params: AuditParams) -> pd.DataFrame:
    """Intervals and tests of mean paired differences, against 0 and against the paper's.

    Args:
        table: `n`, `mean_difference`, `sd` (of the differences), `paper`, `paper_sd`, `paper_n`,
            `margin`.
        params: confidence and power.

    Returns:
        The table with `ci_low`, `ci_high` (t interval), `new_seed_low`, `new_seed_high`
        (prediction interval), `t` and `p` (paired t-test of no difference), `hedges_g`, `g_low`,
        `g_high` (paired effect size and exact interval, dimensionless), `deviation` (ours -
        paper's), `p_paper` (Welch or one-sample t, as in `measurement_evidence`), `p_new_runs`,
        `p_equivalence` (TOST around the paper's difference), `p_below_margin` (is any difference
        in the paper's direction below the margin?), `detectable` (the smallest difference that n
        seeds find).
    """
    names = ("mean_difference", "sd", "n", "paper")
    mean, sd, n, paper = (table[name].to_numpy(dtype=float) for name in names)
    zero = of_mean(mean, sd, n)
    fixed, new = against_paper(table, "mean_difference")
    low, high = interval(mean, sd, n, params.confidence)
    reach = (high - low) / 2 * np.sqrt(1 + n)
    g_low, g_high = effect_size_interval(mean, sd, n, params.confidence)
    gain = of_mean(np.sign(paper) * mean, sd, n)
    return table.assign(
        ci_low=low,
        ci_high=high,
        new_seed_low=mean - reach,
        new_seed_high=mean + reach,
        t=statistic(zero),
        p=two_sided(zero),
        hedges_g=hedges_g(mean, sd, n),
        g_low=g_low,
        g_high=g_high,
        deviation=fixed.value,
        p_paper=two_sided(fixed),
        p_new_runs=two_sided(new),
        p_equivalence=tost(fixed, table["margin"]),
        p_below_margin=shown_below(gain, table["margin"]),
        detectable=detectable(zero, params.alpha, params.power),
    )


def with_families(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The table with `family`: the values of the columns in which its members agree."""
    family = table[list(columns)].astype(str).agg("-".join, axis=1)
    return table.assign(family=family.astype("str"))


def adjusted(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The table with a column NAME_holm for each of its columns of p-values."""
    return table.assign(**{f"{name}_holm": holm(table[name], table["family"]) for name in columns})


def _seeds_needed(
    table: pd.DataFrame,
    params: AuditParams,
    seeds: Callable[[pd.Series, float, AuditParams], int | None],
) -> list[float]:
    """Per row, how many seeds would settle the claim if the paper is right.

    At the level of Holm's first step, the hardest that the family can ask for; with our standard
    deviation taken for the true one. NaN without one, infinite beyond `params.maximum_seeds`.
    """
    tested = table.loc[table["sd"].notna(), "family"].value_counts()
    needed = []
    for _, row in table.iterrows():
        if np.isnan(row["sd"]):
            needed.append(np.nan)
            continue
        number = seeds(row, params.alpha / tested[row["family"]], params)
        needed.append(np.inf if number is None else float(number))
    return needed


def _measurement_seeds(row: pd.Series, alpha: float, params: AuditParams) -> int | None:
    """Seeds at which equivalence would be shown."""

    def error_and_df(n: int) -> tuple[float, float]:
        if np.isnan(row["paper_sd"]):
            return row["sd"] / np.sqrt(n), n - 1
        found = welch(0, row["sd"], n, 0, row["paper_sd"], row["paper_n"])
        return float(found.error), float(found.df)

    limits = (alpha, params.power, params.minimum_seeds, params.maximum_seeds)
    return seeds_for_equivalence(error_and_df, row["margin"], *limits)


def _difference_seeds(row: pd.Series, alpha: float, params: AuditParams) -> int | None:
    """Seeds at which the sign would be shown and, on the paper's study, equivalence, too."""
    limits = (alpha, params.power, params.minimum_seeds, params.maximum_seeds)
    if row["sd"] == 0:
        return params.minimum_seeds
    sign = seeds_to_detect(row["paper"] / row["sd"], *limits)
    if row["carried"] or sign is None:
        return sign
    size = _measurement_seeds(row, alpha, params)
    return None if size is None else max(sign, size)
