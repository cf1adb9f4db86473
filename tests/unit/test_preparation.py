"""Preparation is reproducible to the byte, and a failure leaves everything as it was."""

import errno
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hamjepa_audit.data import preparation
from hamjepa_audit.data.preparation import prepare
from hamjepa_audit.data.sources import SourceImages, SplitImages
from hamjepa_audit.data.store import load_manifest, open_store, verify_store
from hamjepa_audit.files import digest_of
from tests.unit import cats_and_dogs, preparing
from tests.unit.cats_and_dogs import NAMES, PARQUET, cells, write_parquet
from tests.unit.preparing import DIGITS, STORE_FILES, bytes_of, contents, error_of, rejects

raw, pets = preparing.raw, cats_and_dogs.pets


def test_preparing_twice_gives_the_same_bytes(pets: Path, tmp_path: Path) -> None:
    first = prepare(PARQUET, pets, tmp_path / "one").parent
    second = prepare(PARQUET, pets, tmp_path / "two").parent
    assert sorted(bytes_of(first)) == STORE_FILES
    assert bytes_of(first) == bytes_of(second)
    assert str(tmp_path) not in (first / "manifest.json").read_text()


def test_the_digest_is_of_the_data_not_of_names(pets: Path, tmp_path: Path) -> None:
    named = load_manifest(prepare(PARQUET, pets, tmp_path / "p").parent)
    other = PARQUET.model_copy(update={"name": "other"})
    assert load_manifest(prepare(other, pets, tmp_path / "p").parent).digest == named.digest
    write_parquet(pets / "test.parquet", cells(3), [0, 1, 1], NAMES)
    assert load_manifest(prepare(PARQUET, pets, tmp_path / "p").parent).digest != named.digest


def test_the_manifest_says_what_the_files_hold(pets: Path, tmp_path: Path) -> None:
    folder = prepare(PARQUET, pets, tmp_path / "p").parent
    tree = json.loads((folder / "manifest.json").read_text())
    images = np.load(folder / "train_images.npy", allow_pickle=False)
    labels = np.load(folder / "train_labels.npy", allow_pickle=False)
    assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
    assert images.flags.c_contiguous
    expected = hashlib.sha256(images.tobytes() + labels.astype("<i8").tobytes()).hexdigest()
    assert tree["train"] == {"rows": 7, "rows_per_class": [3, 4], "sha256": expected}
    content = {key: tree[key] for key in ("schema_version", "image_size", "shape", "classes")}
    assert tree["digest"] == digest_of(content | {key: tree[key] for key in ("train", "test")})
    assert set(tree["library_versions"]) >= {"pillow", "pyarrow"}


def test_a_pinned_digest_that_differs(pets: Path, tmp_path: Path) -> None:
    right = load_manifest(prepare(PARQUET, pets, tmp_path / "p").parent).digest
    prepare(PARQUET.model_copy(update={"digest": right}), pets, tmp_path / "p")
    rejects(PARQUET.model_copy(update={"digest": "0" * 64}), pets, "pets", right, "0" * 64)


def test_a_failure_leaves_the_old_store_as_it_was(pets: Path, tmp_path: Path) -> None:
    folder = prepare(PARQUET, pets, tmp_path / "p").parent
    before = bytes_of(folder)
    write_parquet(pets / "test.parquet", [None, None], [0, 1], NAMES)
    error_of(lambda: prepare(PARQUET, pets, tmp_path / "p"), "row 0")
    assert bytes_of(folder) == before
    assert list((tmp_path / "p").iterdir()) == [folder]


def test_a_new_store_takes_the_place_of_the_old(pets: Path, tmp_path: Path) -> None:
    folder = prepare(PARQUET, pets, tmp_path / "p").parent
    write_parquet(pets / "test.parquet", cells(9), [0, 1, 0] * 3, NAMES)
    prepare(PARQUET, pets, tmp_path / "p")
    assert verify_store(folder).manifest.test.rows == 9
    assert sorted(bytes_of(folder)) == STORE_FILES


def test_an_interrupt_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blocks() -> Iterator[np.ndarray]:
        yield np.zeros((1, 3, 16, 16), dtype=np.uint8)
        raise KeyboardInterrupt

    split = SplitImages(labels=np.array([0, 1]), blocks=blocks)
    opened = SourceImages(classes=("0", "1"), train=split, test=split, library_versions={})
    monkeypatch.setattr(preparation, "open_source", lambda *_: opened)
    with pytest.raises(KeyboardInterrupt):
        prepare(DIGITS, tmp_path, tmp_path / "prepared")
    assert contents(tmp_path / "prepared") == []


def test_raw_data_that_change_while_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = np.zeros((1, 3, 16, 16), dtype=np.uint8)
    split = SplitImages(labels=np.array([0, 1]), blocks=lambda: iter([block]))
    opened = SourceImages(classes=("0", "1"), train=split, test=split, library_versions={})
    monkeypatch.setattr(preparation, "open_source", lambda *_: opened)
    rejects(DIGITS, tmp_path / "raw", "1 images for 2 labels")


def test_a_root_that_can_not_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    root = tmp_path / "file" / "prepared"
    error_of(lambda: prepare(DIGITS, tmp_path, root), root / "digits", "can't write")
    assert contents(tmp_path) == [tmp_path / "file"]


def test_a_file_in_place_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "digits").write_text("in the way")
    error_of(lambda: prepare(DIGITS, tmp_path, tmp_path), tmp_path / "digits", "can't write")
    assert contents(tmp_path) == [tmp_path / "digits"]


def test_a_move_that_fails_half_way_leaves_no_manifest(pets: Path, tmp_path: Path) -> None:
    folder = prepare(PARQUET, pets, tmp_path / "p").parent
    (folder / "test_images.npy").unlink()
    (folder / "test_images.npy" / "in the way").mkdir(parents=True)
    error_of(lambda: prepare(PARQUET, pets, tmp_path / "p"), folder, "can't write")
    assert list((tmp_path / "p").iterdir()) == [folder]
    error_of(lambda: open_store(folder), folder, "manifest.json is missing")


def test_a_disk_that_fills_up(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    rejects(DIGITS, raw, "digits", "No space left on device")


def test_a_disk_that_is_too_small(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    rejects(DIGITS, raw, "digits", "needs 1.4 MB", "1.0 MB are free")


def test_two_preparations_at_once_are_refused(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = preparation.move_store

    def second(*arguments: Any) -> None:
        message = error_of(lambda: prepare(DIGITS, raw, raw), f"process {os.getpid()} on")
        assert message.endswith("is working on it; wait until that ends, or stop it")
        original(*arguments)

    monkeypatch.setattr(preparation, "move_store", second)
    prepare(DIGITS, raw, raw)
    assert list(raw.glob(".*")) == []


@pytest.mark.faults
def test_what_a_killed_preparation_left_behind_is_deleted_by_the_next(raw: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = raw / f".digits.{socket.gethostname()}.{ended.pid}.abcdefgh"
    (left / "deep").mkdir(parents=True)
    folder = prepare(DIGITS, raw, raw).parent
    assert list(raw.iterdir()) == [folder]
