"""A study's figures show the right numbers."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from hamjepa_audit.errors import UserError
from hamjepa_audit.plans.figures import MEASURED
from hamjepa_audit.reporting import figures as drawn
from hamjepa_audit.reporting.drawing import Arms
from hamjepa_audit.reporting.figures import study_figures
from hamjepa_audit.reporting.style import COLOURS, save
from hamjepa_audit.statistics import summarise
from tests.unit import synthetic

ORDER = synthetic.ARM_ORDER
ARMS = Arms.of(ORDER, synthetic.TITLES)


@pytest.fixture(scope="module")
def data() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    return synthetic.metrics(), synthetic.curves(points=64), synthetic.history()


def panels(figure: Figure) -> dict[str, dict[str, object]]:
    return {
        axis.get_title(): {line.get_label(): line for line in axis.get_lines()}
        for axis in figure.axes
    }


def test_knn_sweep_draws_the_means(data) -> None:
    found = panels(drawn.knn_sweep(data[0], ARMS, 0.95))
    assert list(found) == ["Readout q", "Readout p", "Readout qp"]
    rows = data[0][(data[0]["arm"] == "mlp") & (data[0]["readout"] == "p")]
    line = found["Readout p"]["MLP (width-matched)"]
    assert tuple(line.get_xdata()) == synthetic.NEIGHBOURS
    for k, shown in zip(line.get_xdata(), line.get_ydata(), strict=True):
        assert shown == pytest.approx(rows[rows["metric"] == f"knn_top1@{k}"]["value"].mean())
    for lines in found.values():
        assert set(lines) == {"SIGReg (whole state)", "Identity", "MLP (width-matched)", "HamJEPA"}
        assert lines["SIGReg (whole state)"].get_linestyle() == "--"
        assert lines["HamJEPA"].get_linestyle() == "-"


def test_knn_sweep_band_is_the_t_interval(data) -> None:
    metrics = data[0][data[0]["arm"] == "sigreg"]
    axis = drawn.knn_sweep(metrics, ARMS, 0.9).axes[0]
    row = summarise(metrics, 0.9).set_index("metric").loc["knn_top1@20"]
    (path,) = axis.collections[0].get_paths()
    at_20 = path.vertices[path.vertices[:, 0] == 20, 1]
    assert [at_20.min(), at_20.max()] == pytest.approx([row["ci_low"], row["ci_high"]])
    assert [text.get_text() for text in axis.get_xticklabels()] == list(
        map(str, synthetic.NEIGHBOURS)
    )


def test_an_arm_has_one_colour_everywhere(data) -> None:
    figures = [
        drawn.knn_sweep(data[0], ARMS, 0.95),
        drawn.eigenspectra(data[1], ARMS),
        drawn.training_curves(data[2], ARMS),
    ]
    for figure in figures:
        for lines in panels(figure).values():
            for label, line in lines.items():
                arm = next(a for a in ORDER if label.startswith(synthetic.TITLES[a]))
                assert line.get_color() == COLOURS[ORDER.index(arm)]


def test_histograms_share_bins_and_hold_everything(data) -> None:
    for draw in (drawn.cosine_histograms, drawn.norm_histograms):
        stairs = [patch for axis in draw(data[1], ARMS).axes for patch in axis.patches]
        edges = stairs[0].get_data().edges
        for patch in stairs:
            np.testing.assert_array_equal(patch.get_data().edges, edges)
            assert patch.get_data().values.sum() == pytest.approx(100)


def test_a_collapsed_arm_can_be_drawn(data) -> None:
    constant = data[1].assign(value=1.0)
    assert drawn.cosine_histograms(constant, ARMS).axes
    dead = data[1].assign(value=data[1]["value"].where(data[1]["position"] < 200, 0.0))
    line = panels(drawn.eigenspectra(dead, ARMS))["Readout q"]["HamJEPA"]
    assert max(line.get_xdata()) == 199


def test_training_curves_show_every_term_in_order(data) -> None:
    found = panels(drawn.training_curves(data[2], ARMS))
    assert list(found)[-3:] == [
        "Total (weighted)",
        "Gradient norm (before clipping)",
        "Learning rate (last step)",
    ]
    assert set(found["SIGReg"]) == {"SIGReg"}
    rows = data[2][(data[2]["arm"] == "mlp") & (data[2]["term"] == "budget")]
    shown = found["Budget"]["MLP (width-matched)"].get_ydata()
    assert shown == pytest.approx(rows.groupby("epoch")["value"].mean().to_numpy())


def test_every_axis_is_labelled(data) -> None:
    for figure in (
        drawn.knn_sweep(data[0], ARMS, 0.95),
        drawn.eigenspectra(data[1], ARMS),
        drawn.cosine_histograms(data[1], ARMS),
        drawn.norm_histograms(data[1], ARMS),
        drawn.training_curves(data[2], ARMS),
    ):
        assert figure.axes[0].get_ylabel()
        assert all(axis.get_xlabel() for axis in figure.axes[-3:])
        assert len(figure.legends) == 1


def test_legend_lies_outside_the_panels(data) -> None:
    figure = drawn.knn_sweep(data[0], ARMS, 0.95)
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert all(axis.get_tightbbox().y0 >= legend.y1 - 1 for axis in figure.axes)
    assert legend.y0 >= 0


def test_study_figures_are_reproducible(data, tmp_path: Path, monkeypatch) -> None:
    def arm(frame: pd.DataFrame) -> pd.DataFrame:
        return frame[frame["arm"] == "sigreg"]

    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    written = study_figures(*map(arm, data), ARMS, tmp_path / "one", 0.95)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    again = [
        *save(drawn.knn_sweep(arm(data[0]), ARMS, 0.95), tmp_path / "two", "knn_sweep_e12"),
        *save(drawn.norm_histograms(arm(data[1]), ARMS), tmp_path / "two", "norm_histograms_e12"),
    ]
    assert [file.name for file in written] == [
        f"{kind}_e12.{ending}" for kind in MEASURED for ending in ("png", "pdf")
    ]
    for file in again:
        assert file.read_bytes() == (tmp_path / "one" / file.name).read_bytes()


def test_figures_refuse_what_they_cannot_show(data, tmp_path: Path) -> None:
    metrics, curves, history = data
    early = metrics.assign(checkpoint_epoch=3)
    with pytest.raises(UserError, match="last epoch"):
        drawn.knn_sweep(early, ARMS, 0.95)
    with pytest.raises(UserError, match="'eigenvalue'"):
        drawn.eigenspectra(curves[curves["curve"] != "eigenvalue"], ARMS)
    with pytest.raises(UserError, match="'epochs'"):
        drawn.training_curves(pd.concat([history, history.assign(epochs=30)]), ARMS)
    with pytest.raises(UserError, match="unknown arm 'hamjepa'"):
        drawn.knn_sweep(metrics, Arms.of(ORDER[:3], synthetic.TITLES), 0.95)
    with pytest.raises(UserError, match="no title"):
        Arms.of([*ORDER, "new"], synthetic.TITLES)
    with pytest.raises(UserError, match="8 arms"):
        Arms.of(list("abcdefgh"), dict.fromkeys("abcdefgh", "x"))
    for bad, word in (
        (history.iloc[:0], "'study'"),
        (history.assign(study="other"), "other"),
        (history.assign(epochs=30), "training_curves"),
    ):
        with pytest.raises(UserError, match=word):
            study_figures(metrics, curves, bad, ARMS, tmp_path, 0.95)
    assert not list(tmp_path.iterdir())
