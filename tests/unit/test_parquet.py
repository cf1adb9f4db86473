"""Parquet files: their columns, their seal, and how they are read."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from hamjepa_audit.errors import UserError
from hamjepa_audit.parquet import MARK, read_parquet, write_parquet


def test_columns_are_read_in_the_order_of_the_schema_and_metadata_with_them(tmp_path: Path) -> None:
    path, schema = tmp_path / "rows.parquet", pa.schema([("a", pa.int64()), ("b", pa.string())])
    write_parquet(path, pa.table({"b": ["x"], "a": [1]}).replace_schema_metadata({"of": "runs"}))
    table = read_parquet(path, schema)
    assert table.schema.names == ["a", "b"] and table.schema.metadata == {b"of": b"runs"}
    for names, told in (
        ("a", r"lacks the columns \['b'\]"),
        ("abc", r"\['c'\] besides"),
        ("abb", r"\['b'\] more than once"),
    ):
        write_parquet(path, pa.table([[1]] * len(names), names=list(names)))
        with pytest.raises(UserError, match=told):
            read_parquet(path, schema)


@pytest.mark.parametrize("which", [0, 1])
def test_a_table_of_which_one_mark_of_the_seal_is_damaged_is_not_read(
    tmp_path: Path, which: int
) -> None:
    path = tmp_path / "rows.parquet"
    write_parquet(path, pa.table({"a": [1]}))
    content = path.read_bytes()
    place = [content.find(MARK), content.rfind(MARK)][which]
    path.write_bytes(content[:place] + b"?" + content[place + 1 :])
    with pytest.raises(UserError, match="do not match"):
        read_parquet(path)


THREADS_STARTED_BY_READING = """
import sys
from pathlib import Path
from hamjepa_audit.parquet import read_parquet

def threads():
    names = [task.joinpath("comm").read_text() for task in Path("/proc/self/task").iterdir()]
    return [name for name in names if "jemalloc" not in name]  # the allocator's

before = len(threads())
read_parquet(Path(sys.argv[1]))
print(len(threads()) - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads by /proc")
def test_no_thread_still_holds_a_table_when_the_process_ends(tmp_path: Path) -> None:
    """It would abort the process, in some of many runs, if it freed the file's bytes then."""
    write_parquet(tmp_path / "rows.parquet", pa.table({"a": range(1000), "b": range(1000)}))
    reading = [sys.executable, "-c", THREADS_STARTED_BY_READING, str(tmp_path / "rows.parquet")]
    assert subprocess.run(reading, check=True, capture_output=True).stdout.strip() == b"0"
