"""Figures of seeds, differences, claims and power show the right numbers."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats
from statsmodels.stats.power import TTestPower

from hamjepa_audit.layout import Layout
from hamjepa_audit.params import load_study
from hamjepa_audit.params.audit import MarginParams
from hamjepa_audit.params.loading import study_names
from hamjepa_audit.plans.audit import AuditPlan
from hamjepa_audit.plans.figures import FIGURES, MEASURED, figures
from hamjepa_audit.plans.gain import gain_figures
from hamjepa_audit.reporting import audit_figures, seed_figures
from hamjepa_audit.reporting.drawing import Arms
from hamjepa_audit.statistics import paired_differences, summarise
from hamjepa_audit.statistics.audit import audit
from tests.conftest import REPOSITORY
from tests.unit import synthetic
from tests.unit.audited import every_verdict

ARMS = Arms.of(synthetic.ARM_ORDER, synthetic.TITLES)


@pytest.fixture(scope="module")
def plan(params_folder: Path) -> AuditPlan:
    return AuditPlan.load(Layout(params=params_folder))


@pytest.fixture(scope="module")
def metrics() -> pd.DataFrame:
    return synthetic.metrics()


def dots(axis: Axes) -> dict[str, list[float]]:
    """Sorted values of every line with a label."""
    return {
        str(line.get_label()): sorted(np.atleast_1d(line.get_ydata()))
        for line in axis.get_lines()
        if not str(line.get_label()).startswith("_")
    }


def test_every_seed_is_a_dot_and_seeds_are_joined(metrics: pd.DataFrame) -> None:
    figure = seed_figures.seed_dots(metrics, ARMS, 0.95)
    assert len(figure.axes) == 9
    first = figure.axes[0]  # kNN@20, readout q
    assert first.get_ylabel() == "kNN@20 top-1 (%)" and first.get_title() == "Readout q"
    rows = metrics[metrics["metric"] == "knn_top1@20"]
    found = dots(first)
    assert list(found) == ["SIGReg (whole state)", "Identity", "MLP (width-matched)", "HamJEPA"]
    for arm, label in zip(synthetic.ARM_ORDER, found, strict=True):
        of_arm = rows[(rows["arm"] == arm) & rows["readout"].isin(["q", "all"])]
        assert found[label] == pytest.approx(sorted(of_arm["value"]))
    grey = [line for line in first.get_lines() if line.get_color() == "0.72"]
    assert len(grey) == len(synthetic.SEEDS)
    seed = rows[(rows["seed"] == 0) & rows["readout"].isin(["q", "all"])]
    by_arm = seed.set_index("arm").loc[list(synthetic.ARM_ORDER), "value"]
    assert list(grey[0].get_ydata()) == pytest.approx(list(by_arm))


def test_the_intervals_beside_the_dots(metrics: pd.DataFrame) -> None:
    axis = seed_figures.seed_dots(metrics, ARMS, 0.9).axes[0]
    row = summarise(metrics, 0.9).set_index(["metric", "arm", "readout"])
    row = row.loc["knn_top1@20", "hamjepa", "q"]
    (segment,) = axis.collections[-1].get_segments()
    assert sorted(segment[:, 1]) == pytest.approx([row["ci_low"], row["ci_high"]])


def test_the_forest_of_differences(metrics: pd.DataFrame) -> None:
    table = paired_differences(metrics, synthetic.ARM_ORDER, 0.95)
    figure = seed_figures.difference_forest(table, ARMS)
    axis = next(a for a in figure.axes if a.get_title() == "Effective rank")
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels[0] == "Identity q" and labels[-1] == "HamJEPA qp" and len(labels) == 9
    key = ["metric", "minuend_arm", "minuend_readout", "subtrahend_arm"]
    row = table.set_index(key).loc["effective_rank", "hamjepa", "qp", "sigreg"]
    bar, dot = axis.get_lines()[-2:]
    assert list(bar.get_xdata()) == [row["ci_low"], row["ci_high"]]
    assert list(dot.get_xdata()) == [row["mean_difference"]]


def test_checkpoints_along_training_have_no_line_in_the_forest(metrics: pd.DataFrame) -> None:
    early = metrics.assign(checkpoint_epoch=1, value=metrics["value"] - 7)
    both = pd.concat([metrics, early], ignore_index=True)
    drawn = [
        seed_figures.difference_forest(paired_differences(x, synthetic.ARM_ORDER, 0.95), ARMS)
        for x in (metrics, both)
    ]
    shown = [[[list(x.get_xdata()) for x in a.get_lines()] for a in f.axes] for f in drawn]
    assert shown[0] == shown[1]


def test_no_interval_is_drawn_where_all_seeds_are_equal(metrics: pd.DataFrame) -> None:
    equal = metrics.assign(value=metrics.groupby(["metric", "arm"])["value"].transform("first"))
    axis = seed_figures.seed_dots(equal, ARMS, 0.95).axes[0]
    assert list(axis.collections) == []  # no bars
    table = paired_differences(equal, synthetic.ARM_ORDER, 0.95)
    axis = seed_figures.difference_forest(table, ARMS).axes[0]
    bars = [line for line in axis.get_lines()[1:] if len(line.get_xdata()) == 2]
    assert len(bars) == 9 and np.isnan([bar.get_xdata() for bar in bars]).all()


def test_one_arm_or_one_seed_can_be_drawn(metrics: pd.DataFrame, plan: AuditPlan) -> None:
    alone = Arms.of(("mlp",), synthetic.TITLES)
    one_arm = metrics[metrics["arm"] == "mlp"]
    assert seed_figures.seed_dots(one_arm, alone, 0.95).axes
    nothing = paired_differences(one_arm, ("mlp",), 0.95)
    assert seed_figures.difference_forest(nothing, alone).texts
    assert audit_figures.power_curves(nothing, alone, plan.params).legends
    one_seed = metrics[metrics["seed"] == 0]
    table = paired_differences(one_seed, synthetic.ARM_ORDER, 0.95)
    assert seed_figures.seed_dots(one_seed, ARMS, 0.95).axes
    forest = seed_figures.difference_forest(table, ARMS)
    assert len(forest.axes) == 6
    assert forest.get_supxlabel() == "Difference from SIGReg, paired by seed: mean (1 seed)"
    assert audit_figures.power_curves(table, ARMS, plan.params).legends


def test_power_is_that_of_the_paired_t_test(metrics: pd.DataFrame, plan: AuditPlan) -> None:
    table = paired_differences(metrics, synthetic.ARM_ORDER, 0.95)
    axis = audit_figures.power_curves(table, ARMS, plan.params).axes[0]
    key = ["metric", "minuend_arm", "minuend_readout", "subtrahend_arm"]
    sd = table.set_index(key).loc[("knn_top1@20", "hamjepa", "q", "sigreg"), "sd"]
    line = next(line for line in axis.get_lines() if line.get_label() == "HamJEPA")
    for n, shown in zip(line.get_xdata(), line.get_ydata(), strict=True):
        if n > 50:  # statsmodels gives NaN
            break
        oracle = TTestPower().power(1.0 / sd, n, 0.05)
        assert shown == pytest.approx(100 * oracle, abs=1e-3)


def test_each_accuracy_has_its_row_and_its_margin(metrics: pd.DataFrame, plan: AuditPlan) -> None:
    parts = metrics[metrics["readout"].isin(["q", "p"])]
    arms = Arms.of(("identity", "mlp", "hamjepa"), synthetic.TITLES)
    table = paired_differences(parts, arms.order, 0.95)
    figure = audit_figures.power_curves(table, arms, plan.params)
    assert [axis.get_title().split(",")[0] for axis in figure.axes] == [
        "kNN@20 top-1", "kNN@20 top-1", "Linear probe top-1", "Linear probe top-1",
    ]  # fmt: skip
    assert [rows_of(axis) for axis in figure.axes] == [0, 0, 1, 1]
    assert [bool(axis.get_ylabel()) for axis in figure.axes] == [True, False, True, False]
    assert "a difference of 1 point from Identity" in figure.legends[0].get_title().get_text()
    margins = [
        MarginParams(metrics=("linear*",), absolute=2.0),
        *plan.params.margins,
    ]
    other = plan.params.model_copy(update={"margins": tuple(margins)})
    note = audit_figures.power_curves(table, arms, other).legends[0].get_title().get_text()
    assert "of 1 point (kNN@20 top-1) or 2 points (Linear probe top-1) from Identity" in note


def rows_of(axis: Axes) -> int:
    place = axis.get_subplotspec()
    assert place is not None
    return place.rowspan.start


@pytest.fixture(scope="module")
def verdicts(plan: AuditPlan) -> tuple[pd.DataFrame, pd.DataFrame]:
    rows = every_verdict(plan)
    tables = audit(rows[rows["study"] == "imagenet100"], plan.claims, plan.params)
    own = (table[table["study"] == "imagenet100"] for table in tables[:2])
    return tuple(own)  # type: ignore[return-value]


def bars(axis: Axes, colour: str) -> list[list[float]]:
    """The ends of the bars of one colour, from the first line to the last."""
    lines = [x for x in axis.get_lines() if x.get_color() == colour and len(x.get_xdata()) == 2]
    return [list(x.get_xdata()) for x in lines]


def test_bars_are_the_intervals_of_the_paper_and_of_ours(verdicts) -> None:
    claims, differences = (table.assign(paper_sd=2.0, paper_n=4) for table in verdicts)
    half = stats.t.ppf(0.95, 3) * 2.0 / np.sqrt(4)
    unit = claims["margin"].to_numpy()
    axis = audit_figures.claim_forest(claims, ARMS, 0.9).axes[0]
    assert np.ptp(unit) > 0
    assert bars(axis, audit_figures.PAPER) == [pytest.approx([-half / x, half / x]) for x in unit]
    near = claims[claims["deviation"].abs() <= audit_figures.FURTHEST * claims["margin"]]
    ends = near[["ci_low", "ci_high"]].sub(near["paper"], axis=0).div(near["margin"], axis=0)
    assert len(near) > 1
    assert bars(axis, audit_figures.OURS) == [
        pytest.approx(row, nan_ok=True) for row in ends.to_numpy().tolist()
    ]
    axis = audit_figures.claim_difference_forest(differences, ARMS, 0.9).axes[0]
    assert bars(axis, audit_figures.PAPER) == [
        pytest.approx([x - half, x + half]) for x in differences["paper"]
    ]
    measured = differences[differences["n"] > 0]
    assert bars(axis, audit_figures.OURS) == measured[["ci_low", "ci_high"]].to_numpy().tolist()


@pytest.mark.parametrize(("sign", "marker"), [(1, ">"), (-1, "<")])
def test_what_is_far_is_marked_at_its_side(verdicts, sign: int, marker: str) -> None:
    row = verdicts[0].iloc[:1].assign(deviation=sign * 1000 * verdicts[0]["margin"].iloc[0])
    axis = audit_figures.claim_forest(row, ARMS, 0.95).axes[0]
    (line,) = [line for line in axis.get_lines() if line.get_label() == "Ours"]
    assert line.get_marker() == marker
    assert np.sign(line.get_xdata()) == [sign] == [np.sign(axis.texts[0].get_position()[0])]


def lines_of(axis: Axes, label: str) -> list[float]:
    return [line.get_xdata()[0] for line in axis.get_lines() if line.get_label() == label]


def test_intervals_are_announced_where_there_are_any(verdicts) -> None:
    claims, differences = verdicts
    for draw, table in (
        (audit_figures.claim_forest, claims),
        (audit_figures.claim_difference_forest, differences),
    ):
        without = table.assign(ci_low=np.nan, ci_high=np.nan, paper_sd=np.nan)
        for shown, announced in ((table, True), (without, False)):
            note = draw(shown, ARMS, 0.95).legends[0].get_title().get_text()
            assert ("interval" in note) == announced


def test_claimed_differences_stand_beside_ours(verdicts) -> None:
    table = verdicts[1]
    figure = audit_figures.claim_difference_forest(table, ARMS, 0.95)
    axis = figure.axes[0]
    assert lines_of(axis, "Paper") == table["paper"].tolist()
    assert lines_of(axis, "Ours") == table["mean_difference"].dropna().tolist()
    assert [text.get_text() for text in axis.texts] == table["verdict"].tolist()
    assert {"not reproduced", "not run"} <= set(table["verdict"])


def row_labels(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_yticklabels()]


def test_what_the_paper_states_twice_is_told_apart_by_its_source(plan: AuditPlan) -> None:
    """Its abstract and an appendix give one gain with different digits."""
    tables = audit(every_verdict(plan), plan.claims, plan.params)
    for table, draw in (
        (tables.claims, audit_figures.claim_forest),
        (tables.claim_differences, audit_figures.claim_difference_forest),
    ):
        for _, rows in table.groupby(["study", "epochs"]):
            labels = row_labels(draw(rows, ARMS, 0.95))
            assert len(set(labels)) == len(labels), labels
    early = tables.claim_differences.query("study == 'cifar100' and epochs == 30")
    gain = "kNN@20 top-1: HamJEPA q − SIGReg"
    assert row_labels(audit_figures.claim_difference_forest(early, ARMS, 0.95))[:3] == [
        f"{gain}, arXiv abstract", f"{gain}, preprint C.2.1 (1)",
        "Linear probe top-1: HamJEPA q − SIGReg",
    ]  # fmt: skip


def test_claimed_numbers_are_in_margins_and_what_is_far_is_told(verdicts) -> None:
    table = verdicts[0]
    axis = audit_figures.claim_forest(table, ARMS, 0.95).axes[0]
    deviations = (table["deviation"] / table["margin"]).dropna()
    inside = deviations[deviations.abs() <= audit_figures.FURTHEST]
    shown = lines_of(axis, "Ours")
    for value in inside:
        assert any(abs(value - x) < 1e-12 for x in shown)
    beyond = [f"{value:+.0f}" for value in deviations.drop(inside.index)]
    assert beyond and set(beyond) <= {text.get_text().strip() for text in axis.texts}
    assert len(shown) == len(deviations)


def test_the_papers_interval_is_drawn_where_it_has_one(plan: AuditPlan) -> None:
    claims = audit(every_verdict(plan).iloc[:0], plan.claims, plan.params).claims
    early = claims[(claims["study"] == "cifar100") & (claims["epochs"] == 30)]
    axis = audit_figures.claim_forest(early, ARMS, 0.95).axes[0]
    row = early.iloc[0]
    reach = stats.t.ppf(0.975, 2) * row["paper_sd"] / np.sqrt(3) / row["margin"]
    assert list(axis.get_lines()[0].get_xdata()) == pytest.approx([-reach, reach])


def test_which_figures_there_are(plan: AuditPlan) -> None:
    assert plan.figures("cifar100", 30) == ["power", "claims", "claim_differences"]
    assert plan.figures("digits", 12) == ["power", "claim_differences"]
    assert plan.figures("digits", 13) == plan.figures("moon", 30) == ["power"]


def test_the_page_has_every_figure_of_a_study_in_its_order(
    plan: AuditPlan, params_folder: Path
) -> None:
    studies = {x: load_study(params_folder, x) for x in study_names(params_folder)}
    made = {name: figures(x, epochs, plan) for name, x in studies.items() for epochs in x.epochs}
    for name, shown in made.items():
        assert shown == sorted(shown, key=FIGURES.index) and set(MEASURED) < set(shown), name
        assert {"power", *gain_figures(studies[name])} <= set(shown)
    assert {figure for shown in made.values() for figure in shown} == set(FIGURES)
    assert "accuracy_against_rank" not in made["digits"]


def test_every_figure_of_the_page_has_a_caption() -> None:
    captions = {path.stem for path in (REPOSITORY / "workflow/report").glob("*.rst")}
    assert captions == set(FIGURES)


def test_the_selection_changes_with_what_is_claimed_and_how_it_is_tested(plan: AuditPlan) -> None:
    first = plan.selection()
    fewer = AuditPlan(
        plan.layout, plan.claims.model_copy(update={"statements": ()}), plan.params
    ).selection()
    other = AuditPlan(
        plan.layout, plan.claims, plan.params.model_copy(update={"power": 0.9})
    ).selection()
    assert first == plan.selection()
    assert len({str(content) for content in (first, fewer, other)}) == 3
