"""The paper's consistency with itself: rounding, repeated values, spreads; actual findings."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, strategies as st
from scipy import stats

from hamjepa_audit.params.claims import Claims, load_claims
from hamjepa_audit.params.loading import validate
from hamjepa_audit.statistics.consistency import (
    Rounded,
    agreement,
    largest,
    paper_consistency,
)


@pytest.fixture(scope="module")
def table(params_folder: Path) -> pd.DataFrame:
    return paper_consistency(load_claims(params_folder / "paper/claims.yaml"), 0.95)


def claims_of(values: dict[str, str], difference: dict[str, Any]) -> Claims:
    """Claims of a paper with one study: the values of x_q, x_p, ... and one stated difference."""
    measurements = [
        {
            "study": "s", "epochs": 1, "arm": name[0], "readout": name[2:], "metric": "knn_top1@20",
            "value": value, "n": 1, "unit": "percent", "source": "table",
        }
        for name, value in values.items()
    ]  # fmt: skip
    sides = {
        "minuend": {"arm": "x", "readout": "q"},
        "subtrahend": {"arm": "y", "readout": "all"},
    }
    stated = {"study": "s", "epochs": 1, "metric": "knn_top1@20", "source": "text"}
    tree = {
        "schema": 1,
        "paper": {"arxiv": "1", "version": 1, "title": "t"},
        "unit_default": "percent",
        "measurements": measurements,
        "differences": [stated | sides | difference],
        "statements": [{"id": "x", "study": "s", "epochs": 1, "says": "x", "source": "text"}],
    }
    return validate(Claims, tree, "claims")


def only(table: pd.DataFrame, check: str, **values: str) -> pd.Series:
    rows = table[table["check"] == check]
    for name, value in values.items():
        rows = rows[rows[name] == value]
    (row,) = rows.to_dict("records")
    return pd.Series(row)


def test_of_two_values_with_as_many_seeds_the_first_counts() -> None:
    claims = claims_of({"x_q": "30.0", "y_all": "25.0"}, {"value": "5.0"})
    again = claims.measurements[0].model_copy(update={"value": Decimal("31.0"), "source": "later"})
    both = claims.model_copy(update={"measurements": (*claims.measurements, again)})
    assert only(paper_consistency(both, 0.95), "difference")["compared"] == "5.0"


# --- rounding


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("4.88", "4.875", "4.885"),
        ("28.10", "28.095", "28.105"),
        ("28.1", "28.05", "28.15"),
        ("0.0", "-0.05", "0.05"),
        ("-3", "-3.5", "-2.5"),
    ],
)
def test_a_printed_number_is_an_interval(text: str, low: str, high: str) -> None:
    assert Rounded.printed(Decimal(text)) == (Decimal(text), Decimal(low), Decimal(high))


def test_end_points_that_touch_are_no_agreement() -> None:
    one, other = (Rounded.printed(Decimal(text)) for text in ("4.88", "4.89"))
    assert agreement(one, one) == "agrees"
    assert agreement(one, other) == agreement(other, one) == "disagrees"
    assert agreement(Rounded.printed(Decimal("109.7")), Rounded.printed(Decimal("109.73"))) == (
        "agrees within rounding"
    )


NUMBERS = st.decimals(-100, 100, places=4)


@given(NUMBERS, NUMBERS, st.integers(0, 2), st.integers(0, 2))
def test_rounding_alone_never_disagrees(a: Decimal, b: Decimal, few: int, many: int) -> None:
    def printed(value: Decimal, places: int) -> Rounded:
        return Rounded.printed(value.quantize(Decimal(1).scaleb(-places)))

    stated = printed(a - b, many)
    recomputed = printed(a, few).minus(printed(b, many))
    # The true difference lies in both intervals, which overlap unless it is an end point of both.
    assert stated.low <= a - b <= stated.high and recomputed.low <= a - b <= recomputed.high
    inside = stated.low < a - b < stated.high and recomputed.low < a - b < recomputed.high
    assert not inside or agreement(stated, recomputed) != "disagrees"


def test_the_largest_of_intervals() -> None:
    numbers = [Rounded.printed(Decimal(text)) for text in ("34.2", "34.18", "30")]
    assert largest(numbers) == (Decimal("34.2"), Decimal("34.175"), Decimal("34.25"))


@pytest.mark.parametrize(
    ("stated", "verdict"),
    [
        ("2.2", "agrees"),
        ("2.20", "agrees"),
        ("2.26", "agrees within rounding"),  # 12.3 - 10.1 may be anything from 2.1 to 2.3
        ("2.31", "disagrees"),
        ("2", "agrees within rounding"),
        ("-2.2", "disagrees"),
    ],
)
def test_verdicts_on_differences(stated: str, verdict: str) -> None:
    claims = claims_of({"x_q": "12.3", "y_all": "10.1"}, {"value": stated})
    row = only(paper_consistency(claims, 0.95), "difference")
    assert row["verdict"] == verdict
    assert (row["stated"], row["compared"]) == (stated, "2.2")


def test_best_is_the_best_of_the_stated_readouts() -> None:
    values = {"x_q": "12.3", "x_p": "13.3", "y_all": "10.1"}
    best = {"minuend": {"arm": "x", "readout": "best"}}
    row = only(paper_consistency(claims_of(values, best | {"value": "3.2"}), 0.95), "difference")
    assert row["verdict"] == "agrees"
    assert "x: best of the stated readouts (q, p)" in row["note"]


def test_a_side_that_is_not_stated_is_named() -> None:
    claims = claims_of({"x_q": "12.3"}, {"value": "2.2"})
    row = only(paper_consistency(claims, 0.95), "difference")
    assert row["verdict"] == "not recomputable"
    assert "not stated for y_all" in row["note"]


# --- findings in the paper


def test_differences_of_the_paper(table: pd.DataFrame) -> None:
    rows = table[table["check"] == "difference"]
    assert rows["verdict"].value_counts().to_dict() == {
        "agrees": 17,
        "agrees within rounding": 2,
        "not recomputable": 1,
    }
    rounded = rows[rows["verdict"] == "agrees within rounding"]
    found = [tuple(row) for row in rounded[["stated", "compared"]].to_numpy()]
    assert found == [("4.88", "4.89"), ("4.26", "4.2")]
    assert rounded["allowed"].tolist() == pytest.approx([0.015, 0.105])
    assert rounded["compared_source"].tolist() == ["preprint Table 1", "preprint C.3 (1)"]


def test_repeated_values_of_the_paper(table: pd.DataFrame) -> None:
    rows = table[table["check"] == "repeated"]
    found = {(row["stated"], row["compared"]): row["verdict"] for _, row in rows.iterrows()}
    assert found == {
        ("109.7", "109.73"): "agrees within rounding",
        ("124.5", "125.58"): "as one more seed",
        ("78.9", "79.46"): "as one more seed",
        ("4.88", "4.89"): "disagrees",
    }
    # It is a single run, well within the spread of three seeds.
    row = only(table, "repeated", stated="124.5")
    t = (125.58 - 124.5) / (3.33 * (4 / 3) ** 0.5)
    assert row["p"] == pytest.approx(2 * stats.t.sf(t, 2))


def test_best_over_k_of_the_paper(table: pd.DataFrame) -> None:
    rows = table[table["check"] == "best over k"]
    assert len(rows) == 9
    assert set(rows["verdict"]) == {"agrees"}


def test_what_table_1_implies(table: pd.DataFrame) -> None:
    rows = table[table["check"] == "implied by spreads"]
    assert rows["stated"].tolist() == ["4.89", "4.88", "3.52", "3.75"]
    assert set(rows["verdict"]) == {"significant"}
    oracle = stats.ttest_ind_from_stats(31.45, 0.27, 3, 26.56, 0.18, 3, equal_var=False)
    row = rows.iloc[1]
    assert row["p"] == pytest.approx(oracle.pvalue)
    error, df = 4.89 / oracle.statistic, 3.484
    assert row["ci_low"] == pytest.approx(4.89 - stats.t.ppf(0.975, df) * error, abs=1e-3)
    assert row["ci_high"] == pytest.approx(4.89 + stats.t.ppf(0.975, df) * error, abs=1e-3)
    # 0.27^2 + 0.18^2 - 2 r 0.27 0.18 = 0.11^2
    assert "a correlation of about 0.96" in row["note"]
    assert "correlation" not in rows.iloc[0]["note"]


def test_claims_without_an_error_bar(table: pd.DataFrame) -> None:
    rows = table[table["check"] == "error bar"]
    assert len(rows) == 71 + 19
    assert rows[rows["study"] == "imagenet100"]["claim"].nunique() == 24 + 9
    assert set(rows["verdict"]) == {"no error bar"}


def with_measurement(claims: Claims, **changes: Any) -> Claims:
    """Adds a measurement, by default of x_q: a changed copy of the first one."""
    first = claims.measurements[0]
    more = type(first)(**first.model_dump() | changes)
    return claims.model_copy(update={"measurements": (*claims.measurements, more)})


def test_of_a_repeated_value_that_of_the_most_seeds_counts() -> None:
    claims = claims_of({"x_q": "12.3", "y_all": "10.1"}, {"value": "2.4"})
    repeated = with_measurement(claims, value=Decimal("12.5"), n=3, std=Decimal("0.1"))
    assert only(paper_consistency(repeated, 0.95), "difference")["compared"] == "2.4"


@pytest.mark.parametrize(
    ("value", "n", "verdict"),
    [
        # t = 4.85 with 2 degrees of freedom: p = 0.04.
        ("17.9", 1, "not as one more seed"),
        ("14.3", 1, "as one more seed"),
        ("14.3", 3, "disagrees"),
    ],
)
def test_only_a_single_run_may_be_one_more_seed(value: str, n: int, verdict: str) -> None:
    claims = claims_of({"x_q": "12.3", "y_all": "10.1"}, {"value": "2.2"})
    mean = claims.measurements[0].model_copy(update={"std": Decimal("1.0"), "n": 3})
    claims = claims.model_copy(update={"measurements": (mean, *claims.measurements[1:])})
    std = None if n == 1 else Decimal("0.1")
    repeated = with_measurement(claims, value=Decimal(value), n=n, std=std)
    assert only(paper_consistency(repeated, 0.95), "repeated")["verdict"] == verdict


@pytest.mark.parametrize(("std", "verdict"), [("0.1", "significant"), ("3.0", "not significant")])
def test_the_best_readouts_spread_says_whether_a_difference_is_significant(
    std: str, verdict: str
) -> None:
    best = {"minuend": {"arm": "x", "readout": "best"}}
    claims = claims_of({"x_q": "12.3", "x_p": "13.3", "y_all": "10.1"}, best | {"value": "3.2"})
    spread = tuple(
        claim.model_copy(update={"std": Decimal(std), "n": 3}) for claim in claims.measurements
    )
    table = paper_consistency(claims.model_copy(update={"measurements": spread}), 0.95)
    row = only(table, "implied by spreads")
    assert (row["compared"], row["verdict"]) == ("3.2", verdict)


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        ("12.1", "disagrees"),
        ("12.2", "disagrees"),  # it is at most 12.25, and the other at least that
        ("12.3", "agrees"),
        ("12.4", "agrees"),
    ],
)
def test_a_best_over_k_below_a_k_is_found(value: str, verdict: str) -> None:
    claims = claims_of({"x_q": "12.3", "y_all": "10.1"}, {"value": "2.2"})
    extended = with_measurement(claims, metric="knn_top1@best", value=Decimal(value), at_k=1)
    row = only(paper_consistency(extended, 0.95), "best over k")
    assert row["verdict"] == verdict
