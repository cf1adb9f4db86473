"""Stores: opened ones are read-only, and errors name the damaged file."""

import errno
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hamjepa_audit.data.preparation import prepare
from hamjepa_audit.data.store import (
    Shape,
    content_digest,
    load_manifest,
    open_store,
    verify_store,
)
from hamjepa_audit.errors import UserError
from tests.unit import cats_and_dogs, preparing
from tests.unit.cats_and_dogs import PARQUET
from tests.unit.preparing import STORE_FILES, error_of

raw, pets = preparing.raw, cats_and_dogs.pets


@pytest.fixture
def store_folder(pets: Path, tmp_path: Path) -> Path:
    return prepare(PARQUET, pets, tmp_path / "p").parent


def test_an_opened_store_can_not_be_changed(store_folder: Path) -> None:
    store = open_store(store_folder)
    assert isinstance(store.train.images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        store.train.images[0] = 0


@pytest.mark.parametrize("name", STORE_FILES)
def test_a_store_file_that_is_missing(store_folder: Path, name: str) -> None:
    (store_folder / name).unlink()
    error_of(lambda: open_store(store_folder), store_folder, name, "missing")


@pytest.mark.parametrize("name", STORE_FILES)
@pytest.mark.parametrize("kept", [0, 40, -1])
def test_a_store_file_that_is_truncated(store_folder: Path, name: str, kept: int) -> None:
    path = store_folder / name
    content = path.read_bytes()[:-1] if name == "manifest.json" else path.read_bytes()
    path.write_bytes(content[:kept])
    error_of(lambda: open_store(store_folder), path, "again")


@pytest.mark.filterwarnings("ignore:Data type alias:DeprecationWarning")
def test_a_store_file_with_any_bit_of_its_header_flipped(store_folder: Path) -> None:
    path = store_folder / "train_labels.npy"
    content, header = path.read_bytes(), 128
    refused = 0
    for place in range(8 * header):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            open_store(store_folder)  # bits between the tokens do not matter
        except UserError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 0.9 * 8 * header


def test_a_lack_of_memory_is_not_taken_for_a_damaged_file(
    store_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: Path, mode: str) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(np.lib.format, "open_memmap", fails)
    path = store_folder / "train_labels.npy"
    error_of(lambda: open_store(store_folder), f"can't read {path}: ", "free memory", "threads")


def test_an_error_without_words_is_told_by_its_name(
    store_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(path: Path, mode: str) -> None:
        raise EOFError

    monkeypatch.setattr(np.lib.format, "open_memmap", ends)
    error_of(lambda: open_store(store_folder), store_folder / "train_labels.npy", "EOFError")


def test_a_store_file_of_another_type(store_folder: Path) -> None:
    labels = np.load(store_folder / "train_labels.npy")
    np.save(store_folder / "train_labels.npy", labels.astype(np.int32))
    error_of(lambda: open_store(store_folder), "train_labels.npy", "int32", "int64")


def test_a_store_file_of_another_order(store_folder: Path) -> None:
    images = np.load(store_folder / "test_images.npy")
    np.save(store_folder / "test_images.npy", np.asfortranarray(images))
    error_of(lambda: open_store(store_folder), "test_images.npy", "C order")


def test_a_store_file_with_pickles_is_not_unpickled(
    store_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(store_folder / "train_labels.npy", np.array([{}] * 7), allow_pickle=True)
    monkeypatch.setattr(pickle, "load", lambda *_, **__: pytest.fail("unpickled"))
    error_of(lambda: open_store(store_folder), store_folder / "train_labels.npy")


@pytest.mark.parametrize(
    ("name", "split"), [(name, name.split("_")[0]) for name in STORE_FILES[1:]]
)
def test_a_changed_byte_is_found_by_verifying(store_folder: Path, name: str, split: str) -> None:
    path = store_folder / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    open_store(store_folder)
    error_of(lambda: verify_store(store_folder), store_folder, f"the {split} split")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": ["cat", "wolf"]}, "but the manifest's content gives"),
        ({"classes": ["cat"]}, "train.rows_per_class has 2 counts for 1 classes"),
        ({"image_size": 9}, "but the manifest's content gives"),
        ({"schema_version": 2}, "schema_version is 2"),
        ({"colour": "red"}, "unknown key 'colour'"),
    ],
)
def test_a_manifest_that_was_edited(store_folder: Path, change: Any, words: str) -> None:
    path = store_folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    error_of(lambda: load_manifest(store_folder), path, words, "prepare the data again")


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_manifest_whose_counts_do_not_add_up(store_folder: Path, split: str) -> None:
    path = store_folder / "manifest.json"
    tree = json.loads(path.read_text())
    tree[split]["rows_per_class"][0] += 1
    path.write_text(json.dumps(tree))
    rows = tree[split]["rows"]
    error_of(lambda: load_manifest(store_folder), f"{split}.rows_per_class", f"add up to {rows}")


@pytest.mark.parametrize(
    ("key", "words"),
    [("sha256", "does not contain its own digest"), ("shape", "key 'shape' is missing")],
)
def test_a_manifest_without_one_of_its_keys(store_folder: Path, key: str, words: str) -> None:
    path = store_folder / "manifest.json"
    tree = json.loads(path.read_text())
    del tree[key]
    path.write_text(json.dumps(tree))
    error_of(lambda: load_manifest(store_folder), path, words, "prepare the data again")


def test_squares_and_whole_images_have_other_digests(store_folder: Path) -> None:
    manifest = load_manifest(store_folder)
    rest = (manifest.classes, manifest.train, manifest.test)
    shapes: tuple[Shape, ...] = ("square", "whole")
    digests = [content_digest(manifest.image_size, shape, *rest) for shape in shapes]
    assert digests[0] == manifest.digest != digests[1]


def test_a_manifest_that_is_no_object(store_folder: Path) -> None:
    (store_folder / "manifest.json").write_text("[]")
    error_of(lambda: load_manifest(store_folder), store_folder / "manifest.json", "[]")
