"""Summaries over seeds and paired differences: manual results, references and invariances."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats
from statsmodels.stats.weightstats import DescrStatsW

from hamjepa_audit.errors import UserError
from hamjepa_audit.metrics import METRICS_SCHEMA
from hamjepa_audit.statistics import interval, paired_differences, per_seed, summarise
from tests.unit import synthetic

NUMBERS = ["mean_difference", "sd", "ci_low", "ci_high", "t", "p"]


def table(values: dict[tuple[str, str], dict[int, float]], unit: str = "percent") -> pd.DataFrame:
    """Metrics with the values {(arm, readout): {seed: value}} of one metric."""
    rows = [
        {
            "study": "s",
            "dataset": "d",
            "arm": arm,
            "epochs": 12,
            "seed": seed,
            "checkpoint_epoch": 12,
            "readout": readout,
            "metric": "knn_top1@20",
            "value": value,
            "unit": unit,
            "run_id": f"{arm}-{seed}",
        }
        for (arm, readout), seeds in values.items()
        for seed, value in seeds.items()
    ]
    return pd.DataFrame(rows)[METRICS_SCHEMA.names]


def two_arms(a: list[float], b: list[float]) -> pd.DataFrame:
    return table({("a", "q"): dict(enumerate(a)), ("b", "q"): dict(enumerate(b))})


def difference(metrics: pd.DataFrame, order: tuple[str, ...] = ("a", "b")) -> pd.Series:
    (row,) = paired_differences(metrics, order, 0.95).to_dict("records")
    return pd.Series(row)


# --- summaries


def test_summary_by_hand() -> None:
    # Mean 4; deviations -2, 0, 2; variance 8 / 2; half width t * 2 / sqrt(3). Two degrees of
    # freedom have a closed form: t = confidence / sqrt((1 - confidence^2) / 2).
    row = summarise(table({("a", "q"): {0: 2.0, 1: 4.0, 2: 6.0}}), 0.95).iloc[0]
    half = 0.95 / ((1 - 0.95**2) / 2) ** 0.5 * 2 / 3**0.5
    assert (row["n"], row["mean"], row["sd"]) == (3, 4.0, 2.0)
    assert row["ci_low"] == pytest.approx(4 - half, rel=1e-12)
    assert row["ci_high"] == pytest.approx(4 + half, rel=1e-12)
    assert (row["unit"], row["confidence"]) == ("percent", 0.95)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_summary_agrees_with_statsmodels(confidence: float) -> None:
    metrics = synthetic.metrics()
    summary = summarise(metrics, confidence)
    assert len(summary) == 10 * 13
    for _, row in summary.iterrows():
        same = (metrics[["arm", "readout", "metric"]] == row[["arm", "readout", "metric"]]).all(
            axis=1
        )
        oracle = DescrStatsW(metrics.loc[same, "value"])
        assert row["n"] == oracle.nobs == 5
        expected = [oracle.mean, oracle.std_mean * 5**0.5, *oracle.tconfint_mean(1 - confidence)]
        assert row[["mean", "sd", "ci_low", "ci_high"]].tolist() == pytest.approx(expected)


@pytest.mark.filterwarnings("error")
def test_a_single_seed_has_no_spread_and_no_interval() -> None:
    row = summarise(table({("a", "q"): {7: 3.5}}), 0.95).iloc[0]
    assert (row["n"], row["mean"]) == (1, 3.5)
    assert row[["sd", "ci_low", "ci_high"]].isna().all()


@pytest.mark.filterwarnings("error")
def test_equal_seeds_have_no_interval() -> None:
    """A spread of zero says that the metric is coarse, not that the mean is known exactly."""
    row = summarise(table({("a", "q"): {0: 100 / 3, 1: 100 / 3, 2: 100 / 3}}), 0.95).iloc[0]
    assert (row["n"], row["mean"], row["sd"]) == (3, pytest.approx(100 / 3), 0.0)
    assert row[["ci_low", "ci_high"]].isna().all()
    nearly = {0: 0.1 + 0.2, 1: 0.3, 2: 0.3}  # equal except for rounding
    assert summarise(table({("a", "q"): nearly}), 0.95).iloc[0]["sd"] == 0.0


def test_conditions_are_kept_apart() -> None:
    metrics = table({("a", "q"): {0: 1.0, 1: 2.0}})
    others = [
        metrics.assign(checkpoint_epoch=6, value=5.0),
        metrics.assign(readout="p", value=6.0),
        metrics.assign(metric="other", unit="dimensionless", value=7.0),
        metrics.assign(epochs=30, run_id=metrics["run_id"] + "-30", value=8.0),
    ]
    summary = summarise(pd.concat([metrics, *others]), 0.95)
    assert sorted(summary["mean"]) == [1.5, 5, 6, 7, 8]
    assert (summary["n"] == 2).all()


def test_per_seed_keeps_every_value_sorted() -> None:
    metrics = synthetic.metrics()
    seeds = per_seed(metrics.sample(frac=1, random_state=0))
    assert len(seeds) == len(metrics)
    assert sorted(seeds["value"]) == sorted(metrics["value"])
    by = ["study", "dataset", "arm", "epochs", "checkpoint_epoch", "readout", "metric", "unit"]
    pd.testing.assert_frame_equal(seeds, seeds.sort_values([*by, "seed"]))


def test_empty_metrics_give_empty_tables() -> None:
    empty = synthetic.metrics().iloc[:0]
    assert summarise(empty, 0.95).empty
    assert per_seed(empty).empty
    assert paired_differences(empty, ["a"], 0.95).empty


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, float("nan")])
def test_impossible_confidence_is_refused(confidence: float) -> None:
    with pytest.raises(UserError, match="confidence"):
        interval([1.0], [1.0], [3], confidence)


# --- unusable metrics


def broken() -> dict[str, tuple[pd.DataFrame, list[str]]]:
    metrics = two_arms([1, 2, 3], [2, 3, 4])
    second_run = metrics.iloc[[1]].assign(run_id="a-1-again", metric="other")
    return {
        "duplicate": (
            pd.concat([metrics, metrics.iloc[[4]]]),
            ["measured twice", "run_id=b-1", "knn_top1@20"],
        ),
        "nan": (
            metrics.assign(value=metrics["value"].where(metrics.index != 2)),
            ["not finite", "arm=a", "seed=2", "value=nan"],
        ),
        "infinite": (metrics.replace({"value": {4.0: np.inf}}), ["seed=2", "value=inf"]),
        "empty field": (
            metrics.assign(readout=metrics["readout"].where(metrics.index != 0)),
            ["missing", "seed=0"],
        ),
        "two runs": (
            pd.concat([metrics, second_run]),
            ["more than one run_id", "arm=a", "seed=1", "run_id=a-1-again", "run_id=a-1 "],
        ),
        "two units": (
            metrics.assign(unit=["percent"] * 5 + ["dimensionless"]),
            ["more than one unit", "knn_top1@20"],
        ),
        "no column": (metrics.drop(columns="seed"), ["seed"]),
    }


@pytest.mark.parametrize("name", broken())
def test_unusable_metrics_are_refused_by_name(name: str) -> None:
    metrics, words = broken()[name]
    for compute in (
        per_seed,
        lambda frame: summarise(frame, 0.95),
        lambda frame: paired_differences(frame, ("a", "b"), 0.95),
    ):
        with pytest.raises(UserError) as caught:
            compute(metrics)
        for word in words:
            assert word in str(caught.value)


# --- paired differences


def test_difference_by_hand() -> None:
    # Differences 1, 3, 2: mean 2, sd 1, t = 2 sqrt(3).
    row = difference(two_arms([1, 1, 1], [2, 4, 3]))
    assert (row["minuend_arm"], row["subtrahend_arm"]) == ("b", "a")
    assert (row["n"], row["mean_difference"], row["sd"]) == (3, 2.0, 1.0)
    assert row["t"] == pytest.approx(2 * 3**0.5)
    # Two degrees of freedom have a closed form: p = 1 - t / sqrt(t^2 + 2).
    assert row["p"] == pytest.approx(1 - row["t"] / (row["t"] ** 2 + 2) ** 0.5)
    assert row["unit"] == "percent"


@pytest.mark.filterwarnings("error")
def test_differences_agree_with_scipy_and_statsmodels() -> None:
    metrics = synthetic.metrics()
    values = metrics.set_index(["metric", "arm", "readout", "seed"])["value"].sort_index()
    result = paired_differences(metrics, synthetic.ARM_ORDER, 0.9)
    for _, row in result.iterrows():
        one = values.loc[row["metric"], row["minuend_arm"], row["minuend_readout"]]
        other = values.loc[row["metric"], row["subtrahend_arm"], row["subtrahend_readout"]]
        test = stats.ttest_rel(one, other)
        assert row[["t", "p"]].tolist() == pytest.approx([test.statistic, test.pvalue])
        assert row[["ci_low", "ci_high"]].tolist() == pytest.approx(
            list(test.confidence_interval(0.9))
        )
        oracle = DescrStatsW(one - other)
        assert row["p"] == pytest.approx(oracle.ttest_mean()[1])
        assert row["mean_difference"] == pytest.approx(oracle.mean)
        assert row["sd"] == pytest.approx(np.std(one - other, ddof=1))


def test_which_pairs_are_compared_and_which_side_is_subtracted() -> None:
    result = paired_differences(synthetic.metrics(), synthetic.ARM_ORDER, 0.95)
    rows = result[result["metric"] == "effective_rank"]
    sides = ["minuend_arm", "minuend_readout", "subtrahend_arm", "subtrahend_readout"]
    parts = ("q", "p", "qp")
    expected = []
    for minuend, others in [
        ("hamjepa", ("sigreg", "identity", "mlp")),
        ("mlp", ("sigreg", "identity")),
        ("identity", ("sigreg",)),
    ]:
        for other in others:
            whole = other == "sigreg"
            expected += [(minuend, part, other, "all" if whole else part) for part in parts]
    assert list(rows[sides].itertuples(index=False, name=None)) == expected


def test_two_whole_states_are_compared() -> None:
    metrics = table({("a", "all"): {0: 1.0, 1: 2.0}, ("b", "all"): {0: 2.0, 1: 2.5}})
    assert difference(metrics)["mean_difference"] == 0.75


def test_seeds_of_one_side_alone_are_dropped_and_counted() -> None:
    metrics = table({("a", "q"): {0: 1.0, 1: 2.0, 5: 99.0}, ("b", "q"): {0: 2.0, 1: 5.0, 7: -99.0}})
    row = difference(metrics)
    assert (row["n"], row["mean_difference"]) == (2, 2.0)


@pytest.mark.filterwarnings("error")
def test_one_common_seed_or_none() -> None:
    one = difference(table({("a", "q"): {0: 1.0, 1: 4.0}, ("b", "q"): {0: 3.0}}))
    assert (one["n"], one["mean_difference"]) == (1, 2.0)
    assert one[NUMBERS[1:]].isna().all()
    none = difference(table({("a", "q"): {0: 1.0}, ("b", "q"): {1: 3.0}}))
    assert none["n"] == 0
    assert none[NUMBERS].isna().all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("b", "mean", "t", "p"),
    [
        ([1.1, 2.2, 3.3], 0.0, 0.0, 1.0),
        # In float64, these differences are 0.1 with three different rounding errors.
        ([1.2, 2.3, 3.4], 0.1, np.inf, 0.25),
        ([1.0, 2.1, 3.2], -0.1, -np.inf, 0.25),
    ],
)
def test_identical_differences(b: list[float], mean: float, t: float, p: float) -> None:
    row = difference(two_arms([1.1, 2.2, 3.3], b))
    assert row["mean_difference"] == pytest.approx(mean, abs=1e-14)
    assert (row["sd"], row["t"]) == (0.0, t)
    assert row["p"] == p
    assert row[["ci_low", "ci_high"]].isna().all()


def test_beside_a_large_value_differences_are_rounded_as_coarsely_as_it_is() -> None:
    row = difference(two_arms([1.1, 1000.1, 3.3], [1.2, 1000.2, 3.4]))
    assert (row["sd"], row["t"], row["p"]) == (0.0, np.inf, 0.25)


def test_a_tiny_real_spread_is_not_taken_for_rounding() -> None:
    row = difference(two_arms([1.0, 1.0, 1.0], [2.0, 2.0 + 1e-13, 2.0 - 1e-13]))
    assert row["sd"] == pytest.approx(1e-13, rel=0.01)


def test_arm_order_has_to_name_every_arm_once() -> None:
    metrics = two_arms([1, 2], [3, 4])
    with pytest.raises(UserError, match="lacks the arm 'b'"):
        paired_differences(metrics, ["a"], 0.95)
    with pytest.raises(UserError, match="twice"):
        paired_differences(metrics, ["a", "b", "a"], 0.95)
    assert len(paired_differences(metrics, ["never_run", "a", "b"], 0.95)) == 1


# --- invariances

VALUES = st.floats(-100, 100).map(lambda value: round(value, 4))
PAIRS = st.lists(st.tuples(VALUES, VALUES), min_size=2, max_size=6)


@settings(max_examples=15, deadline=None)
@given(pairs=PAIRS, data=st.data())
def test_the_order_of_rows_changes_no_bit(pairs: list[tuple[float, float]], data: st.DataObject):
    metrics = two_arms(*map(list, zip(*pairs, strict=True)))
    shuffled = metrics.iloc[data.draw(st.permutations(range(len(metrics))))]
    for compute in (
        per_seed,
        lambda frame: summarise(frame, 0.95),
        lambda frame: paired_differences(frame, ("a", "b"), 0.95),
    ):
        pd.testing.assert_frame_equal(compute(metrics), compute(shuffled), check_exact=True)


@settings(max_examples=15, deadline=None)
@given(pairs=PAIRS)
def test_swapping_the_arms_flips_the_signs(pairs: list[tuple[float, float]]) -> None:
    metrics = two_arms(*map(list, zip(*pairs, strict=True)))
    row, swapped = difference(metrics), difference(metrics, ("b", "a"))
    assert swapped["mean_difference"] == -row["mean_difference"]
    assert (swapped["sd"], swapped["t"]) == (row["sd"], -row["t"])
    assert swapped["p"] == row["p"]
    bounds = [-row["ci_high"], -row["ci_low"]]
    np.testing.assert_array_equal(swapped[["ci_low", "ci_high"]].astype(float), bounds)


@settings(max_examples=15, deadline=None)
@given(pairs=PAIRS, constant=VALUES)
def test_a_constant_on_both_sides_cancels(
    pairs: list[tuple[float, float]], constant: float
) -> None:
    a, b = map(np.array, zip(*pairs, strict=True))
    row, moved = difference(two_arms(a, b)), difference(two_arms(a + constant, b + constant))
    names = ["mean_difference", "sd"]
    if row["sd"] > 0 and moved["sd"] > 0:  # the constant may round a small spread away
        names += ["ci_low", "ci_high"]
    assert moved[names].tolist() == pytest.approx(row[names].tolist(), abs=1e-10)


@settings(max_examples=15, deadline=None)
@given(pairs=PAIRS, exponent=st.integers(-8, 8))
def test_scaling_scales(pairs: list[tuple[float, float]], exponent: int) -> None:
    factor = 2.0**exponent  # exact in float64, so t and p must not change at all
    a, b = map(np.array, zip(*pairs, strict=True))
    row, scaled = difference(two_arms(a, b)), difference(two_arms(a * factor, b * factor))
    for name in ("mean_difference", "sd", "ci_low", "ci_high"):
        np.testing.assert_equal(scaled[name], factor * row[name])
    assert scaled["t"] == row["t"]
    assert scaled["p"] == row["p"]


@pytest.mark.parametrize(
    "module", ["statistics", "reporting.collect", "reporting.figures", "reporting.tables"]
)
def test_the_module_does_not_import_torch(module: str) -> None:
    code = f"import sys, hamjepa_audit.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
