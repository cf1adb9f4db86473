"""What carries the gain: paired differences, compared readouts, curves over settings."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hamjepa_audit.errors import UserError
from hamjepa_audit.metrics import METRICS_SCHEMA
from hamjepa_audit.params import StudyParams, load_study
from hamjepa_audit.params.audit import load_audit
from hamjepa_audit.params.studies import GainParams
from hamjepa_audit.plans.gain import FACTORS, gain_figures, has_gain, values_of
from hamjepa_audit.reporting.gain_figures import sensitivity, what_carries_the_gain
from hamjepa_audit.reporting.gain_tables import write_gain_table
from hamjepa_audit.reporting.style import save
from hamjepa_audit.statistics.gain import MAP_METRICS, Equivalence, gain
from tests.unit.test_params import folder  # noqa: F401

SIDES = GainParams(
    baseline="sigreg", method="hamjepa", accuracies=("knn_top1@20", "linear_probe_top1")
)
SEEDS = (0, 1, 2)
EQUIVALENCE = Equivalence({name: 1.0 for name in SIDES.accuracies}, minimum_seeds=3)


@pytest.fixture(scope="module")
def study(params_folder: Path) -> StudyParams:
    return load_study(params_folder, "digits_controls")


def rows_of(study: StudyParams) -> pd.DataFrame:
    """Random accuracies of every arm, and random dynamics of arms with a predictor."""
    generator = np.random.default_rng(0)
    rows = []

    def add(arm: str, seed: int, readout: str, metric: str, value: float, unit: str) -> None:
        rows.append(
            ("digits_controls", "digits", arm, 8, seed, 8, readout, metric, value, unit,
             f"{arm}-{seed}")
        )  # fmt: skip

    for arm in study.arms:
        for seed in SEEDS:
            for readout in arm.readouts:
                for metric in SIDES.accuracies:
                    add(arm.name, seed, readout, metric, 80 + 5 * generator.random(), "percent")
            if arm.objective.kind == "phase_space":
                for readout in arm.readouts:
                    add(arm.name, seed, readout, "map_error_removed", generator.normal() / 50, "")
                add(arm.name, seed, "qp", "map_symplecticity_defect", generator.random() ** 9, "")
                drift = 0.0 if arm.name == "identity" else generator.random() ** 5
                add(arm.name, seed, "qp", "map_common_energy_drift", drift, "")
    frame = pd.DataFrame(rows, columns=METRICS_SCHEMA.names)
    return frame.assign(unit=frame["unit"].replace("", "dimensionless"))


@pytest.fixture(scope="module")
def metrics(study: StudyParams) -> pd.DataFrame:
    return rows_of(study)


@pytest.fixture(scope="module")
def table(study: StudyParams, metrics: pd.DataFrame) -> pd.DataFrame:
    return gain(metrics, [arm.name for arm in study.arms], SIDES, 0.95, EQUIVALENCE)


def values(metrics: pd.DataFrame, arm: str, readout: str, metric: str) -> np.ndarray:
    key = (metrics["arm"] == arm) & (metrics["readout"] == readout) & (metrics["metric"] == metric)
    return metrics[key].sort_values("seed")["value"].to_numpy()


@pytest.mark.parametrize(
    ("arm", "readout", "baselines", "methods"),
    [
        ("euler", "q", "all", "q"),
        ("euler", "qp", "all", "qp"),
        ("vicreg", "all", "all", "qp"),
        ("sigreg_split", "p", "all", "p"),
        ("hamjepa_k_4", "qp", "all", "qp"),
    ],
)
def test_differences_are_scipys_paired_ones(
    table: pd.DataFrame, metrics: pd.DataFrame, arm: str, readout: str, baselines: str, methods: str
) -> None:
    row = table[(table["arm"] == arm) & (table["readout"] == readout)].iloc[0]
    for metric in SIDES.accuracies:
        ours = values(metrics, arm, readout, metric)
        assert row[f"{metric}_mean"] == pytest.approx(ours.mean())
        for reference, compared in (("sigreg", baselines), ("hamjepa", methods)):
            theirs = values(metrics, reference, compared, metric)
            test = stats.ttest_rel(ours, theirs)
            low, high = test.confidence_interval(0.95)
            column = f"{metric}_minus_{reference}"
            found = row[[column, *(f"{column}_{x}" for x in ("ci_low", "ci_high", "p"))]]
            expected = [np.mean(ours - theirs), low, high, test.pvalue]
            assert found.tolist() == pytest.approx(expected)
            assert row[f"{column}_n"] == len(SEEDS)


def test_a_row_for_every_arm_and_readout_in_the_studys_order(
    study: StudyParams, table: pd.DataFrame
) -> None:
    expected = [(arm.name, readout) for arm in study.arms for readout in arm.readouts]
    assert list(zip(table["arm"], table["readout"], strict=True)) == expected
    own = table[table["arm"] == "hamjepa"]
    assert own["knn_top1@20_minus_hamjepa"].isna().all()
    assert own["knn_top1@20_minus_sigreg"].notna().all()


def test_checkpoints_along_training_have_no_part_in_it(
    study: StudyParams, metrics: pd.DataFrame, table: pd.DataFrame
) -> None:
    earlier = metrics.assign(checkpoint_epoch=4, value=metrics["value"] - 10)
    order = [arm.name for arm in study.arms]
    again = gain(pd.concat([earlier, metrics]), order, SIDES, 0.95, EQUIVALENCE)
    pd.testing.assert_frame_equal(again, table)


def test_dynamics_stand_beside_the_arm_they_are_of(
    table: pd.DataFrame, metrics: pd.DataFrame
) -> None:
    by_arm = table.set_index(["arm", "readout"])
    for readout in ("q", "qp"):
        expected = values(metrics, "euler", readout, "map_error_removed").mean()
        assert by_arm.loc[("euler", readout), "map_error_removed"] == pytest.approx(expected)
        defect = values(metrics, "euler", "qp", "map_symplecticity_defect").mean()
        assert by_arm.loc[("euler", readout), "map_symplecticity_defect"] == pytest.approx(defect)
    assert np.isnan(by_arm.loc[("sigreg", "all"), "map_error_removed"])


def test_a_metric_that_an_arm_lacks_leaves_the_seeds_of_others_whole_numbers(
    study: StudyParams, metrics: pd.DataFrame, tmp_path: Path
) -> None:
    lacking = (metrics["arm"] == "euler") & (metrics["metric"] == "linear_probe_top1")
    found = gain(metrics[~lacking], [arm.name for arm in study.arms], SIDES, 0.95, EQUIVALENCE)
    column = "linear_probe_top1_n"
    assert found[column].dtype == np.int64
    assert (found[column] == np.where(found["arm"] == "euler", 0, len(SEEDS))).all()
    write_gain_table(found, {arm.name: arm.title for arm in study.arms}, SIDES, tmp_path)
    text = (tmp_path / "gain.md").read_text()
    assert "(3)" in text and "(3.0)" not in text


def with_differences(metrics: pd.DataFrame, by_arm: dict[str, list[float]]) -> pd.DataFrame:
    """Sets the differences of some arms' whole-state accuracies to HamJEPA's, seed by seed."""
    changed = metrics.copy()
    for metric in SIDES.accuracies:
        reference = values(metrics, "hamjepa", "qp", metric)
        for arm, differences in by_arm.items():
            for seed, difference in zip(SEEDS, differences, strict=True):
                key = (changed["arm"] == arm) & (changed["readout"] == "qp")
                key &= (changed["metric"] == metric) & (changed["seed"] == seed)
                changed.loc[key, "value"] = reference[seed] + difference
    return changed


def test_a_small_difference_is_told_from_one_that_is_not_settled(
    study: StudyParams, metrics: pd.DataFrame
) -> None:
    cases = {
        "identity": [0.1, -0.1, 0.05],  # small
        "frozen": [0.21, 0.2, 0.19],  # nonzero, but small
        "symplectic_euler": [0.7, 0.1, 0.4],  # small with p = 0.037
        "mlp": [-5.0, -5.2, -4.9],
        "quadratic": [1.0, -2.0, 3.0],
        "euler": [1.2, 1.25, 1.1],  # nonzero, and not shown to be small
        "volume_preserving": [0.8, -0.7, 0.5],  # a mean within the margin shows nothing
    }
    order = [arm.name for arm in study.arms]
    changed = with_differences(metrics, cases)
    rows = gain(changed, order, SIDES, 0.95, EQUIVALENCE)
    whole = rows[rows["readout"] == "qp"].set_index("arm")
    column = "linear_probe_top1_minus_hamjepa"
    assert whole.loc[list(cases), f"{column}_reading"].tolist() == [
        "within margin", "within margin", "within margin", "differs", "undecided", "differs",
        "undecided",
    ]  # fmt: skip
    for arm, differences in cases.items():
        sides = [
            stats.ttest_1samp(differences, -1.0, alternative="greater").pvalue,
            stats.ttest_1samp(differences, 1.0, alternative="less").pvalue,
        ]
        assert whole.loc[arm, f"{column}_p_equivalence"] == pytest.approx(max(sides), rel=1e-6)
    assert pd.isna(whole.loc["hamjepa", f"{column}_reading"])
    few = gain(changed, order, SIDES, 0.95, EQUIVALENCE._replace(minimum_seeds=4))
    assert set(few[f"{column}_reading"].dropna()) == {"undecided"}


def test_margins_are_those_of_the_accuracies(params_folder: Path) -> None:
    audit = load_audit(params_folder)
    assert [audit.absolute_margin(name) for name in SIDES.accuracies] == [1.0, 1.0]
    with pytest.raises(UserError, match="'effective_rank' is a share of a paper's value"):
        audit.absolute_margin("effective_rank")
    with pytest.raises(UserError, match="no equivalence margin for the metric 'loss'"):
        audit.absolute_margin("loss")


def test_settings_and_the_arms_that_vary_them(study: StudyParams) -> None:
    found = {factor.symbol: values_of(study, factor) for factor in FACTORS}
    assert found["K"] == {"hamjepa_k_1": 1, "hamjepa": 2, "hamjepa_k_4": 4, "hamjepa_k_8": 8}
    assert list(found["dt"].values()) == [0.01, 0.05, 0.1, 0.2]
    assert list(found["λ"].values()) == [0.002, 0.006, 0.02, 0.06, 0.2]
    assert "sigreg_clip" not in found["λ"] and "euler" not in found["K"]


def test_two_values_of_a_setting_make_no_curve(study: StudyParams) -> None:
    few = [arm for arm in study.arms if arm.name in ("sigreg", "hamjepa", "hamjepa_k_4")]
    fewer = study.model_copy(update={"arms": tuple(few)})
    assert [values_of(fewer, factor) for factor in FACTORS] == [{}, {}, {}]
    assert gain_figures(fewer) == ["what_carries_the_gain"]


def test_which_studies_have_what(params_folder: Path, folder: Path) -> None:  # noqa: F811
    studies = {name: load_study(params_folder, name) for name in ("digits", "digits_controls")}
    assert gain_figures(studies["digits"]) == ["what_carries_the_gain"]
    assert gain_figures(studies["digits_controls"]) == [
        "what_carries_the_gain", "leapfrog_sensitivity", "sigreg_sensitivity",
    ]  # fmt: skip
    text = (folder / "studies" / "digits.yaml").read_text()
    (folder / "studies" / "digits.yaml").write_text(text + "arms: [sigreg, hamjepa]\n")
    assert not has_gain(load_study(folder, "digits"))


def test_the_table_is_written_to_be_read(
    study: StudyParams, table: pd.DataFrame, tmp_path: Path
) -> None:
    titles = {arm.name: arm.title for arm in study.arms}
    files = write_gain_table(table, titles, SIDES, tmp_path)
    assert {path.name for path in files} == {
        f"gain.{ending}" for ending in ("csv", "md", "tex", "parquet")
    }
    lines = (tmp_path / "gain.md").read_text().splitlines()
    assert len(lines) == len(table) + 2
    assert "kNN@20 top-1 (%) − SIGReg" in lines[0] and "Symplecticity defect" in lines[0]
    assert "Common energy drift" in lines[0]
    row = table[(table["arm"] == "euler") & (table["readout"] == "q")].iloc[0]
    column = "knn_top1@20_minus_sigreg"
    text = f"{row[column]:.2f} [{row[f'{column}_ci_low']:.2f}, {row[f'{column}_ci_high']:.2f}]"
    assert f"{text}, undecided" in next(line for line in lines if "Explicit Euler" in line)


def test_equal_differences_have_a_reading_but_no_interval(
    study: StudyParams, metrics: pd.DataFrame, tmp_path: Path
) -> None:
    order, titles = [arm.name for arm in study.arms], {a.name: a.title for a in study.arms}
    changed = with_differences(metrics, {"mlp": [0.5] * 3, "quadratic": [3.0] * 3})
    rows = gain(changed, order, SIDES, 0.8, EQUIVALENCE)
    write_gain_table(rows, titles, SIDES, tmp_path)
    lines = (tmp_path / "gain.md").read_text().splitlines()
    for arm, text in (("mlp", "0.50 –, within margin"), ("quadratic", "3.00 –, undecided")):
        line = next(x for x in lines if titles[arm] in x and " qp " in x)
        assert text in line
    few = gain(changed[changed["seed"] == 0], order, SIDES, 0.8, EQUIVALENCE)
    write_gain_table(few, titles, SIDES, tmp_path)
    assert "–," not in (tmp_path / "gain.md").read_text()
    two = gain(metrics[metrics["seed"] < 2], order, SIDES, 0.8, EQUIVALENCE)
    write_gain_table(two, titles, SIDES, tmp_path)
    row = two[(two["arm"] == "mlp") & (two["readout"] == "qp")].iloc[0]
    column = "knn_top1@20_minus_sigreg"
    assert f"[{row[f'{column}_ci_low']:.2f}, " in (tmp_path / "gain.md").read_text()


def test_what_a_map_does_stands_below_its_heading(
    study: StudyParams, table: pd.DataFrame, tmp_path: Path
) -> None:
    places = {name: 1.0 + place for place, name in enumerate(MAP_METRICS)}
    write_gain_table(table.assign(**places), {a.name: a.title for a in study.arms}, SIDES, tmp_path)
    heading, _, line, *_ = (tmp_path / "gain.md").read_text().splitlines()
    fields = [[x.strip() for x in re.split(r"(?<!\\)\|", text)] for text in (heading, line)]
    shown = dict(zip(*fields, strict=True))
    assert shown["Error removed"] == "1.000" and shown["Symplecticity defect"] == "4.000"
    assert shown["Common energy drift"] == "7.000" and shown["Common energy growth"] == "8.000"
    assert shown["Own energy drift"] == "9.000"
    assert heading.index("(%) − SIGReg") < heading.index("(%) − HamJEPA")


def test_the_figure_has_a_point_for_every_difference(
    study: StudyParams, table: pd.DataFrame
) -> None:
    titles = {arm.name: arm.title for arm in study.arms}
    figure = what_carries_the_gain(table, titles, SIDES, 0.95, EQUIVALENCE.margins)
    assert next(label.get_text() for label in figure.axes[0].get_yticklabels()) == "SIGReg"
    baseline, method = (container[0] for container in figure.axes[0].containers)
    whole = table[table["readout"].isin(["qp", "all"])]
    assert np.array_equal(
        baseline.get_xdata(), whole["knn_top1@20_minus_sigreg"].to_numpy(), equal_nan=True
    )
    assert np.isnan(method.get_xdata()[-1])
    (bars,) = figure.axes[0].containers[0][2]
    ends = whole[["knn_top1@20_minus_sigreg_ci_low", "knn_top1@20_minus_sigreg_ci_high"]].dropna()
    found = [bar[:, 0] for bar in bars.get_segments() if len(bar)]
    assert np.allclose(found, ends) and len(ends) > 1
    (drifts,) = figure.axes[-1].get_lines()
    for axis in figure.axes[:2]:
        (band,) = axis.patches
        assert (band.get_x(), band.get_width()) == (-1.0, 2.0)
    expected = whole["map_common_energy_drift"].clip(lower=1e-16).to_numpy()
    assert np.array_equal(drifts.get_xdata(), expected, equal_nan=True)
    assert expected[whole["arm"] == "identity"] == 1e-16 and np.isnan(expected[0])


def test_figures_of_one_seed_announce_no_interval(
    study: StudyParams, metrics: pd.DataFrame, table: pd.DataFrame
) -> None:
    titles = {arm.name: arm.title for arm in study.arms}
    one = metrics[metrics["seed"] == 0]
    rows = gain(one, [arm.name for arm in study.arms], SIDES, 0.95, EQUIVALENCE)
    settings = {FACTORS[0]: values_of(study, FACTORS[0])}
    for chosen, shown, announced in ((metrics, table, True), (one, rows, False)):
        curves = chosen[chosen["metric"] == "knn_top1@20"]
        for figure in (
            what_carries_the_gain(shown, titles, SIDES, 0.95, EQUIVALENCE.margins),
            sensitivity(curves, settings, SIDES, {"hamjepa": "HamJEPA"}, 0.95),
        ):
            note = figure.legends[0].get_title().get_text()
            assert ("95% t interval" in note) == announced and "1 seeds" not in note


def test_curves_go_through_the_means(
    study: StudyParams, metrics: pd.DataFrame, tmp_path: Path
) -> None:
    settings = {FACTORS[0]: values_of(study, FACTORS[0])}
    shown = metrics[metrics["metric"].isin(["knn_top1@20", "map_error_removed"])]
    figure = sensitivity(shown, settings, SIDES, {"hamjepa": "HamJEPA"}, 0.95)
    assert figure.axes[0].get_ylabel() == "kNN@20 top-1 (%)\nminus HamJEPA"
    for axis, metric in zip(figure.axes, ("knn_top1@20", "map_error_removed"), strict=True):
        line = axis.get_lines()[0]
        assert line.get_xdata().tolist() == [1, 2, 4, 8]
        means = [values(metrics, arm, "q", metric).mean() for arm in settings[FACTORS[0]]]
        origin = values(metrics, "hamjepa", "q", metric).mean() if metric[0] == "k" else 0.0
        assert line.get_ydata().tolist() == pytest.approx([mean - origin for mean in means])
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    ours, theirs = (values(metrics, arm, "q", "knn_top1@20") for arm in ("hamjepa_k_8", "hamjepa"))
    paired = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert band[band[:, 0] == 8, 1].min() == pytest.approx(paired.low)
    for ending in save(figure, tmp_path, "curves"):
        assert ending.stat().st_size > 0


def test_differences_that_are_equal_but_for_rounding_have_no_band(
    study: StudyParams, metrics: pd.DataFrame
) -> None:
    """These are of one image in 360, in which the seeds' accuracies lose different digits."""
    settings = {FACTORS[0]: values_of(study, FACTORS[0])}
    shown = metrics[(metrics["metric"] == "knn_top1@20") & (metrics["readout"] == "q")].copy()
    for seed, images in zip(SEEDS, (311, 318, 329), strict=True):
        for arm, more in (("hamjepa", 0), ("hamjepa_k_8", 1)):
            of_run = (shown["arm"] == arm) & (shown["seed"] == seed)
            shown.loc[of_run, "value"] = 100 * ((images + more) / 360)
    (axis,) = sensitivity(shown, settings, SIDES, {"hamjepa": "HamJEPA"}, 0.95).axes
    (line,) = axis.get_lines()
    assert line.get_ydata()[-1] == pytest.approx(100 / 360)
    bands = [path.vertices for drawn in axis.collections for path in drawn.get_paths()]
    assert {x for band in bands for x in band[:, 0]} == {1, 2, 4}


@pytest.mark.parametrize("names", [1, 2, 4])
def test_every_setting_has_a_row_of_its_own(
    study: StudyParams, metrics: pd.DataFrame, names: int
) -> None:
    """This holds for any number of accuracies."""
    settings = {factor: values_of(study, factor) for factor in FACTORS[:2]}
    one = metrics[metrics["metric"] == "knn_top1@20"]
    several = pd.concat([one.assign(metric=f"knn_top1@{k}") for k in range(1, names + 1)])
    figure = sensitivity(several, settings, SIDES, {"hamjepa": "HamJEPA"}, 0.95)
    found = [(axis.get_subplotspec().rowspan.start, axis.get_xlabel()) for axis in figure.axes]
    assert found == [(0, "K")] * names + [(1, "dt")] * names
