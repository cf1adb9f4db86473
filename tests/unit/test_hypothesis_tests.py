"""Tests, effect sizes and power against SciPy, statsmodels and manual results; error rates."""

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import special, stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_ind, ttost_paired

from hamjepa_audit.statistics.comparison import summary
from hamjepa_audit.statistics.effect_size import (
    effect_size_interval,
    hedges_g,
    probability_of_improvement,
)
from hamjepa_audit.statistics.equivalence import tost
from hamjepa_audit.statistics.hypothesis_tests import (
    MOST_SIGNS,
    Estimate,
    holm,
    one_sample,
    p_greater,
    p_less,
    prediction_test,
    sign_flip,
    statistic,
    two_sided,
    welch,
    wilcoxon,
)
from hamjepa_audit.statistics.power import (
    detectable,
    power_to_show,
    t_test_power,
)
from hamjepa_audit.statistics.summaries import interval

RNG = np.random.default_rng
SIZES = (3, 5, 10)
DRAWS = 20_000


def samples(n: int, draws: int = DRAWS, seed: int = 0, mean: float = 0.0) -> np.ndarray:
    return RNG(seed).normal(mean, 1.0, (draws, n))


def summarised(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    return values.mean(axis=-1), values.std(axis=-1, ddof=1), values.shape[-1]


# --- tests on means


@pytest.mark.parametrize("n", SIZES)
def test_one_sample_agrees_with_scipy(n: int) -> None:
    values = samples(n, 50)
    estimate = one_sample(*summarised(values), 0.3)
    for alternative, p in (
        ("two-sided", two_sided(estimate)),
        ("greater", p_greater(estimate, 0)),
        ("less", p_less(estimate, 0)),
    ):
        oracle = stats.ttest_1samp(values, 0.3, axis=1, alternative=alternative)
        np.testing.assert_allclose(p, oracle.pvalue, rtol=1e-10)
    np.testing.assert_allclose(statistic(estimate), oracle.statistic, rtol=1e-10)


@pytest.mark.parametrize(("n", "m"), [(3, 3), (5, 3), (10, 3), (2, 7)])
def test_welch_agrees_with_scipy(n: int, m: int) -> None:
    one, other = samples(n, 50), 3 * samples(m, 50, seed=1) + 0.5
    estimate = welch(*summarised(one), *summarised(other))
    oracle = stats.ttest_ind(one, other, axis=1, equal_var=False)
    np.testing.assert_allclose(two_sided(estimate), oracle.pvalue, rtol=1e-10)
    np.testing.assert_allclose(statistic(estimate), oracle.statistic, rtol=1e-10)
    np.testing.assert_allclose(estimate.df, oracle.df, rtol=1e-10)
    from_summaries = stats.ttest_ind_from_stats(31.45, 0.27, 3, 26.56, 0.18, 3, equal_var=False)
    table_1 = welch(31.45, 0.27, 3, 26.56, 0.18, 3)
    assert two_sided(table_1) == pytest.approx(from_summaries.pvalue, rel=1e-10)


def test_new_runs_by_hand() -> None:
    # Mean 4, sd 2, n = 3 against one new run of 10: standard error 2 sqrt(1/3 + 1) = 4 / sqrt(3).
    estimate = prediction_test(4.0, 2.0, 3, 10.0, 1)
    t = -6 / (4 / math.sqrt(3))
    assert statistic(estimate) == pytest.approx(t)
    # Two degrees of freedom have a closed form: p = 1 - |t| / sqrt(t^2 + 2).
    assert two_sided(estimate) == pytest.approx(1 - abs(t) / math.sqrt(t**2 + 2))


@pytest.mark.parametrize("correlation", [-0.6, 0.4, 0.9])
def test_new_paired_runs_by_the_matrices_of_their_variance(correlation: float) -> None:
    """Where the arms' covariance is negative, the paired variance alone is used."""
    n, runs, one, other = 6, 3, 1.3, 0.7
    off = correlation * one * other
    covariance = np.array([[one**2, off], [off, other**2]])
    difference = np.array([1.0, -1.0])
    paired = difference @ covariance @ difference
    found = prediction_test([2.0], [np.sqrt(paired)], [n], [0.5], [runs], [one], [other])
    weights = np.outer(difference, difference) / n + np.eye(2) / runs
    variance = weights @ covariance
    trace = np.trace(variance)
    error, df = np.sqrt(trace), (n - 1) * trace**2 / np.trace(variance @ variance)
    if correlation < 0:
        error, df = np.sqrt(paired * (1 / n + 1 / runs)), n - 1
    assert [*found.value, *found.error, *found.df] == pytest.approx([1.5, error, df])


@pytest.mark.filterwarnings("error")
def test_without_spread_and_with_too_few() -> None:
    constant = one_sample([1.0, 2.0], [0.0, 0.0], [5, 5], 1.0)
    assert statistic(constant).tolist() == [0.0, math.inf]
    assert two_sided(constant).tolist() == [1.0, sign_flip([1.0] * 5)] == [1.0, 2 / 2**5]
    assert tost(constant, 0.5).tolist() == [1 / 2**5, 1.0]
    both = welch(1.0, 0.0, 3, 2.0, 0.0, 3)
    assert two_sided(both) == pytest.approx(2 / math.comb(6, 3))
    assert two_sided(welch(1.0, 0.0, 3, 1.0, 0.0, 3)) == 1.0
    assert two_sided(prediction_test(2.0, 0.0, 6, 1.0, 1)) == pytest.approx(2 / 7)
    for one in (one_sample(1.0, np.nan, 1), welch(1.0, np.nan, 1, 2.0, 0.1, 3)):
        assert np.isnan(two_sided(one)) and np.isnan(tost(one, 1.0))


@pytest.mark.parametrize("n", SIZES)
def test_tost_agrees_with_statsmodels(n: int) -> None:
    for seed in range(10):
        one, other = samples(n, 1, seed)[0], 0.5 * samples(n, 1, 50 + seed)[0]
        paired = tost(one_sample(*summarised(one - other)), 1.1)
        assert paired == pytest.approx(ttost_paired(one, other, -1.1, 1.1)[0], rel=1e-10)
        unpaired = tost(welch(*summarised(one), *summarised(other)), 0.8)
        oracle = ttost_ind(one, other, -0.8, 0.8, usevar="unequal")[0]
        assert unpaired == pytest.approx(oracle, rel=1e-10)


# --- exact tests


def test_sign_flip_by_hand() -> None:
    assert sign_flip([1.0, 2.0, 3.0]) == 2 / 8
    # Sums of +-1 +-2 +-3 with absolute value >= 4: 6, 4 and their negatives.
    assert sign_flip([-1.0, 2.0, 3.0]) == 4 / 8
    assert sign_flip([0.0, 0.0]) == 1.0
    assert sign_flip([5.0]) == 1.0
    assert math.isnan(sign_flip([])) and math.isnan(sign_flip(np.ones(MOST_SIGNS + 1)))
    assert sign_flip(np.ones(MOST_SIGNS)) == 2.0 ** (1 - MOST_SIGNS)


@pytest.mark.parametrize("n", [2, 3, 5, 8, 11])
@pytest.mark.parametrize("tied", [False, True])
def test_sign_flip_agrees_with_scipy(n: int, tied: bool) -> None:
    for seed in range(4):
        values = samples(n, 1, seed, mean=0.5)[0]
        values = np.round(2 * values) / 10 if tied else values
        oracle = stats.permutation_test(
            (values,), np.sum, permutation_type="samples", n_resamples=np.inf
        )
        assert sign_flip(values) == pytest.approx(oracle.pvalue, abs=1e-12)


@pytest.mark.parametrize("n", [3, 5, 9, 12])
def test_wilcoxon_agrees_with_scipy(n: int) -> None:
    values = samples(n, 1, n, mean=0.4)[0]
    exact = stats.wilcoxon(values, method="exact").pvalue
    assert wilcoxon(values) == pytest.approx(exact, abs=1e-12)
    tied = np.append(np.round(values), [1.0, 1.0, -2.0])
    nonzero = tied[tied != 0]
    everything = stats.PermutationMethod(n_resamples=np.inf)
    exact = stats.wilcoxon(nonzero, method=everything).pvalue
    assert wilcoxon(tied) == pytest.approx(exact, abs=1e-12)


def test_wilcoxon_without_any_difference() -> None:
    assert wilcoxon([0.0, 0.0, 0.0]) == 1.0
    assert math.isnan(wilcoxon([]))


def test_holm_by_hand_and_statsmodels() -> None:
    p = np.array([0.01, 0.04, 0.03, np.nan, 0.04])
    adjusted = holm(p, ["a", "a", "a", "a", "b"])
    # Sorted 0.01, 0.03, 0.04: times 3, 2, 1, made nondecreasing.
    np.testing.assert_allclose(adjusted, [0.03, 0.06, 0.06, np.nan, 0.04])
    many = RNG(0).uniform(size=12) ** 3
    np.testing.assert_allclose(holm(many, [0] * 12), multipletests(many, method="holm")[1])
    assert holm([np.nan], ["a"]).tolist() == pytest.approx([np.nan], nan_ok=True)


# --- error rates, by simulation


@pytest.mark.parametrize("n", SIZES)
def test_intervals_cover(n: int) -> None:
    values = samples(n + 1)
    mean, sd, _ = summarised(values[:, :n])
    low, high = interval(mean, sd, np.full(DRAWS, n), 0.95)
    assert 0.93 < np.mean((low < 0) & (high > 0)) < 0.97
    new = prediction_test(mean, sd, n, values[:, n], 1)
    assert 0.93 < np.mean(two_sided(new) > 0.05) < 0.97
    other = 0.5 * samples(3, seed=9)
    three_new = prediction_test(mean, sd, n, 2 * other.mean(axis=1), 3)
    assert 0.93 < np.mean(two_sided(three_new) > 0.05) < 0.97
    equal_spread = welch(mean, sd, n, *summarised(2 * other))
    assert 0.93 < np.mean(two_sided(equal_spread) > 0.05) < 0.97


@pytest.mark.parametrize("n", SIZES)
def test_effect_size_interval_covers_and_hedges_is_unbiased(n: int) -> None:
    truth = 1.5
    mean, sd, _ = summarised(samples(n, mean=truth))
    low, high = effect_size_interval(mean, sd, n, 0.95)
    assert 0.93 < np.mean((low < truth) & (high > truth)) < 0.97
    if n > 3:  # with two degrees of freedom the estimate has no variance
        assert np.mean(hedges_g(mean, sd, n)) == pytest.approx(truth, rel=0.03)


@pytest.mark.parametrize("n", SIZES)
def test_tost_holds_its_level(n: int) -> None:
    # At the boundary of the margin, where "equivalent" is falsely concluded most often.
    for margin in (0.3, 1.0, 6.0):
        mean, sd, _ = summarised(samples(n, seed=1, mean=margin))
        assert np.mean(tost(one_sample(mean, sd, n), margin) < 0.05) < 0.055
    assert np.mean(tost(one_sample(mean, sd, n), margin) < 0.05) > 0.045  # it isn't conservative


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_holm_holds_the_error_rate_of_a_family(correlation: float) -> None:
    families, tests = 3000, 8
    shared, own = samples(1, families), samples(tests, families, seed=1)
    z = math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own
    z[:, :3] += 3  # three hypotheses are false; the error rate must hold nevertheless
    p = 2 * stats.norm.sf(np.abs(z))
    adjusted = holm(p.ravel(), np.repeat(np.arange(families), tests)).reshape(families, tests)
    assert np.mean((adjusted[:, 3:] < 0.05).any(axis=1)) < 0.06
    assert np.mean((p[:, 3:] < 0.05).any(axis=1)) > 0.08  # without Holm's correction


# --- effect sizes


def test_hedges_by_hand() -> None:
    # J(2) = Gamma(1) / (1 Gamma(1/2)) = 1 / sqrt(pi).
    assert hedges_g(2.0, 1.0, 3) == pytest.approx(2 / math.sqrt(math.pi))
    # The usual approximation 1 - 3 / (4 df - 1).
    assert hedges_g(1.0, 1.0, 21) == pytest.approx(1 - 3 / 79, abs=1e-4)
    assert np.isnan(hedges_g([1.0, 1.0], [1.0, 0.0], [2, 5])).all()


def test_two_differences_have_no_effect_size_interval() -> None:
    assert np.isnan(effect_size_interval([1.0], [1.0], [2], 0.9)).all()


@pytest.mark.parametrize("mean", [-2.0, 0.05, 3.0, 30.0])
@pytest.mark.parametrize("n", SIZES)
def test_effect_size_interval_inverts_the_noncentral_t(mean: float, n: int) -> None:
    low, high = effect_size_interval([mean], [1.0], [n], 0.9)
    t = mean * math.sqrt(n)
    for bound, tail in ((low[0], 0.95), (high[0], 0.05)):
        assert stats.nct.cdf(t, n - 1, bound * math.sqrt(n)) == pytest.approx(tail, abs=2e-4)


def test_probability_of_improvement_is_mann_whitneys() -> None:
    one, other = np.round(samples(7, 1)[0], 1), np.round(samples(5, 1, 3)[0], 1)
    u = stats.mannwhitneyu(one, other).statistic
    assert probability_of_improvement(one, other) == pytest.approx(u / 35)
    assert probability_of_improvement([1, 2], [1, 0]) == 3.5 / 4
    assert math.isnan(probability_of_improvement([], [1.0]))


# --- power


@pytest.mark.parametrize("n", SIZES)
def test_power_agrees_with_statsmodels(n: int) -> None:
    oracle = TTestPower()
    for effect in (0.1, 0.6, 1.5):
        power = t_test_power(effect * math.sqrt(n), n - 1, 0.05)
        assert power == pytest.approx(oracle.power(effect, n, 0.05), abs=1e-6)
    smallest = detectable(one_sample(0.0, 2.0, n), 0.05, 0.8)[0]
    assert smallest == pytest.approx(
        2 * oracle.solve_power(nobs=n, alpha=0.05, power=0.8), rel=1e-5
    )
    assert np.isnan(detectable(one_sample(0.0, np.nan, 1), 0.05, 0.8)).all()


def test_nothing_is_detectable_without_a_spread() -> None:
    assert np.isnan(detectable(one_sample(0.0, 0.0, 5), 0.05, 0.8)).all()


def test_power_with_few_degrees_of_freedom_at_a_strict_level() -> None:
    truth = Estimate(*(np.array([x]) for x in (100.0, 1.0, 2.0, 0.0)))
    expected = stats.nct.sf(stats.t.isf(5e-4, 2), 2, 100.0)
    assert expected < 1 - 1e-5 and power_to_show(truth, 5e-4) == pytest.approx(expected)


def test_equal_values_have_no_spread_but_for_rounding() -> None:
    assert np.std(np.full(3, 0.1), ddof=1) > 0
    assert summary(np.full(3, 0.1), "mean") == {"n": 3, "mean": 0.1, "sd": 0.0}


def test_far_tails_that_scipy_cannot_compute_count_as_none() -> None:
    """Its noncentral t distribution gives NaN for some of them."""
    level = 0.01 / 70
    critical = float(stats.t.ppf(1 - level / 2, 35))
    with np.errstate(invalid="ignore"):
        tails = [stats.nct.cdf(-critical, 35, x) for x in np.linspace(0, 5, 101)]
    assert np.isnan(tails).any()
    (found,) = detectable(one_sample(0.0, 6.0, 36), level, 0.8)  # whose standard error is 1
    assert t_test_power(found, 35, level) == pytest.approx(0.8)


def test_without_spread_the_exact_tests_smallest_p_has_to_be_below_the_level() -> None:
    truth = one_sample(1.0, 0.0, [4, 5, 6])
    assert power_to_show(truth, 1 / 2**5).tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("n", SIZES)
def test_power_to_show_is_that_of_the_one_sided_test(n: int) -> None:
    oracle = TTestPower()
    effects = np.array([0.1, 0.6, 1.5])
    power = power_to_show(one_sample(effects, 1.0, n), 0.05)
    expected = [oracle.power(effect, n, 0.05, alternative="larger") for effect in effects]
    assert power == pytest.approx(expected, abs=1e-6)
    # No power for absent effects, full power for huge ones; without spread, the sign test's power.
    extremes = one_sample([-1.0, 0.0, 0.0, 1.0, 1e9], [1.0, 1.0, 0.0, 0.0, 1.0], n)
    assert power_to_show(extremes, 0.05).tolist() == [0, 0, 0, 0.5**n < 0.05, 1]


def test_scipy_inverts_the_noncentral_t_both_ways() -> None:
    """`effect_size_interval` also uses this function for negative t."""
    for t in (-3.0, 3.0):
        bound = special.nctdtrinc(9, 0.025, t)
        assert stats.nct.cdf(t, 9, bound) == pytest.approx(0.025, abs=1e-6)


# --- invariances

DIFFERENCES = st.lists(
    st.floats(-100, 100).map(lambda value: round(value, 3)), min_size=2, max_size=8
)
EXACT = (sign_flip, wilcoxon)


@settings(max_examples=40, deadline=None)
@given(values=DIFFERENCES, data=st.data())
def test_exact_tests_ignore_order_sign_and_scale(values: list[float], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(values))
    for test in EXACT:
        p = test(values)
        assert 0 < p <= 1
        assert test(shuffled) == p
        assert test([-value for value in values]) == p
        assert test([8 * value for value in values]) == p


@settings(max_examples=40, deadline=None)
@given(one=DIFFERENCES, other=DIFFERENCES)
def test_improvement_of_the_other_is_the_rest(one: list[float], other: list[float]) -> None:
    both = probability_of_improvement(one, other) + probability_of_improvement(other, one)
    assert both == pytest.approx(1)


@settings(max_examples=40, deadline=None)
@given(mean=st.floats(-5, 5), sd=st.floats(0.01, 5), n=st.integers(3, 12))
def test_tests_on_means_are_symmetric_and_scale(mean: float, sd: float, n: int) -> None:
    estimate, flipped = one_sample(mean, sd, n), one_sample(-mean, sd, n)
    scaled = one_sample(4 * mean, 4 * sd, n)
    assert two_sided(estimate) == two_sided(flipped) == two_sided(scaled)
    assert tost(estimate, 1.0) == pytest.approx(tost(flipped, 1.0))
    assert tost(estimate, 1.0) == pytest.approx(tost(scaled, 4.0))
    assert tost(estimate, 2.0) <= tost(estimate, 1.0)
    assert hedges_g(mean, sd, n) == -hedges_g(-mean, sd, n)
