"""Decision tables: each line, and every combination of what tests show."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st

from hamjepa_audit.statistics.verdicts import (
    difference_verdicts,
    direction_verdicts,
    measurement_verdicts,
    negligible_verdicts,
    statement_verdicts,
)

YES, NO = 0.001, 0.9
OF_DIFFERENCES = ("p", "p_equivalence", "p_h0_within_margin", "p_h0_margin_or_more")
TESTS = (*OF_DIFFERENCES, "p_h0_fails", "p_h0_holds")


def row(n: int = 5, **p: float) -> pd.DataFrame:
    """One claim: the named p-values are small, the others large."""
    values = {f"{name}_holm": p.get(name, NO) for name in TESTS}
    base = {"n": n, "paper": 4.0, "mean_difference": p.get("mean", 4.0), "carried": False}
    interval = {"ci_low": 3.9, "ci_high": 4.1, "margin": 1.0}
    return pd.DataFrame([base | interval | values])


def verdict(decide, table: pd.DataFrame) -> str:
    return decide(table, 0.05, 3)["verdict"].iloc[0]


def expected_of_difference(same: bool, sign: bool, equal: bool, beyond: bool, low: bool) -> str:
    """By hand, from what is shown: whether the sign agrees and is shown, and so on."""
    if sign and not same:
        return "not reproduced"
    if sign and equal:
        return "reproduced"
    if low:
        return "not reproduced"
    if sign and beyond:
        return "direction reproduced, size differs"
    return "inconclusive"


def expected_of_carried(same: bool, sign: bool, low: bool) -> str:
    if (sign and not same) or low:
        return "does not carry over"
    return "carries over" if sign else "inconclusive"


def test_every_combination_of_what_is_shown_has_its_verdict() -> None:
    """Beside tables written a second time, as nested conditions."""
    for same, *shown, n in product([True, False], *[[True, False]] * 4, [0, 2, 3]):
        sign, equal, beyond, low = shown
        p = [YES if it else NO for it in shown]
        table = row(n, mean=4.0 if same else -4.0, **dict(zip(OF_DIFFERENCES, p, strict=True)))
        of_size = "reproduced" if equal else "not reproduced" if beyond else "inconclusive"
        for decide, expected in (
            (measurement_verdicts, of_size),
            (difference_verdicts, expected_of_difference(same, sign, equal, beyond, low)),
            (direction_verdicts, expected_of_carried(same, sign, low)),
            (negligible_verdicts, of_size),
        ):
            enough = {0: "not run", 2: "inconclusive", 3: expected}[n]
            assert verdict(decide, table) == enough, (decide, same, shown, n)


def test_a_negligible_difference_carries_over_by_its_size() -> None:
    for p, expected in (
        ({"p_equivalence": YES}, "carries over"),
        ({"p_h0_within_margin": YES}, "does not carry over"),
        ({"p": YES, "p_h0_margin_or_more": YES}, "inconclusive"),
    ):
        assert verdict(negligible_verdicts, row(**p).assign(carried=True)) == expected


def test_every_combination_of_parts_of_a_statement_has_its_verdict() -> None:
    for holds, fails, carried in product([True, False], repeat=3):
        p = {"p_h0_fails": YES if holds else NO, "p_h0_holds": YES if fails else NO}
        words = ("carries over", "does not carry over") if carried else (
            "reproduced", "not reproduced",
        )  # fmt: skip
        expected = words[0] if holds else words[1] if fails else "inconclusive"
        assert verdict(statement_verdicts, row(**p).assign(carried=carried)) == expected


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (row(0), "not run"),
        (row(1, p_equivalence=YES), "inconclusive"),
        (row(2, p_h0_within_margin=YES), "inconclusive"),
        (row(p_equivalence=YES), "reproduced"),
        (row(p_equivalence=YES, p_h0_within_margin=YES), "reproduced"),
        (row(p_h0_within_margin=YES), "not reproduced"),
        (row(), "inconclusive"),
        (row(p_equivalence=np.nan, p_h0_within_margin=np.nan), "inconclusive"),
    ],
)
def test_table_of_measurements(table: pd.DataFrame, expected: str) -> None:
    assert verdict(measurement_verdicts, table) == expected


@pytest.mark.parametrize(
    ("interval", "beyond"),
    [((5.1, 6.0), True), ((2.0, 2.9), True), ((4.9, 6.0), False), ((2.0, 3.1), False)],
)
def test_an_interval_beyond_the_margin_is_said_though_it_decides_nothing(
    interval: tuple[float, float], beyond: bool
) -> None:
    low, high = interval
    found = measurement_verdicts(row().assign(ci_low=low, ci_high=high), 0.05, 3)
    assert found["verdict"].item() == "inconclusive"
    assert ("our interval is beyond the margin" in found["reason"].item()) == beyond


@pytest.mark.parametrize(
    ("table", "expected", "direction"),
    [
        (row(0), "not run", "not run"),
        (row(2, p=YES, p_equivalence=YES), "inconclusive", "inconclusive"),
        (row(p=YES, p_equivalence=YES), "reproduced", "carries over"),
        (row(p=YES, p_equivalence=YES, p_h0_within_margin=YES), "reproduced", "carries over"),
        (row(p=YES, p_h0_within_margin=YES), "direction reproduced, size differs", "carries over"),
        (
            row(p=YES, p_h0_within_margin=YES, p_h0_margin_or_more=YES, mean=0.3),
            "not reproduced",
            "does not carry over",
        ),
        (row(p=YES, p_h0_margin_or_more=YES, mean=0.3), "not reproduced", "does not carry over"),
        (row(p=YES), "inconclusive", "carries over"),
        (row(p=YES, mean=-4.0), "not reproduced", "does not carry over"),
        (row(p=YES, mean=-4.0, p_h0_within_margin=YES), "not reproduced", "does not carry over"),
        (row(p_h0_margin_or_more=YES), "not reproduced", "does not carry over"),
        (row(p_h0_within_margin=YES), "inconclusive", "inconclusive"),
        (row(p_equivalence=YES), "inconclusive", "inconclusive"),
        (row(), "inconclusive", "inconclusive"),
    ],
)
def test_table_of_differences(table: pd.DataFrame, expected: str, direction: str) -> None:
    assert verdict(difference_verdicts, table) == expected
    assert verdict(direction_verdicts, table) == direction


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (row(0), "not run"),
        (row(2, p_h0_fails=YES), "inconclusive"),
        (row(p_h0_fails=YES), "reproduced"),
        (row(p_h0_holds=YES), "not reproduced"),
        (row(p_h0_fails=YES).assign(carried=True), "carries over"),
        (row(p_h0_holds=YES).assign(carried=True), "does not carry over"),
        (row(), "inconclusive"),
    ],
)
def test_table_of_statements(table: pd.DataFrame, expected: str) -> None:
    assert verdict(statement_verdicts, table) == expected


def test_a_p_value_at_the_level_shows_nothing() -> None:
    assert verdict(measurement_verdicts, row(p_equivalence=0.05)) == "inconclusive"
    assert verdict(measurement_verdicts, row(p_equivalence=0.0499)) == "reproduced"


def test_the_reason_names_the_opposite_sign_first() -> None:
    """An opposite sign is below the margin in the paper's direction, too."""
    table = row(p=YES, p_h0_margin_or_more=YES, mean=-4.0)
    for decide in (difference_verdicts, direction_verdicts):
        assert decide(table, 0.05, 3)["reason"].item() == "the sign is opposite to the paper's"


@given(st.lists(st.floats(0, 1), min_size=6, max_size=6), st.integers(0, 2), st.floats(-9, 9))
def test_never_a_verdict_from_fewer_than_three_seeds(p: list[float], n: int, mean: float) -> None:
    table = row(n, **dict(zip(TESTS, p, strict=True)), mean=mean)
    decisions = (
        measurement_verdicts,
        difference_verdicts,
        direction_verdicts,
        negligible_verdicts,
        statement_verdicts,
    )
    for decide in decisions:
        assert verdict(decide, table) in ("not run", "inconclusive")
