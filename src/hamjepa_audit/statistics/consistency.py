"""Checks the paper's numbers against each other, which requires no run.

A printed number represents every value that rounds to it: 4.88 represents 4.875 to 4.885. Sums and
differences of printed numbers are therefore intervals (Moore 1966), computed exactly in decimals.
Two numbers agree within rounding if their intervals overlap by more than an end point.
"""

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from hamjepa_audit.params.claims import (
    Claims,
    DifferenceClaim,
    MeasurementClaim,
    Side,
    named,
)
from hamjepa_audit.statistics.hypothesis_tests import (
    prediction_test,
    statistic,
    two_sided,
    welch,
)

AGREES, WITHIN_ROUNDING, DISAGREES = "agrees", "agrees within rounding", "disagrees"
ONE_MORE_SEED, NO_SUCH_SEED = "as one more seed", "not as one more seed"
UNCHECKABLE, NO_ERROR_BAR = "not recomputable", "no error bar"
SIGNIFICANT, NOT_SIGNIFICANT = "significant", "not significant"


class Rounded(NamedTuple):
    """A number computed from printed ones: its nominal value and the interval that contains it."""

    value: Decimal
    low: Decimal
    high: Decimal

    @classmethod
    def printed(cls, value: Decimal) -> "Rounded":
        """The interval of a printed number: half a unit of its last decimal on either side."""
        half = Decimal(1).scaleb(int(value.as_tuple().exponent)) / 2
        return cls(value, value - half, value + half)

    def minus(self, other: "Rounded") -> "Rounded":
        """Interval subtraction."""
        return Rounded(self.value - other.value, self.low - other.high, self.high - other.low)

    @property
    def half_width(self) -> Decimal:
        """The largest possible error of the nominal value."""
        return (self.high - self.low) / 2


def largest(numbers: Iterable[Rounded]) -> Rounded:
    """The largest of several numbers: the maxima of the values, lower ends and upper ends."""
    return Rounded(*(max(ends) for ends in zip(*numbers, strict=True)))


def agreement(stated: Rounded, other: Rounded) -> str:
    """Whether two numbers can be the same: AGREES, WITHIN_ROUNDING or DISAGREES."""
    if stated.value == other.value:
        return AGREES
    overlap = stated.low < other.high and other.low < stated.high
    return WITHIN_ROUNDING if overlap else DISAGREES


def paper_consistency(claims: Claims, confidence: float) -> pd.DataFrame:
    """Checks the paper's numbers against each other.

    Args:
        claims: the paper's.
        confidence: level of intervals and tests, in (0, 1).

    Returns:
        One row per check; numbers in the row's `unit`. `check` is one of
        - `difference`: a stated difference, compared with that of the stated values; a `best`
          readout is the best of those stated;
        - `repeated`: a number, compared with the same number elsewhere in the paper, with `p` of
          the hypothesis that a single run is one more seed of the mean it is compared with;
        - `best over k`: a best over k, compared with kNN at the k where it was found, or at any k;
        - `implied by spreads`: a difference with the standard error that the spreads of both sides
          imply if their seeds are unrelated (Welch), with `ci_low`, `ci_high`, and `p` of the
          hypothesis of no difference;
        - `error bar`: a claim that has none.
        `claim`, `source`, `stated` and `compared` (as printed), `compared_source`, `deviation`
        (stated - compared), `allowed` (largest deviation that rounding explains), `verdict`,
        `note`.
    """
    rows = [
        *_differences(claims),
        *_repeated(claims, confidence),
        *_best_stated(claims),
        *_implied(claims, confidence),
        *_without_error_bar(claims),
    ]
    return pd.DataFrame(rows).reindex(columns=COLUMNS).astype(dict.fromkeys(TEXTS, "str"))


TEXTS = [
    "check", "claim", "study", "unit", "source", "stated", "compared", "compared_source", "verdict",
    "note",
]  # fmt: skip
COLUMNS = [
    "check", "claim", "study", "epochs", "unit", "source", "stated", "compared", "compared_source",
    "deviation", "allowed", "ci_low", "ci_high", "p", "verdict", "note",
]  # fmt: skip

Row = dict[str, Any]
Numeric = MeasurementClaim | DifferenceClaim


def _row(check: str, name: str, claim: Numeric, **found: Any) -> Row:
    base = {
        "check": check,
        "claim": name,
        "study": claim.study,
        "epochs": claim.epochs,
        "unit": claim.unit,
        "source": claim.source,
        "stated": str(claim.value),
        "compared": "",
        "compared_source": "",
        "note": "",
    }
    return base | found


def _compared(stated: Rounded, other: Rounded) -> Row:
    return {
        "compared": str(other.value),
        "deviation": float(stated.value - other.value),
        "allowed": float(stated.half_width + other.half_width),
        "verdict": agreement(stated, other),
    }


def _differences(claims: Claims) -> Iterator[Row]:
    for name, claim in named(claims.differences):
        sides = [stated_values(claims, claim, side) for side in claim.sides]
        missing = [str(side) for side, values in zip(claim.sides, sides, strict=True) if not values]
        if missing:
            note = f"{claim.metric} is not stated for {' and '.join(missing)}"
            yield _row("difference", name, claim, verdict=UNCHECKABLE, note=note)
            continue
        minuend, subtrahend = (largest(Rounded.printed(v.value) for v in side) for side in sides)
        yield _row(
            "difference",
            name,
            claim,
            **_compared(Rounded.printed(claim.value), minuend.minus(subtrahend)),
            compared_source="; ".join(dict.fromkeys(v.source for side in sides for v in side)),
            note=f"{minuend.value} - {subtrahend.value}"
            + "".join(
                f"; {side.arm}: best of the stated readouts ({_readouts(values)})"
                for side, values in zip(claim.sides, sides, strict=True)
                if side.readout == "best"
            ),
        )


def _readouts(values: list[MeasurementClaim]) -> str:
    return ", ".join(value.readout for value in values)


def stated_values(claims: Claims, claim: DifferenceClaim, side: Side) -> list[MeasurementClaim]:
    """What the paper states for one side of a difference, `best` being every readout.

    Returns:
        One value per readout; of repeated ones that of the most seeds. Empty if none is stated.
    """
    values: dict[str, MeasurementClaim] = {}
    for found in claims.measurements:
        where = (found.study, found.epochs, found.metric, found.arm)
        same = where == (claim.study, claim.epochs, claim.metric, side.arm)
        known = values.get(found.readout)
        if same and side.readout in (found.readout, "best") and (not known or known.n < found.n):
            values[found.readout] = found
    return list(values.values())


def _repeated(claims: Claims, confidence: float) -> Iterator[Row]:
    """Compares every repetition of a number with its first statement.

    A single run need not equal a mean, because it may be one more seed of it.
    """
    for group in _numeric(claims):
        first: dict[str, Numeric] = {}
        for name, claim in named(group):
            other = first.setdefault(claim.key, claim)
            if other is claim:
                continue
            found = _compared(Rounded.printed(claim.value), Rounded.printed(other.value))
            found["compared_source"] = other.source
            found |= _as_new_seed(claim, other)
            if found["verdict"] == DISAGREES and "p" in found:
                found["verdict"] = NO_SUCH_SEED if found["p"] < 1 - confidence else ONE_MORE_SEED
            yield _row("repeated", name, claim, **found)


def _numeric(claims: Claims) -> tuple[Sequence[Numeric], Sequence[Numeric]]:
    return claims.measurements, claims.differences


def _as_new_seed(claim: Numeric, other: Numeric) -> Row:
    """Tests whether a single run is one more seed of the mean that it is compared with."""
    if claim.n != 1 or other.std is None or other.n is None:
        return {}
    new = prediction_test(float(other.value), float(other.std), other.n, float(claim.value), 1)
    p = float(two_sided(new))
    note = f"H0: the single run is one more seed of {other.value} ± {other.std} ({other.n} seeds)"
    return {"p": p, "note": note}


def _where(claim: MeasurementClaim) -> tuple[str, int, str, str]:
    return claim.study, claim.epochs, claim.arm, claim.readout


def _best_stated(claims: Claims) -> Iterator[Row]:
    """Checks that a best over k equals the accuracy at its k, and that no accuracy exceeds it."""
    for name, best in named(claims.measurements):
        if not best.metric.endswith("@best"):
            continue
        prefix = best.metric.removesuffix("best")
        for other in claims.measurements:
            same = _where(other) == _where(best)
            if not same or other is best or not other.metric.startswith(prefix):
                continue
            stated, at_k = Rounded.printed(best.value), Rounded.printed(other.value)
            found = _compared(stated, at_k)
            if other.metric != f"{prefix}{best.at_k}":
                found["verdict"] = DISAGREES if stated.high <= at_k.low else AGREES
            note = f"against {other.metric}" + (f", best at k = {best.at_k}" if best.at_k else "")
            source = other.source
            yield _row("best over k", name, best, **found, compared_source=source, note=note)


def _implied(claims: Claims, confidence: float) -> Iterator[Row]:
    """Tests the differences whose two sides both have a standard deviation."""
    for name, claim in named(claims.differences):
        sides = [stated_values(claims, claim, side) for side in claim.sides]
        if not all(sides):
            continue
        minuend, subtrahend = (max(side, key=lambda value: value.value) for side in sides)
        if minuend.std is None or subtrahend.std is None:
            continue
        found = _welch(minuend, subtrahend, confidence)
        found["note"] += _pairing(claim, float(minuend.std), float(subtrahend.std))
        yield _row("implied by spreads", name, claim, **found)


def _pairing(claim: DifferenceClaim, one: float, other: float) -> str:
    """The correlation r implied by a stated spread: var(x - y) = var x + var y - 2 r sd x sd y."""
    if claim.std is None:
        return ""
    correlation = (one**2 + other**2 - float(claim.std) ** 2) / (2 * one * other)
    return (
        f"; the stated {claim.std} implies a correlation of about {correlation:.2f} between the "
        f"arms over seeds"
    )


def _welch(minuend: MeasurementClaim, subtrahend: MeasurementClaim, confidence: float) -> Row:
    """Welch's test from the printed means and spreads."""
    one, other = (
        (float(side.value), float(side.std or 0), side.n) for side in (minuend, subtrahend)
    )
    found = welch(*one, *other)
    reach = stats.t.ppf((1 + confidence) / 2, found.df) * found.error
    p = float(two_sided(found))
    unpaired = np.hypot(one[1], other[1])
    return {
        "compared": str(minuend.value - subtrahend.value),
        "compared_source": "; ".join(dict.fromkeys([minuend.source, subtrahend.source])),
        "ci_low": float(found.value - reach),
        "ci_high": float(found.value + reach),
        "p": p,
        "verdict": SIGNIFICANT if p < 1 - confidence else NOT_SIGNIFICANT,
        "note": (
            f"H0: no difference. Welch t = {float(statistic(found)):.3g}, "
            f"df = {float(found.df):.3g}; differences of independent runs would have a standard "
            f"deviation of {unpaired:.2g}"
        ),
    }


def _without_error_bar(claims: Claims) -> Iterator[Row]:
    for group in _numeric(claims):
        for name, claim in named(group):
            if claim.std is None:
                note = "a single run" if claim.n == 1 else "no spread of the difference is given"
                yield _row("error bar", name, claim, verdict=NO_ERROR_BAR, note=note)
