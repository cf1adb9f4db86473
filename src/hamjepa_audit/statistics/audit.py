"""The complete audit: from metrics and claims to four tables of verdicts."""

import re
from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd

from hamjepa_audit.errors import UserError, nearest
from hamjepa_audit.params.audit import AuditParams
from hamjepa_audit.params.claims import Claims
from hamjepa_audit.statistics.claim_differences import difference_claims
from hamjepa_audit.statistics.claims import measurement_claims
from hamjepa_audit.statistics.consistency import paper_consistency
from hamjepa_audit.statistics.seeds import KNN_AT, SeedTable
from hamjepa_audit.statistics.statements import statement_claims

NAMED = 5
"""The largest number of names that a hint lists."""


class Audit(NamedTuple):
    """The tables of an audit. Their columns are described by the functions that create them."""

    claims: pd.DataFrame
    claim_differences: pd.DataFrame
    statements: pd.DataFrame
    paper_consistency: pd.DataFrame


def audit(metrics: pd.DataFrame, claims: Claims, params: AuditParams) -> Audit:
    """Tests every claim of the paper on our numbers.

    Args:
        metrics: the long metric table (METRICS_SCHEMA) of any studies, in any order of rows.
        claims: the paper's.
        params: levels, margins, families, and which study stands for which.

    Raises:
        UserError: `metrics` is unusable (see `SeedTable`), a metric has a unit other than that of
            the claims about it, a percentage is outside [0, 100], all of a study are at most 1, a
            metric has no margin, or a statement has no test.
    """
    seeds = SeedTable(metrics)
    _require_units(metrics, claims, params)
    return Audit(
        claims=measurement_claims(seeds, claims, params),
        claim_differences=difference_claims(seeds, claims, params),
        statements=statement_claims(seeds, claims, params),
        paper_consistency=paper_consistency(claims, params.confidence),
    )


def _require_units(metrics: pd.DataFrame, claims: Claims, params: AuditParams) -> None:
    claimed = {params.our_metric(claim.metric): claim.unit for claim in claims.measurements}
    for metric, unit in metrics[["metric", "unit"]].drop_duplicates().itertuples(index=False):
        if unit != claimed.get(metric, unit):
            raise UserError(
                f"the metrics give {metric} in '{unit}', but the paper's numbers are in "
                f"'{claimed[metric]}': convert the values, and name that unit"
            )
    odd = metrics[(metrics["unit"] == "percent") & ~metrics["value"].between(0, 100)]
    for row in odd.head(1).itertuples():
        raise UserError(
            f"the metrics have {len(odd)} percentages outside 0 to 100, the first: {row.value} as "
            f"{row.metric} of {row.run_id}, readout {row.readout}: correct them"
        )
    percent = metrics[metrics["unit"] == "percent"]
    for study, largest in percent.groupby("study")["value"].max().items():
        if largest <= 1:  # chance, among a hundred classes
            raise UserError(
                f"the study '{study}' has no percentage above {largest:.3g}; if its accuracies are "
                f"fractions, multiply them by 100"
            )


def without_claims(metrics: pd.DataFrame, claims: Claims, params: AuditParams) -> list[str]:
    """The studies in the metrics on which no claim is tested, sorted by name."""
    tested = {claim.study for claim in claims.measurements}
    tested |= {claim.study for claim in claims.differences}
    tested |= {claim.study for claim in claims.statements}
    like = {name for name, other in params.stands_for.items() if other.study in tested}
    return sorted(set(metrics["study"]) - tested - like)


def untested_because(
    tables: Audit, metrics: pd.DataFrame, claims: Claims, params: AuditParams
) -> str:
    """Why no claim at all is tested on metrics of studies that have claims, as text.

    Returns:
        Where no claim has any of the arms, readouts or metrics, their names, each with a hint; or
        that the names are not the reason; empty if a claim is tested, or if no study has claims
        (see `without_claims`).
    """
    tested = any((table["n"] > 0).any() for table in tables[:3])
    if tested or set(metrics["study"]) == set(without_claims(metrics, claims, params)):
        return ""
    unknown = list(_unclaimed(metrics, claims, params))
    if unknown:
        more = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
        return f"no claim names {', '.join(unknown[:NAMED])}{more}"
    return "no row has all that a claim names, at the claim's epochs and checkpoint_epoch = epochs"


def _unclaimed(metrics: pd.DataFrame, claims: Claims, params: AuditParams) -> Iterator[str]:
    sides = [side for claim in claims.differences for side in (claim.minuend, claim.subtrahend)]
    sources: set[tuple[str, str]] = {(claim.arm, claim.readout) for claim in claims.measurements}
    sources |= {(side.arm, side.readout) for side in sides}
    stated = {claim.metric for claim in claims.measurements}
    stated |= {claim.metric for claim in claims.differences}
    known = {
        "arm": {arm for arm, _ in sources},
        "readout": {readout for _, readout in sources} - {"best"},
        "metric": {params.our_metric(metric) for metric in stated},
    }
    for column, names in known.items():
        found = set(metrics[column])
        # The best of a kNN sweep is of any k.
        if not (found & names or any(re.match(KNN_AT, name) for name in found)):
            yield from (f"the {column} '{name}' ({nearest(name, names)})" for name in sorted(found))
