"""Preparation of whole images: agreement with torchvision, and continuation if interrupted."""

import os
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from hamjepa_audit.data import whole_preparation
from hamjepa_audit.data.preparation import prepare
from hamjepa_audit.data.store import Store, WholeSplit, load_manifest, open_store, verify_store
from hamjepa_audit.errors import UserError
from hamjepa_audit.params import load_study
from hamjepa_audit.params.sources import ImageFolderParams
from tests.conftest import REPOSITORY
from tests.unit import whole_pictures
from tests.unit.preparing import bytes_of, error_of
from tests.unit.whole_pictures import CLASSES, SOURCE, image_of

originals, store = whole_pictures.originals, whole_pictures.store


@pytest.fixture
def raw(originals: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals, tmp_path / "raw"))


def training_files(raw: Path) -> list[Path]:
    """The training images in the store's order."""
    files = [*raw.glob("pictures/train.X1/*/*"), *raw.glob("pictures/train.X2/*/*")]
    return sorted(files, key=lambda path: (path.parent.name, path.name, path))


def test_images_are_those_of_torchvisions_resize(store: Store, originals: Path) -> None:
    assert store.manifest.shape == "whole" and isinstance(store.train, WholeSplit)
    assert list(store.manifest.train.rows_per_class) == [35] * CLASSES
    assert store.manifest.classes == ("c000", "c001", "c002")
    for row, path in enumerate(training_files(originals)):
        expected = transforms.Resize(24)(Image.open(path).convert("RGB"))
        np.testing.assert_array_equal(image_of(store.train, row), np.asarray(expected))
        assert store.train.labels[row] == int(path.parent.name[1:])


def test_threads_change_nothing(store: Store, originals: Path, tmp_path: Path) -> None:
    other = prepare(SOURCE, originals, tmp_path, threads=3).parent
    assert bytes_of(other) == bytes_of(store.folder)
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_the_digest_tells_whole_images_from_squares(store: Store, originals: Path) -> None:
    manifest = store.manifest
    with pytest.raises(UserError, match="but the manifest's content gives"):
        (store.folder / "manifest.json").rename(store.folder / "kept.json")
        try:
            text = (store.folder / "kept.json").read_text()
            (store.folder / "manifest.json").write_text(text.replace('"whole"', '"square"'))
            load_manifest(store.folder)
        finally:
            (store.folder / "kept.json").replace(store.folder / "manifest.json")
    assert load_manifest(store.folder) == manifest


def decoded_by(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Starts recording decoded files; returns the list, which grows."""
    seen: list[Path] = []
    original = whole_preparation.read_whole

    def recording(path: Path, size: int) -> np.ndarray:
        seen.append(path)
        return original(path, size)

    monkeypatch.setattr(whole_preparation, "read_whole", recording)
    return seen


@pytest.mark.faults
def test_a_broken_jpeg_is_named_and_nothing_is_lost(
    raw: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_preparation, "BLOCK_ROWS", 8)
    files = training_files(raw)
    broken, content = files[50], files[50].read_bytes()
    status = broken.stat()
    broken.write_bytes(content[: len(content) // 2])
    root = tmp_path / "data"
    error_of(
        lambda: prepare(SOURCE, raw, root), broken, "can't be decoded", "images before it are kept"
    )
    assert not (root / "pictures").exists()
    broken.write_bytes(content)
    os.utime(broken, ns=(status.st_atime_ns, status.st_mtime_ns))
    seen = decoded_by(monkeypatch)
    folder = prepare(SOURCE, raw, root).parent
    assert set(seen) & set(files) == set(files[50:])
    assert bytes_of(folder) == bytes_of(store.folder)
    assert not (root / ".pictures.partial").exists()


@pytest.mark.faults
def test_a_jpeg_whose_header_says_that_it_is_huge_is_named(raw: Path, tmp_path: Path) -> None:
    """The first file is in the sample from which the needed disk space is estimated."""
    broken = training_files(raw)[0]
    content = bytearray(broken.read_bytes())
    sizes = content.index(b"\xff\xc0") + 5
    content[sizes : sizes + 4] = b"\xff\x00\xff\x00"
    broken.write_bytes(content)
    error_of(lambda: prepare(SOURCE, raw, tmp_path / "data"), broken, "can't be decoded", "exceeds")


@pytest.mark.faults
def test_a_broken_jpeg_may_be_taken_out(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_preparation, "BLOCK_ROWS", 8)
    files = training_files(raw)
    files[50].write_bytes(b"no picture")
    root = tmp_path / "data"
    error_of(lambda: prepare(SOURCE, raw, root), files[50], "not an image")
    files[50].unlink()
    seen = decoded_by(monkeypatch)
    folder = prepare(SOURCE, raw, root).parent
    assert set(seen) & set(files) == set(files[51:])
    fresh = prepare(SOURCE, raw, tmp_path / "fresh").parent
    assert bytes_of(folder) == bytes_of(fresh)


@pytest.mark.faults
def test_a_missing_class_folder_of_a_list(raw: Path, tmp_path: Path) -> None:
    source = SOURCE.model_copy(update={"classes": ("c002", "c000", "n000")})
    error_of(
        lambda: prepare(source, raw, tmp_path / "data"),
        "class 'n000' of 'pictures' has no images in the train split",
        "(1 of 3 classes lack them)",
    )
    shutil.rmtree(raw / "pictures/val/c001")
    error_of(lambda: prepare(SOURCE, raw, tmp_path / "data"), "c001", "test split")
    assert not (tmp_path / "data").exists()


def test_a_class_list_takes_these_classes_alone(raw: Path, tmp_path: Path) -> None:
    source = SOURCE.model_copy(update={"classes": ("c002", "c000")})
    found = load_manifest(prepare(source, raw, tmp_path / "one").parent)
    assert found.classes == ("c000", "c002")
    for path in raw.glob("pictures/*/c001"):
        shutil.rmtree(path)
    assert load_manifest(prepare(SOURCE, raw, tmp_path / "two").parent).digest == found.digest


@pytest.mark.faults
@pytest.mark.parametrize("after", [0, 1, 17, 64, 110])
@pytest.mark.parametrize("damage", ["none", "torn line", "lost pixels", "more pixels"])
def test_an_interrupted_preparation_continues(
    originals: Path,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
    damage: str,
) -> None:
    """Interrupted at any moment, it makes the same store, and decodes only what wasn't kept."""
    monkeypatch.setattr(whole_preparation, "BLOCK_ROWS", 8)
    monkeypatch.setattr(whole_preparation, "AHEAD_PER_THREAD", 1)
    original, count = whole_preparation.read_whole, 0

    def interrupted(path: Path, size: int) -> np.ndarray:
        nonlocal count
        count += 1
        if count > after:
            raise KeyboardInterrupt
        return original(path, size)

    monkeypatch.setattr(whole_preparation, "read_whole", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(SOURCE, originals, tmp_path)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]
    assert not (tmp_path / "pictures").exists()
    work = tmp_path / ".pictures.partial"
    split = "test" if after > 105 else "train"
    if damage == "torn line" and (work / f"{split}.jsonl").stat().st_size:
        text = (work / f"{split}.jsonl").read_text()
        (work / f"{split}.jsonl").write_text(text[:-5])
    elif damage == "lost pixels":
        os.truncate(work / f"{split}_images.npy", 100)
    elif damage == "more pixels":
        with (work / f"{split}_images.npy").open("ab") as stream:
            stream.write(b"x" * 1000)
    monkeypatch.setattr(whole_preparation, "read_whole", original)
    seen = decoded_by(monkeypatch)
    folder = prepare(SOURCE, originals, tmp_path).parent
    assert bytes_of(folder) == bytes_of(store.folder)
    if damage in ("none", "more pixels"):
        kept = after - after % 8 if after <= 105 else 105 + (after - 105) // 8 * 8
        assert len(seen) == 123 - kept


def interrupt_move(monkeypatch: pytest.MonkeyPatch, folder: Path, after: int) -> None:
    """Interrupts a preparation when `after` of the store's seven files are in place."""
    original, count = Path.replace, 0

    def interrupted(self: Path, target: Path) -> Path:
        nonlocal count
        if Path(target).parent == folder and self.parent.name.endswith(".partial"):
            count += 1
            if count > after:
                raise KeyboardInterrupt
        return original(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)


@pytest.mark.faults
@pytest.mark.parametrize("after", range(7))
def test_a_move_that_was_interrupted_is_finished(
    originals: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    folder = tmp_path / "pictures"
    with monkeypatch.context() as patch:
        interrupt_move(patch, folder, after)
        with pytest.raises(KeyboardInterrupt):
            prepare(SOURCE, originals, tmp_path)
    assert not (folder / "manifest.json").exists()
    assert len(list(folder.iterdir())) == after
    seen = decoded_by(monkeypatch)
    prepare(SOURCE, originals, tmp_path)
    assert seen == [] and bytes_of(folder) == bytes_of(store.folder)
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


@pytest.mark.faults
def test_a_move_is_not_finished_once_the_images_have_changed(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data" / "pictures"
    with monkeypatch.context() as patch:
        interrupt_move(patch, folder, 3)
        with pytest.raises(KeyboardInterrupt):
            prepare(SOURCE, raw, tmp_path / "data")
    files = training_files(raw)
    files[9].write_bytes(files[10].read_bytes())
    prepare(SOURCE, raw, tmp_path / "data")
    assert bytes_of(folder) == bytes_of(prepare(SOURCE, raw, tmp_path / "fresh").parent)


@pytest.mark.faults
def test_a_manifest_of_images_that_have_changed_is_never_used_again(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_move(patch, tmp_path / "data" / "pictures", 0)
        with pytest.raises(KeyboardInterrupt):
            prepare(SOURCE, raw, tmp_path / "data")
    files = training_files(raw)
    files[9].write_bytes(files[10].read_bytes())

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(whole_preparation, "write_manifest", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(SOURCE, raw, tmp_path / "data")
    assert verify_store(prepare(SOURCE, raw, tmp_path / "data").parent)


@pytest.mark.faults
@pytest.mark.parametrize("missing", [1, 100, 5000])
def test_pixels_that_were_lost_are_decoded_again_and_journalled_once(
    originals: Path, store: Store, tmp_path: Path, missing: int
) -> None:
    pinned = SOURCE.model_copy(update={"digest": "0" * 64})  # fails, but keeps its work
    work = tmp_path / ".pictures.partial"
    error_of(lambda: prepare(pinned, originals, tmp_path), "pins")
    journal, pixels = work / "train.jsonl", work / "train_images.npy"
    lines = journal.read_text().splitlines()
    (work / "manifest.json").unlink()
    os.truncate(pixels, pixels.stat().st_size - missing)
    error_of(lambda: prepare(pinned, originals, tmp_path), "pins")
    assert journal.read_text().splitlines() == lines
    assert bytes_of(prepare(SOURCE, originals, tmp_path).parent) == bytes_of(store.folder)


def test_other_settings_or_files_start_over(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_preparation, "BLOCK_ROWS", 8)
    files = training_files(raw)
    content = files[100].read_bytes()
    files[100].write_bytes(b"no picture")
    root = tmp_path / "data"
    error_of(lambda: prepare(SOURCE, raw, root), files[100])
    files[100].write_bytes(content)
    files[9].write_bytes(files[10].read_bytes())  # changed meanwhile
    seen = decoded_by(monkeypatch)
    folder = prepare(SOURCE, raw, root).parent
    assert set(seen) & set(files) == set(files[9:])
    assert bytes_of(folder) == bytes_of(prepare(SOURCE, raw, tmp_path / "fresh").parent)


@pytest.mark.faults
def test_a_journal_that_ends_just_before_its_newline(
    originals: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = SOURCE.model_copy(update={"digest": "0" * 64})  # fails, but keeps its work
    work = tmp_path / ".pictures.partial"
    error_of(lambda: prepare(pinned, originals, tmp_path), "pins")
    journal = work / "train.jsonl"
    lines = journal.read_text().splitlines()
    (work / "manifest.json").unlink()
    journal.write_text("\n".join(lines[:50]))
    seen = decoded_by(monkeypatch)
    error_of(lambda: prepare(pinned, originals, tmp_path), "pins")
    assert len(seen) == 105 - 49 and journal.read_text().splitlines() == lines
    assert bytes_of(prepare(SOURCE, originals, tmp_path).parent) == bytes_of(store.folder)


@pytest.mark.parametrize("other", ["image_size", "pillow", "schema"])
def test_what_was_done_at_another_size_by_another_pillow_or_in_another_layout_is_done_again(
    originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    pinned = SOURCE.model_copy(update={"digest": "0" * 64})
    error_of(lambda: prepare(pinned, originals, tmp_path), "pins")
    source = SOURCE
    if other == "image_size":
        source = SOURCE.model_copy(update={"image_size": 20})
    elif other == "pillow":
        monkeypatch.setattr(whole_preparation, "pillow_versions", lambda: {"pillow": "0.1"})
    else:
        monkeypatch.setattr(whole_preparation, "SCHEMA_VERSION", 0)
    seen = decoded_by(monkeypatch)
    manifest = load_manifest(prepare(source, originals, tmp_path).parent)
    assert len(seen) == 123
    assert manifest.image_size == source.image_size
    assert manifest.library_versions == whole_preparation.pillow_versions()


def test_a_sample_of_sizes_says_what_all_images_need(
    originals: Path,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(whole_preparation, "SAMPLED", 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    message = error_of(lambda: prepare(SOURCE, originals, tmp_path), "are free")
    said = float(message.split(" needs ")[1].split(" MB")[0])
    needed = sum(split.pixels.nbytes for split in (store.train, store.test)) / 1e6
    assert said == pytest.approx(needed, rel=0.3)


def test_needed_disk_is_said_and_checked(
    originals: Path,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prepare(SOURCE, originals, tmp_path / "a")
    assert "preparing pictures: 123 images, about 0.00 GB in" in capsys.readouterr().err
    needed = sum(split.pixels.nbytes for split in (store.train, store.test))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed - 1))
    error_of(lambda: prepare(SOURCE, originals, tmp_path / "b"), "needs 0.3 MB", "are free")


def test_what_is_done_needs_no_disk_once_more(
    originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = SOURCE.model_copy(update={"digest": "0" * 64})
    error_of(lambda: prepare(pinned, originals, tmp_path), "pins")
    (tmp_path / ".pictures.partial" / "manifest.json").unlink()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=50_000))
    assert prepare(SOURCE, originals, tmp_path).exists()


def test_two_preparations_at_once_are_refused(
    originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = whole_preparation.read_whole

    def second(path: Path, size: int) -> np.ndarray:
        monkeypatch.setattr(whole_preparation, "read_whole", original)
        error_of(lambda: prepare(SOURCE, originals, tmp_path), f"process {os.getpid()} on", "wait")
        return original(path, size)

    monkeypatch.setattr(whole_preparation, "read_whole", second)
    prepare(SOURCE, originals, tmp_path)


@pytest.mark.parametrize("name", ["train_sizes.npy", "train_images.npy"])
def test_a_whole_store_that_is_damaged(store: Store, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(store.folder, tmp_path / "copy"))
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    error_of(lambda: verify_store(folder), folder, "train", "prepare the data again")
    (folder / name).unlink()
    error_of(lambda: open_store(folder), name)


def test_squares_take_the_place_of_whole_images(raw: Path, tmp_path: Path) -> None:
    folder = prepare(SOURCE, raw, tmp_path / "data").parent
    prepare(SOURCE.model_copy(update={"shape": "square"}), raw, tmp_path / "data")
    assert verify_store(folder).manifest.shape == "square"
    assert not (folder / "train_sizes.npy").exists()


def test_the_published_list_has_a_hundred_classes() -> None:
    source = load_study(REPOSITORY / "params", "imagenet100_cmc").data
    assert isinstance(source, ImageFolderParams) and source.classes is not None
    assert len(set(source.classes)) == 100
    assert all(len(name) == 9 and name[0] == "n" and name[1:].isdigit() for name in source.classes)
