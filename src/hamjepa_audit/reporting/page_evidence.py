"""The evidence for a verdict on the page: the name and the value of every test and interval.

A test is named by its null hypothesis (H0), which a small p-value speaks against.
"""

from collections.abc import Iterator

import numpy as np

from hamjepa_audit.params.audit import AuditParams
from hamjepa_audit.reporting.audit_tables import seeds_text
from hamjepa_audit.reporting.formatting import (
    ABSENT,
    Row,
    interval_text,
    number,
    p_value,
    quantity,
)


def only_direction(row: Row) -> bool:
    """Whether a claim of any kind is tested for its direction alone, not for its size."""
    return bool(row.get("carried")) and not row.get("negligible")


def of_number(row: Row, params: AuditParams) -> Iterator[tuple[str, str]]:
    """Yields the evidence for a row of the table `claims`; nothing if there are no runs."""
    if not row["n"]:
        return
    yield from _intervals(row, params)
    yield f"H0: our mean equals the paper's ({row['test']})", _statistic(row, "p")
    yield from _size(row)
    yield from _needed(row, params, to_margin=True)


def of_difference(row: Row, params: AuditParams) -> Iterator[tuple[str, str]]:
    """Yields the evidence for a row of `claim_differences`; nothing if there are no runs."""
    if not row["n"]:
        return
    yield from _intervals(row, params)
    yield "H0: arms equal (paired t-test)", _statistic(row, "p")
    yield "H0: arms equal (exact sign-flip test), p", p_value(row["p_sign_flip"])
    yield "H0: arms equal (exact Wilcoxon signed-rank test), p", p_value(row["p_wilcoxon"])
    if not only_direction(row):
        yield "H0: our mean equals the paper's, p", p_value(row["p_paper"])
    if not np.isnan(row["p_h0_margin_or_more_holm"]):
        yield (
            "H0: gain of margin or more, p",
            _with_holm(row, "p_h0_margin_or_more"),
        )
    yield from _size(row)
    bounds = "" if np.isnan(row["g_low"]) else f" {interval_text(row['g_low'], row['g_high'], '')}"
    yield "Effect size, Hedges' g", f"{number(row['hedges_g'], '')}{bounds}"
    yield "Probability of improvement", number(row["probability_of_improvement"], "")
    yield from _needed(row, params, to_margin=row["negligible"])


def of_statement(row: Row) -> Iterator[tuple[str, str]]:
    """Yields the evidence for a row of the table `statements`; nothing if there are no runs."""
    if not row["n"]:
        return
    yield "H0: does not hold (some part), p", _with_holm(row, "p_h0_fails")
    yield "H0: holds (every part), p", _with_holm(row, "p_h0_holds")


def _intervals(row: Row, params: AuditParams) -> Iterator[tuple[str, str]]:
    share = f"{100 * params.confidence:g}%"
    yield f"{share} interval of our mean", _interval(row, "ci_low", "ci_high")
    yield (
        f"{share} prediction interval of one more seed",
        _interval(row, "new_seed_low", "new_seed_high"),
    )
    yield "Ours minus the paper's", number(row["deviation"], row["unit"])


def _size(row: Row) -> Iterator[tuple[str, str]]:
    """Yields the tests of a claim's size, if its verdict rests on them."""
    if np.isnan(row["p_h0_within_margin_holm"]):
        return
    margin = f"±{number(row['margin'], row['unit'])}"
    yield (
        f"H0: outside margin, {margin} around the paper's value (TOST), p",
        _with_holm(row, "p_equivalence"),
    )
    yield (
        f"H0: inside margin, {margin} around the mean of the paper's runs, p",
        _with_holm(row, "p_h0_within_margin"),
    )


def _needed(row: Row, params: AuditParams, to_margin: bool) -> Iterator[tuple[str, str]]:
    power, seeds = f"{100 * params.power:g}%", quantity(row["n"], "seed")
    size = "deviation shown to exceed the margin" if to_margin else "difference detected"
    yield f"Smallest {size} with {seeds}, {power} power", number(row["detectable"], row["unit"])
    if text := seeds_text(row):
        yield f"Seeds needed, {power} power", text


def _interval(row: Row, low: str, high: str) -> str:
    return interval_text(row[low], row[high], row["unit"])


def _statistic(row: Row, name: str) -> str:
    p = _with_holm(row, name)
    return f"t = {number(row['t'], '')}, p {p if p.startswith('<') else f'= {p}'}"


def _with_holm(row: Row, name: str) -> str:
    """A p-value as text: '0.0123 (0.0246 after Holm)', the second if there is one that differs."""
    p, adjusted = p_value(row[name]), p_value(row[f"{name}_holm"])
    return p if adjusted in (p, ABSENT) else f"{p} ({adjusted} after Holm)"
