"""A study's tables in four formats."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hamjepa_audit.bookkeeping.table_provenance import FORMS
from hamjepa_audit.errors import UserError
from hamjepa_audit.files import sha256_file
from hamjepa_audit.parquet import read_parquet
from hamjepa_audit.reporting.formatting import displayed, latex
from hamjepa_audit.reporting.order import in_reading_order
from hamjepa_audit.reporting.tables import OF_DIFFERENCES, overview, study_tables, write_tables
from hamjepa_audit.statistics import summarise
from tests.unit import synthetic

ORDER = synthetic.ARM_ORDER
ENDINGS = ("csv", "md", "tex", "parquet")


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


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
    assert set(table.schema.metadata) == {FORMS}  # not pandas' metadata, which contains versions


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
                assert set(table.schema.metadata) == {b"origin", FORMS}
                assert table.schema.metadata[b"origin"] == b"made of x"
                assert table.equals(read_parquet(before))  # except the metadata


def test_differences_say_what_their_intervals_are_of(tmp_path: Path) -> None:
    study_tables(synthetic.metrics(), ORDER, 0.95, tmp_path)
    for ending, note in (("md", OF_DIFFERENCES), ("tex", f"% {OF_DIFFERENCES}")):
        files = tmp_path.glob(f"*.{ending}")
        assert [f.stem for f in files if note in f.read_text().splitlines()] == ["differences"]


def test_a_table_knows_the_digests_of_its_other_forms(tmp_path: Path) -> None:
    *others, parquet = write_tables(example(), tmp_path, "sealed")
    forms = json.loads(read_parquet(parquet, sealed=True).schema.metadata[FORMS])
    assert forms == {file.name: sha256_file(file) for file in others}


def test_rows_come_in_reading_order(tmp_path: Path) -> None:
    study_tables(synthetic.metrics(), ORDER, 0.95, tmp_path)
    summary = pd.read_csv(tmp_path / "summary.csv")
    assert tuple(summary["arm"].unique()) == ORDER
    of_arm = summary[summary["arm"] == "mlp"]
    assert of_arm["readout"].unique().tolist() == ["q", "p", "qp"]
    sweep = [name for name in of_arm["metric"].unique() if name.startswith("knn")]
    assert sweep == [*(f"knn_top1@{k}" for k in synthetic.NEIGHBOURS), "knn_top1@best"]


def test_rows_of_a_metric_come_in_the_order_of_checkpoints() -> None:
    summary = summarise(synthetic.metrics(), 0.95)
    late, early = (summary.assign(epochs=80, checkpoint_epoch=epoch) for epoch in (80, 9))
    ordered = in_reading_order(pd.concat([late, early]), ORDER)
    assert ordered["checkpoint_epoch"].tolist() == [9] * len(summary) + [80] * len(summary)


def test_differences_come_in_the_order_that_they_are_taken_in(tmp_path: Path) -> None:
    study_tables(synthetic.metrics(), ORDER, 0.95, tmp_path)
    differences = pd.read_csv(tmp_path / "differences.csv")
    sweep = [x for x in differences["metric"].unique() if x.startswith("knn_top1@")]
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
    without = wide[(wide["arm"] == "mlp") & (wide["readout"] == "q")].iloc[0]
    assert without["effective_rank_n"] == 0 and np.isnan(without["effective_rank_mean"])
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
