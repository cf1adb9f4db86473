"""Checks of the metrics that are audited: units, names that no claim has, and copied seeds."""

import difflib
import itertools
import re
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from hamjepa_audit.errors import UserError, nearest
from hamjepa_audit.metrics import TRAINING_SECONDS
from hamjepa_audit.params.audit import AuditParams
from hamjepa_audit.params.claims import Claims
from hamjepa_audit.statistics.seeds import KNN_AT
from hamjepa_audit.statistics.summaries import READOUTS

NAMED = 5
"""The largest number of names that a hint lists."""

ENOUGH = 5
"""Equal numbers from which on seeds are taken for copies."""

ALIKE = 0.8
"""The similarity (difflib's ratio) from which on an arm's name is taken for a mistyped one."""


def require_units(metrics: pd.DataFrame, claims: Claims, params: AuditParams) -> None:
    """Refuses metrics in other units than those of the claims about them.

    Raises:
        UserError: a metric has another unit, a percentage is outside [0, 100], or all of a study's
            percentages are at most 1.
    """
    claimed = {params.our_metric(claim.metric): claim.unit for claim in claims.measurements}
    for metric, unit in metrics[["metric", "unit"]].drop_duplicates().itertuples(index=False):
        if unit != claimed.get(metric, unit):
            raise UserError(
                f"the metrics give {metric} in '{unit}', but the paper's numbers are in "
                f"'{claimed[metric]}': convert the values, and correct the column unit"
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


def hints(
    tables: Iterable[pd.DataFrame], metrics: pd.DataFrame, claims: Claims, params: AuditParams
) -> Iterator[str]:
    """Yields a line for each reason to doubt the metrics, or that claims are tested on them.

    `tables` are the verdicts on measurements, differences and statements.
    """
    if metrics.empty:
        yield "no claim is tested: the metrics have no rows"
    for study in without_claims(metrics, claims, params):
        yield (
            f"no claim is tested on the study '{study}'; to test some, name the paper's study that "
            f"it stands for in statistics.yaml, under stands_for"
        )
    if reason := _untested_because(tables, metrics, claims, params):
        yield f"no claim is tested: {reason}; correct the metrics"
    else:
        for study, arm, meant in _mistyped_arms(metrics, claims, params):
            yield (
                f"no claim names the arm '{arm}' of the study '{study}'; if it is '{meant}', which "
                f"the metrics of that study lack, correct its name"
            )
        for readout in sorted(set(metrics["readout"]) - set(READOUTS)):
            hint = nearest(readout.lower(), READOUTS)
            yield f"no claim names the readout '{readout}'; correct its name: {hint}"
    for condition, one, other in _copied_seeds(metrics):
        yield (
            f"the seeds {one} and {other} of {condition} have equal numbers; check that they were "
            f"not copied, because each counts as a run of its own"
        )


def without_claims(metrics: pd.DataFrame, claims: Claims, params: AuditParams) -> list[str]:
    """The studies in the metrics on which no claim is tested, sorted by name."""
    tested = {claim.study for claim in claims.measurements}
    tested |= {claim.study for claim in claims.differences}
    tested |= {claim.study for claim in claims.statements}
    like = {name for name, other in params.stands_for.items() if other.study in tested}
    return sorted(set(metrics["study"]) - tested - like)


def _untested_because(
    tables: Iterable[pd.DataFrame], metrics: pd.DataFrame, claims: Claims, params: AuditParams
) -> str:
    """Why no claim at all is tested on metrics of studies that have claims, as text.

    Where no claim has any of the arms, readouts or metrics, their names, each with a hint; or that
    the names are not the reason; empty if a claim is tested, or if no study has claims (see
    `without_claims`).
    """
    tested = any((table["n"] > 0).any() for table in tables)
    if tested or set(metrics["study"]) == set(without_claims(metrics, claims, params)):
        return ""
    unknown = list(_unclaimed(metrics, claims, params))
    if unknown:
        more = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
        return f"no claim names {', '.join(unknown[:NAMED])}{more}"
    return "no row has all that a claim names, at the claim's epochs and checkpoint_epoch = epochs"


def _unclaimed(metrics: pd.DataFrame, claims: Claims, params: AuditParams) -> Iterator[str]:
    stated = {claim.metric for claim in claims.measurements}
    stated |= {claim.metric for claim in claims.differences}
    known = {
        "arm": {arm for _, arm, _ in _claimed(claims)},
        "readout": {readout for _, _, readout in _claimed(claims)} - {"best"},
        "metric": {params.our_metric(metric) for metric in stated},
    }
    for column, names in known.items():
        found = set(metrics[column])
        # The best of a kNN sweep is of any k.
        if not (found & names or any(re.match(KNN_AT, name) for name in found)):
            yield from (f"the {column} '{name}' ({nearest(name, names)})" for name in sorted(found))


def _claimed(claims: Claims) -> Iterator[tuple[str, str, str]]:
    """The study, arm and readout of each number that a claim is about."""
    for claim in claims.measurements:
        yield claim.study, claim.arm, claim.readout
    for difference in claims.differences:
        for side in difference.sides:
            yield difference.study, side.arm, side.readout


def _mistyped_arms(
    metrics: pd.DataFrame, claims: Claims, params: AuditParams
) -> Iterator[tuple[str, str, str]]:
    """The arms that no claim on a study names, and that look like one that the study lacks.

    Yields:
        The study, its arm, and the arm that was probably meant.
    """
    for study, arms in metrics.groupby("study")["arm"].unique().items():
        paper = params.stands_for[study].study if study in params.stands_for else study
        claimed = {arm for of, arm, _ in _claimed(claims) if of == paper}
        missing = sorted(claimed - set(arms))
        for arm in sorted(set(arms) - claimed):
            for meant in difflib.get_close_matches(arm.lower(), missing, n=1, cutoff=ALIKE):
                yield str(study), arm, meant


def _copied_seeds(metrics: pd.DataFrame) -> Iterator[tuple[str, int, int]]:
    """Pairs of seeds of an arm with equal numbers: they were copied, or the seed has no effect.

    A few numbers may be equal by chance, such as accuracies on few images. Training times are not
    compared.

    Yields:
        The study, arm and epochs, as text; and the two seeds.
    """
    measured = metrics[metrics["metric"] != TRAINING_SECONDS]
    number = ["readout", "metric", "checkpoint_epoch"]
    for (study, arm, epochs), rows in measured.groupby(["study", "arm", "epochs"], sort=True):
        table = rows.pivot(index="seed", columns=number, values="value")
        seeds = zip(table.index, table.to_numpy(), strict=True)
        for (one, first), (other, second) in itertools.combinations(seeds, 2):
            both = ~np.isnan(first) & ~np.isnan(second)
            if both.sum() >= ENOUGH and np.array_equal(first[both], second[both]):
                yield f"{study}, {arm}, {epochs} epochs", int(one), int(other)
