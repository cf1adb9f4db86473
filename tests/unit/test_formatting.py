"""Numbers as text: rounding by unit, and LaTeX."""

import pytest
from hypothesis import given, strategies as st

from hamjepa_audit.reporting.formatting import (
    cell,
    interval_text,
    latex_text,
    mean_sd_n,
    number,
    p_value,
    quantity,
)


@pytest.mark.parametrize(
    ("number_of", "text"),
    [((1,), "1 seed"), ((5,), "5 seeds"), ((3, 5), "3 to 5 seeds"), ((0, 1), "0 to 1 seeds")],
)
def test_quantities(number_of: tuple[int, ...], text: str) -> None:
    assert quantity(number_of[0], "seed", *number_of[1:]) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (31.456, "percent", "31.46"),
        (31.0, "percent", "31.00"),
        (-0.001, "percent", "0.00"),
        (-4.885, "percent", "-4.88"),  # float64 has -4.88499...
        (0.016994, "dimensionless", "0.01699"),
        (109.731, "dimensionless", "109.7"),
        (1.0, "dimensionless", "1.000"),
        (1234.5, "dimensionless", "1234"),
        (9999.5, "dimensionless", "1.000e+04"),
        (0.0, "dimensionless", "0.000"),
        (-0.0, "dimensionless", "0.000"),
        (3e-7, "dimensionless", "3.000e-07"),
        (float("nan"), "percent", "–"),
        (float("inf"), "dimensionless", "∞"),
        (float("-inf"), "dimensionless", "-∞"),
    ],
)
def test_rounding_by_unit(value: float, unit: str, text: str) -> None:
    assert number(value, unit) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.04321, "0.0432"),
        (0.5, "0.500"),
        (1.0, "1.00"),
        (0.001, "0.00100"),
        (0.000999, "<0.001"),
        (0.0, "<0.001"),
        (float("nan"), "–"),
    ],
)
def test_rounding_of_p(value: float, text: str) -> None:
    assert p_value(value) == text


def test_an_interval_is_a_dash_where_there_is_none() -> None:
    assert interval_text(-0.314, 2.0, "percent") == "[-0.31, 2.00]"
    assert interval_text(0.5, float("inf"), "dimensionless") == "[0.5000, ∞]"
    assert interval_text(float("nan"), float("nan"), "percent") == "–"


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_what_is_shown_is_near_what_is_stored(value: float) -> None:
    assert float(number(value, "percent")) == pytest.approx(value, abs=0.00501)
    assert float(number(value, "dimensionless")) == pytest.approx(value, rel=5.01e-4)


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("knn_top1@20", r"knn\_top1@20"),
        ("50% & more #1 {$x^2~}", r"50\% \& more \#1 \{\$x\textasciicircum{}2\textasciitilde{}\}"),
        (r"a\b", r"a\textbackslash{}b"),
        ("<0.001", "$<$0.001"),
        ("-1.25", "$-$1.25"),
        ("-1.250e-07", r"$-$1.250$\times10^{-7}$"),
        ("1.250e+04", r"1.250$\times10^{4}$"),
        ("-∞", r"$-$$\infty$"),
        ("–", "--"),
        ("HamJEPA − SIGReg, λ", r"HamJEPA $-$ SIGReg, $\lambda$"),
        ("-0.12 ± 0.03 (5)", r"$-$0.12 $\pm$ 0.03 (5)"),
        ("digits-mlp-e12", "digits-mlp-e12"),
        ("[x]", "{[}x]"),
        ("two\nlines", "two lines"),
    ],
)
def test_latex_escapes(text: str, escaped: str) -> None:
    assert latex_text(text) == escaped


@pytest.mark.parametrize(
    ("mean", "sd", "n", "unit", "text"),
    [
        (31.446, 0.274, 3, "percent", "31.45 ± 0.27 (3)"),
        (109.731, 1.26, 5, "dimensionless", "109.7 ± 1.3 (5)"),
        (1.25e-7, 3.5e-8, 5, "dimensionless", "1.250e-07 ± 3.500e-08 (5)"),
        (1234.5, 0.4, 5, "dimensionless", "1234 ± 0.4 (5)"),
        (1234.5, 0.5, 5, "dimensionless", "1234 ± 0.5 (5)"),
        (1234.5, 0.0, 5, "dimensionless", "1234 ± 0 (5)"),
        (1234.5, float("inf"), 5, "dimensionless", "1234 ± inf (5)"),
        (31.446, float("nan"), 1, "percent", "31.45 (1)"),
        (float("nan"), float("nan"), 0, "percent", "–"),
    ],
)
def test_a_spread_has_the_decimals_of_its_mean(
    mean: float, sd: float, n: int, unit: str, text: str
) -> None:
    assert mean_sd_n(mean, sd, n, unit) == text


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("mean", 0.123456, "0.12"),
        ("t", 0.123456, "0.1235"),
        ("p", 0.123456, "0.123"),
        ("confidence", 0.95, "95%"),
        ("n", 5, "5"),
    ],
)
def test_columns_whose_unit_is_not_their_rows(column: str, value: float, text: str) -> None:
    assert cell(column, value, "percent") == text
