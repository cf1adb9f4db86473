"""Parquet files: rows keep their order, and errors name the row."""

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hamjepa_audit.data.preparation import prepare
from hamjepa_audit.data.store import load_manifest, verify_store
from hamjepa_audit.files import sha256_file
from hamjepa_audit.params import load_study
from hamjepa_audit.params.sources import ParquetFile, ParquetParams
from tests.conftest import REPOSITORY
from tests.unit import cats_and_dogs, preparing
from tests.unit.cats_and_dogs import (
    IMAGE,
    NAMES,
    PARQUET,
    cells,
    picture,
    planes,
    png,
    write_parquet,
)
from tests.unit.preparing import rejects

raw, pets = preparing.raw, cats_and_dogs.pets


@pytest.mark.parametrize("threads", [1, 3])
def test_parquet_rows_keep_their_order(pets: Path, tmp_path: Path, threads: int) -> None:
    path = prepare(PARQUET, pets, tmp_path / "prepared", threads=threads)
    store = verify_store(path.parent)
    assert store.manifest.classes == ("cat", "dog")
    assert store.train.labels.tolist() == [1, 0, 1, 0, 0, 1, 1]
    for row, index in enumerate([0, 1, 2, 3, 4, 0, 1]):
        np.testing.assert_array_equal(store.train.images[row], planes(picture(index)))


def test_parquet_longer_than_a_block(pets: Path, tmp_path: Path) -> None:
    write_parquet(pets / "test.parquet", cells(300), [0, 1] * 150, NAMES)
    store = verify_store(prepare(PARQUET, pets, tmp_path / "prepared").parent)
    for row in (0, 127, 128, 299):
        np.testing.assert_array_equal(store.test.images[row], planes(picture(row)))


def test_a_bad_row_is_counted_from_the_start_of_its_file(pets: Path) -> None:
    write_parquet(pets / "test.parquet", [*cells(300), None], [0, 1] * 150 + [0], NAMES)
    rejects(PARQUET, pets, f"{pets / 'test.parquet'} row 300: ")


def test_classes_without_names_are_numbered(pets: Path, tmp_path: Path) -> None:
    for file in pets.iterdir():
        write_parquet(file, cells(2), [0, 1])
    assert load_manifest(prepare(PARQUET, pets, tmp_path / "p").parent).classes == ("0", "1")


def test_pinned_parquet(pets: Path, tmp_path: Path) -> None:
    right = sha256_file(pets / "test.parquet")
    pinned = (ParquetFile(path="test.parquet", sha256=right),)
    prepare(PARQUET.model_copy(update={"test": pinned}), pets, tmp_path / "p")
    shutil.rmtree(tmp_path / "p")
    pinned = (ParquetFile(path="test.parquet", sha256="0" * 64),)
    source = PARQUET.model_copy(update={"test": pinned})
    rejects(source, pets, pets / "test.parquet", right, "0" * 64)


def test_missing_parquet(pets: Path) -> None:
    (pets / "train-1.parquet").unlink()
    rejects(PARQUET, pets, f"missing Parquet file {pets / 'train-1.parquet'}")


@pytest.mark.parametrize("kept", [0, 3, 100, -1])
def test_truncated_parquet(pets: Path, kept: int) -> None:
    file = pets / "train-0.parquet"
    file.write_bytes(file.read_bytes()[:kept])
    rejects(PARQUET, pets, file, "not a readable Parquet file")


def test_parquet_damaged_inside_its_image_pages(pets: Path) -> None:
    file = pets / "test.parquet"
    content = bytearray(file.read_bytes())
    content[4:60] = b"\xff" * 56
    file.write_bytes(content)
    rejects(PARQUET, pets, file)


BAD_ROWS = {
    "null image": ({"images": [None]}, "image is null"),
    "null bytes": ({"images": [{"bytes": None, "path": "x"}]}, "image is null"),
    "undecodable": ({"images": [{"bytes": b"x" * 99, "path": "x"}]}, "not an image"),
    "truncated": ({"images": [{"bytes": png(picture(1))[:90], "path": "x"}]}, "can't be decoded"),
    "16 bits": ({"images": [{"bytes": png(Image.new("I;16", (8, 8))), "path": "x"}]}, "mode I;16"),
    "size": ({"images": [{"bytes": png(picture(1, (8, 9))), "path": "x"}]}, "8x9"),
    "null label": ({"labels": [None]}, "label is null"),
    "negative": ({"labels": [-1]}, "label is -1"),
    "beyond": ({"labels": [2]}, "label is 2"),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_bad_parquet_row_is_named(pets: Path, kind: str) -> None:
    change, words = BAD_ROWS[kind]
    images, labels = cells(4), [0, 1, 0, 1]
    images[2:3] = change.get("images", images[2:3])
    labels[2:3] = change.get("labels", labels[2:3])
    write_parquet(pets / "test.parquet", images, labels, NAMES)
    rejects(PARQUET, pets, f"{pets / 'test.parquet'} row 2: ", words)


BAD_COLUMNS = {
    "no label": (pa.table({"image": pa.array([None], IMAGE)}), "no column 'label'"),
    "no image": (pa.table({"label": [0]}), "no column 'image'"),
    "flat image": (pa.table({"image": [b"x"], "label": [0]}), "image of type binary"),
    "no bytes": (
        pa.table({"image": pa.array([{"path": "x"}]), "label": [0]}),
        "image of type struct<path",
    ),
    "text label": (
        pa.table({"image": pa.array([None], IMAGE), "label": ["cat"]}),
        "label of type string",
    ),
}


@pytest.mark.parametrize("kind", BAD_COLUMNS)
def test_parquet_of_other_columns(pets: Path, kind: str) -> None:
    table, words = BAD_COLUMNS[kind]
    pq.write_table(table, pets / "test.parquet")
    rejects(PARQUET, pets, pets / "test.parquet", words, "expected")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["cat", "wolf"], "label 1 is 'dog'"),
        (["cat", "dog", "wolf"], "has 3"),
        (None, "has none"),
    ],
)
def test_files_that_disagree_about_classes(pets: Path, names: list[str] | None, words: str) -> None:
    write_parquet(pets / "test.parquet", cells(2), [0, 1], names)
    rejects(PARQUET, pets, pets / "test.parquet", words)


def test_a_gap_in_unnamed_classes(pets: Path) -> None:
    for file in pets.iterdir():
        write_parquet(file, cells(2), [0, 2])
    rejects(PARQUET, pets, "class '1'", "train split")


def test_a_named_class_without_rows(pets: Path) -> None:
    for file in pets.iterdir():
        write_parquet(file, cells(2), [0, 1], [*NAMES, "fish"])
    rejects(PARQUET, pets, "class 'fish'", "train split", "write the files again without its name")


def test_a_huge_unnamed_label(pets: Path) -> None:
    for file in pets.iterdir():
        write_parquet(file, cells(2), [0, 10**12])
    rejects(PARQUET, pets, pets / "train-0.parquet", "row 1", 10**12)


def test_unreadable_class_names(pets: Path) -> None:
    table = pq.read_table(pets / "test.parquet").replace_schema_metadata({"huggingface": "{"})
    pq.write_table(table, pets / "test.parquet")
    rejects(PARQUET, pets, pets / "test.parquet", "huggingface")


def real_parquet_folder() -> Path:
    """The folder in HAMJEPA_AUDIT_TEST_PARQUET, by default one beside the project."""
    beside = REPOSITORY.parent / "shared" / "data" / "tinyimagenet100-32"
    return Path(os.environ.get("HAMJEPA_AUDIT_TEST_PARQUET", beside))


@pytest.mark.slow
def test_real_pictures(tmp_path: Path) -> None:
    folder = real_parquet_folder()
    if not (folder / "train.parquet").exists() or not (folder / "test.parquet").exists():
        pytest.skip(f"tests want pictures beside the project: none in {folder}")
    pinned = load_study(REPOSITORY / "params", "tinyimagenet100").data
    assert isinstance(pinned, ParquetParams)
    here = {
        "train": (ParquetFile(path="train.parquet", sha256=pinned.train[0].sha256),),
        "test": (ParquetFile(path="test.parquet", sha256=pinned.test[0].sha256),),
    }
    path = prepare(pinned.model_copy(update=here), folder, tmp_path, threads=2)
    store = verify_store(path.parent)
    assert store.manifest.train.rows_per_class == (500,) * 100
    assert store.manifest.test.rows_per_class == (50,) * 100
    assert store.train.images.shape == (50_000, 3, 32, 32)
    assert len(set(store.manifest.classes)) == 100
