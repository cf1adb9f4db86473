"""Collecting runs' tables into one: independent of their order, and without duplicate rows."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hamjepa_audit.errors import UserError
from hamjepa_audit.metrics import CURVES_SCHEMA, HISTORY_SCHEMA, METRICS_SCHEMA
from hamjepa_audit.parquet import read_parquet
from hamjepa_audit.reporting.collect import collect
from tests.unit import synthetic


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


def test_the_same_columns_of_another_library_are_taken_and_others_named(tmp_path: Path) -> None:
    path, schema = tmp_path / "pandas.parquet", METRICS_SCHEMA
    frame = synthetic.metrics()
    large = {field.name: pa.large_string() for field in schema if field.type == pa.string()}
    loose = pa.schema([field.with_type(large.get(field.name, field.type)) for field in schema])
    pq.write_table(pa.Table.from_pandas(frame, schema=loose, preserve_index=False), path)
    assert read_parquet(path, schema).schema.equals(schema)
    named = frame.assign(seed="first")
    pq.write_table(pa.Table.from_pandas(named, preserve_index=False), path)
    with pytest.raises(UserError, match="string in the column 'seed', expected int"):
        read_parquet(path, schema)
    wide = frame.assign(seed=frame["seed"].astype("uint64") + 2**63)
    pq.write_table(pa.Table.from_pandas(wide, preserve_index=False), path)
    with pytest.raises(UserError, match="not in range"):
        read_parquet(path, schema)
    texts = frame.assign(value=frame["value"].astype(str))  # numbers stored as strings
    pq.write_table(pa.Table.from_pandas(texts, preserve_index=False), path)
    with pytest.raises(UserError, match="string in the column 'value', expected double"):
        read_parquet(path, schema)


def test_checkpoints_of_one_run_are_no_duplicates(tmp_path: Path) -> None:
    metrics = synthetic.metrics()
    both = pd.concat([metrics, metrics.assign(checkpoint_epoch=6)])
    files = shards(both, METRICS_SCHEMA, tmp_path)
    collect(files, METRICS_SCHEMA, tmp_path / "out.parquet")
    assert read_parquet(tmp_path / "out.parquet").num_rows == 2 * len(metrics)
