import csv
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, strategies as st
from matplotlib.figure import Figure

from hamjepa_audit.errors import UserError
from hamjepa_audit.files import read_parquet
from hamjepa_audit.metrics import CURVES_SCHEMA, HISTORY_SCHEMA, METRICS_SCHEMA
from hamjepa_audit.reporting import (
    collect,
    figures as drawn,
    overview,
    study_figures,
    study_tables,
    write_tables,
)
from hamjepa_audit.reporting.drawing import Arms
from hamjepa_audit.reporting.formatting import displayed, latex, latex_text, number, p_value
from hamjepa_audit.reporting.style import COLOURS, save
from hamjepa_audit.statistics import summarise
from tests.unit import synthetic

ORDER = synthetic.ARM_ORDER
ARMS = Arms.of(ORDER, synthetic.TITLES)
ENDINGS = ("csv", "md", "tex", "parquet")


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


# --- rounding


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
        ("-0.12 ± 0.03 (5)", r"$-$0.12 $\pm$ 0.03 (5)"),
        ("digits-mlp-e12", "digits-mlp-e12"),
        ("[x]", "{[}x]"),
        ("two\nlines", "two lines"),
    ],
)
def test_latex_escapes(text: str, escaped: str) -> None:
    assert latex_text(text) == escaped


# --- tables


def example() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "arm": ["a_1", "b|c"],
            "unit": ["percent", "dimensionless"],
            "n": [5, 1],
            "mean": [100 / 3, 1 / 3],
            "sd": [0.1, float("nan")],
            "t": [12.3456, float("nan")],
            "p": [0.0004, 0.25],
            "confidence": [0.95, 0.95],
        }
    )


def test_one_table_four_ways(tmp_path: Path) -> None:
    written = write_tables(example(), tmp_path / "new", "numbers")
    assert written == [tmp_path / "new" / f"numbers.{ending}" for ending in ENDINGS]
    assert set(contents(tmp_path / "new")) == {file.name for file in written}
    assert written[1].read_text().splitlines() == [
        "| Arm   | Unit          |   n |   Mean |   SD |     t |      p |   Confidence |",
        "|:------|:--------------|----:|-------:|-----:|------:|-------:|-------------:|",
        "| a_1   | percent       |   5 |  33.33 | 0.10 | 12.35 | <0.001 |          95% |",
        r"| b\|c  | dimensionless |   1 | 0.3333 |    – |     – |  0.250 |          95% |",
    ]
    assert written[2].read_text().splitlines() == [
        r"\begin{tabular}{llrrrrrr}",
        r"\toprule",
        r"Arm & Unit & n & Mean & SD & t & p & Confidence \\",
        r"\midrule",
        r"a\_1 & percent & 5 & 33.33 & 0.10 & 12.35 & $<$0.001 & 95\% \\",
        r"b$|$c & dimensionless & 1 & 0.3333 & -- & -- & 0.250 & 95\% \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_csv_and_parquet_keep_every_digit(tmp_path: Path) -> None:
    frame = example()
    frame["mean"] = [0.1 + 0.2, np.nextafter(1.0, 2.0)]
    text, _, _, parquet = write_tables(frame, tmp_path, "exact")
    rows = list(csv.DictReader(io.StringIO(text.read_text())))
    assert [float(row["mean"]) for row in rows] == frame["mean"].tolist()
    assert rows[1]["sd"] == ""
    table = pq.read_table(parquet)
    assert table["mean"].to_pylist() == frame["mean"].tolist()
    assert table.schema.field("arm").type == pa.string()
    assert table.schema.metadata is None


def test_a_table_without_rows_is_still_a_table(tmp_path: Path) -> None:
    for file in write_tables(example().iloc[:0], tmp_path, "empty"):
        assert file.stat().st_size > 0
    assert "Mean" in (tmp_path / "empty.md").read_text()


def test_study_tables_are_complete_and_reproducible(tmp_path: Path) -> None:
    metrics = synthetic.metrics()
    written = study_tables(metrics, ORDER, 0.95, tmp_path / "one")
    names = ("seeds", "summary", "differences", "overview")
    assert [file.name for file in written] == [f"{n}.{e}" for n in names for e in ENDINGS]
    study_tables(metrics.sample(frac=1, random_state=1), ORDER, 0.95, tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_tables_carry_a_line_on_their_origin_that_changes_no_number(tmp_path: Path) -> None:
    plain, named = (
        study_tables(synthetic.metrics(), ORDER, 0.95, tmp_path / name, origin)
        for name, origin in (("plain", None), ("named", "made of x"))
    )
    for before, after in zip(plain, named, strict=True):
        match before.suffix:
            case ".csv":
                assert after.read_bytes() == before.read_bytes()
            case ".md":
                assert after.read_text() == f"{before.read_text()}\n<!-- made of x -->\n"
            case ".tex":
                assert after.read_text() == f"% made of x\n{before.read_text()}"
            case _:
                table = read_parquet(after, sealed=True)
                assert table.schema.metadata == {b"origin": b"made of x"}
                assert table.replace_schema_metadata(None).equals(read_parquet(before))


def test_rows_come_in_reading_order(tmp_path: Path) -> None:
    study_tables(synthetic.metrics(), ORDER, 0.95, tmp_path)
    summary = pd.read_csv(tmp_path / "summary.csv")
    assert tuple(summary["arm"].unique()) == ORDER
    of_arm = summary[summary["arm"] == "mlp"]
    assert of_arm["readout"].unique().tolist() == ["q", "p", "qp"]
    sweep = [name for name in of_arm["metric"].unique() if name.startswith("knn")]
    assert sweep == [*(f"knn_top1@{k}" for k in synthetic.NEIGHBOURS), "knn_top1@best"]


def test_overview_has_mean_sd_and_n(tmp_path: Path) -> None:
    metrics = synthetic.metrics()
    metrics = metrics[~((metrics["arm"] == "mlp") & (metrics["metric"] == "effective_rank"))]
    metrics = metrics[(metrics["arm"] != "identity") | (metrics["seed"] == 3)]
    study_tables(metrics, ORDER, 0.95, tmp_path)
    wide = pd.read_csv(tmp_path / "overview.csv")
    summary = summarise(metrics, 0.95)
    row = summary[
        (summary[["arm", "readout", "metric"]] == ["hamjepa", "q", "cosine_mean"]).all(axis=1)
    ].iloc[0]
    stored = wide[(wide["arm"] == "hamjepa") & (wide["readout"] == "q")].iloc[0]
    for part in ("mean", "sd", "n"):
        assert stored[f"cosine_mean_{part}"] == row[part]
    shown = (tmp_path / "overview.md").read_text()
    assert f"{row['mean']:.4f} ± {row['sd']:.4f} (5)" in shown
    lines = {tuple(re.split(r"\s*\|\s*", line)[1:4]): line for line in shown.splitlines()}
    assert "–" in lines["mlp", "12", "q"]
    assert "±" not in lines["identity", "12", "q"]
    assert lines["identity", "12", "q"].count("(1)") == 6
    assert r"$\pm$" in (tmp_path / "overview.tex").read_text()


def test_overview_shows_the_last_epoch_alone() -> None:
    metrics = synthetic.metrics()
    early = metrics.assign(checkpoint_epoch=6, value=0.0)
    both, last = (summarise(m, 0.95) for m in (pd.concat([metrics, early]), metrics))
    pd.testing.assert_frame_equal(overview(both, ORDER), overview(last, ORDER))
    with pytest.raises(UserError, match="last epoch"):
        overview(summarise(early, 0.95), ORDER)


def test_study_tables_refuse_what_is_not_one_study(tmp_path: Path) -> None:
    metrics = synthetic.metrics()
    for bad in (pd.concat([metrics, metrics.assign(study="other")]), metrics.iloc[:0]):
        with pytest.raises(UserError, match="'study'"):
            study_tables(bad, ORDER, 0.95, tmp_path)
    with pytest.raises(UserError, match="lacks the arm 'hamjepa'"):
        study_tables(metrics, ORDER[:3], 0.95, tmp_path)
    assert not list(tmp_path.iterdir())


def test_one_arm_has_no_differences_but_tables(tmp_path: Path) -> None:
    metrics = synthetic.metrics()
    study_tables(metrics[metrics["arm"] == "mlp"], ["mlp"], 0.95, tmp_path)
    assert len((tmp_path / "differences.csv").read_text().splitlines()) == 1
    study_tables(metrics, ORDER, 0.95, tmp_path / "all")
    none, some = (pq.read_schema(f / "differences.parquet") for f in (tmp_path, tmp_path / "all"))
    assert none.equals(some)


def test_latex_rows_have_as_many_fields_as_columns() -> None:
    table = displayed(summarise(synthetic.metrics(), 0.95))
    columns = len(table.headings)
    rows = [line for line in latex(table).splitlines() if line.endswith(r"\\")]
    assert len(rows) == 131
    assert all(len(re.findall(r"(?<!\\)&", row)) == columns - 1 for row in rows)


# --- figures


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
    written = study_figures(*map(arm, data), ORDER, synthetic.TITLES, tmp_path / "one")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    again = [
        *save(drawn.knn_sweep(arm(data[0]), ARMS, 0.95), tmp_path / "two", "knn_sweep_e12"),
        *save(drawn.norm_histograms(arm(data[1]), ARMS), tmp_path / "two", "norm_histograms_e12"),
    ]
    kinds = (
        "knn_sweep",
        "seeds",
        "differences",
        "eigenspectra",
        "cosine_histograms",
        "norm_histograms",
        "training_curves",
    )
    assert [file.name for file in written] == [
        f"{kind}_e12.{ending}" for kind in kinds for ending in ("png", "pdf")
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
            study_figures(metrics, curves, bad, ORDER, synthetic.TITLES, tmp_path)
    assert not list(tmp_path.iterdir())


# --- collect


def shards(frame: pd.DataFrame, schema: pa.Schema, folder: Path) -> list[Path]:
    files = []
    for run, rows in frame.groupby("run_id"):
        files.append(folder / f"{run}.parquet")
        pq.write_table(pa.Table.from_pandas(rows, schema=schema, preserve_index=False), files[-1])
    return files


@pytest.mark.parametrize(
    ("frame", "schema"),
    [
        (synthetic.metrics(), METRICS_SCHEMA),
        (synthetic.curves(points=8), CURVES_SCHEMA),
        (synthetic.history(), HISTORY_SCHEMA),
    ],
    ids=["metrics", "curves", "history"],
)
def test_collect_is_independent_of_order(frame, schema: pa.Schema, tmp_path: Path) -> None:
    files = shards(frame.sample(frac=1, random_state=3), schema, tmp_path)
    one, two, three = (tmp_path / "out" / f"{n}.parquet" for n in range(3))
    collect(files, schema, one)
    collect(files[::-1], schema, two)
    pq.write_table(pa.Table.from_pandas(frame, schema=schema), tmp_path / "whole.parquet")
    collect([tmp_path / "whole.parquet"], schema, three)
    assert one.read_bytes() == two.read_bytes() == three.read_bytes()
    table = read_parquet(one, schema)
    assert table.num_rows == len(frame)
    key = [name for name in schema.names if name not in ("value", "unit")]
    expected = frame.sort_values(key).reset_index(drop=True)
    pd.testing.assert_frame_equal(table.to_pandas(), expected, check_dtype=False)


@pytest.mark.parametrize(
    ("frame", "schema", "column"),
    [
        (synthetic.metrics(), METRICS_SCHEMA, "readout"),
        (synthetic.curves(points=8), CURVES_SCHEMA, "position"),
        (synthetic.history(), HISTORY_SCHEMA, "term"),
    ],
    ids=["metrics", "curves", "history"],
)
def test_collect_refuses_duplicates_by_name(frame, schema, column: str, tmp_path: Path) -> None:
    files = shards(frame, schema, tmp_path)
    again = tmp_path / "again.parquet"
    pq.write_table(read_parquet(files[3]).slice(2, 1), again)
    target = tmp_path / "out.parquet"
    with pytest.raises(UserError) as caught:
        collect([*files, again], schema, target)
    message = str(caught.value)
    assert str(files[3]) in message and str(again) in message and column in message
    assert not target.exists()


def test_collect_refuses_what_is_no_measurement(tmp_path: Path) -> None:
    good = tmp_path / "good.parquet"
    rows = pa.Table.from_pandas(synthetic.metrics(), schema=METRICS_SCHEMA, preserve_index=False)
    pq.write_table(rows, good)
    target = tmp_path / "out.parquet"

    def refused(frame: pd.DataFrame, schema: pa.Schema = METRICS_SCHEMA) -> str:
        bad = tmp_path / "bad.parquet"
        pq.write_table(pa.Table.from_pandas(frame, schema=schema, preserve_index=False), bad)
        with pytest.raises(UserError) as caught:
            collect([good, bad], METRICS_SCHEMA, target)
        assert str(bad) in str(caught.value)
        return str(caught.value)

    metrics = synthetic.metrics()
    assert "readout" in refused(metrics.assign(readout=None))
    assert "finite" in refused(metrics.assign(value=np.inf))
    refused(synthetic.history(), HISTORY_SCHEMA)
    with pytest.raises(UserError, match="missing file"):
        collect([tmp_path / "absent.parquet"], METRICS_SCHEMA, target)
    with pytest.raises(UserError, match="nothing to collect"):
        collect([], METRICS_SCHEMA, target)
    truncated = tmp_path / "truncated.parquet"
    truncated.write_bytes(good.read_bytes()[:1000])
    with pytest.raises(UserError, match="Parquet"):
        collect([truncated], METRICS_SCHEMA, target)
    assert not target.exists()
