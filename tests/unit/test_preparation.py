"""Preparation: what goes in comes out, twice the same, and what is wrong leaves nothing behind."""

import errno
import hashlib
import io
import json
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hamjepa_audit.data import preparation
from hamjepa_audit.data.preparation import prepare
from hamjepa_audit.data.progress import Progress
from hamjepa_audit.data.sources import SourceImages, SplitImages
from hamjepa_audit.data.sources.digits import stratified_test_mask, to_rgb_bytes
from hamjepa_audit.data.sources.image_folder import read_square
from hamjepa_audit.data.store import load_manifest, open_store, verify_store
from hamjepa_audit.errors import UserError
from hamjepa_audit.files import digest_of, sha256_file
from hamjepa_audit.params import load_study
from hamjepa_audit.params.sources import (
    CifarParams,
    DigitsParams,
    ImageFolderParams,
    ParquetFile,
    ParquetParams,
)

REPOSITORY = Path(__file__).resolve().parents[2]
DIGITS = DigitsParams(
    name="digits", source="digits", image_size=16, digest=None, test_fraction=0.2, split_seed=0
)
STORE_FILES = [
    "manifest.json",
    "test_images.npy",
    "test_labels.npy",
    "train_images.npy",
    "train_labels.npy",
]


def error_of(call: Callable[[], Any], *culprits: object) -> str:
    """The one line that `call` fails with, which must name every culprit."""
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for culprit in culprits:
        assert str(culprit) in message
    return message


def contents(root: Path) -> list[Path]:
    return sorted(root.rglob("*")) if root.exists() else []


def rejects(source: Any, raw: Path, *culprits: object) -> str:
    """The one line that preparing fails with, having left nothing behind."""
    root = raw.parent / "prepared"
    message = error_of(lambda: prepare(source, raw, root), *culprits)
    assert contents(root) == []
    return message


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


def picture(index: int, size: tuple[int, int] = (8, 8)) -> Image.Image:
    pixels = np.random.default_rng(index).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def planes(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


# --- digits -------------------------------------------------------------------------------------


def test_digits_hold_the_originals_in_a_stratified_split(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    store = verify_store(prepare(DIGITS, tmp_path, tmp_path / "prepared").parent)
    assert store.train.images.shape == (1438, 3, 16, 16)
    assert store.test.images.shape == (359, 3, 16, 16)
    small = np.concatenate([store.test.images, store.train.images])[:, 0, ::2, ::2]
    labels = np.concatenate([store.test.labels, store.train.labels])
    bunch = load_digits()
    originals = np.rint(bunch.images * 255 / 16).astype(np.uint8)

    def rows(images: np.ndarray, targets: np.ndarray) -> list[bytes]:
        return sorted(i.tobytes() + bytes([t]) for i, t in zip(images, targets, strict=True))

    assert rows(small, labels) == rows(originals, bunch.target)
    expected = [round(0.2 * count) for count in np.bincount(bunch.target)]
    assert list(store.manifest.test.rows_per_class) == expected


def test_digits_are_enlarged_by_repetition_and_scaled_to_bytes() -> None:
    image = np.arange(64, dtype=np.float64).reshape(1, 8, 8) % 17
    enlarged = to_rgb_bytes(image, 24)
    assert enlarged.dtype == np.uint8
    assert enlarged.shape == (1, 3, 24, 24)
    np.testing.assert_array_equal(enlarged, np.repeat(enlarged[:, :1], 3, axis=1))
    np.testing.assert_array_equal(
        enlarged[0, 0], np.kron(np.rint(image[0] * 255 / 16), np.ones((3, 3)))
    )
    assert enlarged.max() == 255


def test_the_split_depends_on_its_seed_alone() -> None:
    labels = np.repeat(np.arange(3), 10)
    mask = stratified_test_mask(labels, 0.3, seed=5)
    assert np.flatnonzero(mask).tolist() == [4, 7, 8, 11, 16, 17, 24, 27, 29]
    np.testing.assert_array_equal(mask, stratified_test_mask(labels, 0.3, seed=5))
    assert (mask != stratified_test_mask(labels, 0.3, seed=6)).any()


def test_digits_of_a_size_that_is_no_multiple_of_8(raw: Path) -> None:
    rejects(DIGITS.model_copy(update={"image_size": 20}), raw, "image_size is 20", "multiple of 8")


def test_a_test_fraction_that_leaves_a_class_out(raw: Path) -> None:
    rejects(DIGITS.model_copy(update={"test_fraction": 0.001}), raw, "class '0'", "test split")


# --- image folder -------------------------------------------------------------------------------

FOLDER = ImageFolderParams(
    name="animals",
    source="image_folder",
    image_size=8,
    digest=None,
    folder="animals",
    train=("train.X1", "train.X2"),
    test=("val",),
)


@pytest.fixture
def animals(raw: Path) -> Path:
    """Cats in both parts of train, dogs in the first; both in val."""
    places = {
        "train.X1/cat": [1],
        "train.X1/dog": [0, 1],
        "train.X2/cat": [0, 2],
        "val/cat": [0],
        "val/dog": [0, 1],
    }
    for place, numbers in places.items():
        (raw / "animals" / place).mkdir(parents=True)
        for k in numbers:
            picture(k, (12, 9)).save(raw / "animals" / place / f"{place.split('/')[1]}{k}.png")
    (raw / "animals/train.X1/cat/.hidden").touch()
    return raw


def test_image_folder_unites_parts_and_sorts_classes(animals: Path, tmp_path: Path) -> None:
    store = verify_store(prepare(FOLDER, animals, tmp_path / "prepared").parent)
    assert store.manifest.classes == ("cat", "dog")
    assert store.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert store.test.labels.tolist() == [0, 1, 1]
    expected = picture(2, (12, 9)).resize((10, 8), Image.Resampling.BILINEAR).crop((1, 0, 9, 8))
    np.testing.assert_array_equal(store.train.images[2], planes(expected))  # from train.X2
    np.testing.assert_array_equal(store.train.images[1], store.train.images[4])  # from train.X1


def test_the_digest_does_not_depend_on_how_train_is_cut(animals: Path, tmp_path: Path) -> None:
    parts = load_manifest(prepare(FOLDER, animals, tmp_path / "parts").parent)
    for part in ("train.X1", "train.X2"):
        shutil.copytree(animals / "animals" / part, animals / "animals/train", dirs_exist_ok=True)
    source = FOLDER.model_copy(update={"train": ("train",)})
    assert load_manifest(prepare(source, animals, tmp_path / "one").parent).digest == parts.digest


@pytest.mark.parametrize("size", [(12, 9), (9, 13), (8, 8), (5, 7), (31, 10), (11, 8), (8, 15)])
def test_images_are_cut_as_torchvision_cuts_them(size: tuple[int, int], tmp_path: Path) -> None:
    from torchvision import transforms

    picture(0, size).save(tmp_path / "a.png")
    reference = transforms.Compose([transforms.Resize(8), transforms.CenterCrop(8)])
    expected = planes(reference(picture(0, size)))
    np.testing.assert_array_equal(read_square(tmp_path / "a.png", 8), expected)


def test_grey_and_palette_images_become_rgb(tmp_path: Path) -> None:
    for mode in ("L", "P", "RGBA", "CMYK"):
        path = tmp_path / f"{mode}.tiff"
        picture(0).convert(mode).save(path)
        assert read_square(path, 8).shape == (3, 8, 8)


def test_missing_image_folder(raw: Path) -> None:
    rejects(FOLDER, raw, f"no folder {raw / 'animals'}")


def test_missing_part(animals: Path) -> None:
    shutil.rmtree(animals / "animals/train.X2")
    rejects(FOLDER, animals, f"missing folder {animals / 'animals/train.X2'}")


def test_empty_part(animals: Path) -> None:
    shutil.rmtree(animals / "animals/val")
    (animals / "animals/val/cat").mkdir(parents=True)
    rejects(FOLDER, animals, animals / "animals/val", "no images")


def test_a_class_that_one_split_lacks(animals: Path) -> None:
    shutil.rmtree(animals / "animals/val/cat")
    rejects(FOLDER, animals, "class 'cat'", "test split")


def test_a_file_that_is_no_image(animals: Path) -> None:
    broken = animals / "animals/val/dog/dog0.png"
    broken.write_text("a dog")
    rejects(FOLDER, animals, broken, "not an image")


def test_a_truncated_image(animals: Path) -> None:
    broken = animals / "animals/train.X1/dog/dog1.png"
    broken.write_bytes(broken.read_bytes()[:200])
    rejects(FOLDER, animals, broken, "can't be decoded")


def test_an_image_of_damaged_chunks(animals: Path) -> None:
    broken = animals / "animals/val/dog/dog1.png"
    content = bytearray(broken.read_bytes())
    content[36] = 0  # the length of the first chunk of pixels
    broken.write_bytes(content)
    rejects(FOLDER, animals, broken, "broken PNG file")


def test_a_folder_in_place_of_an_image(animals: Path) -> None:
    (animals / "animals/val/dog/images").mkdir()
    rejects(FOLDER, animals, animals / "animals/val/dog/images")


# --- Parquet ------------------------------------------------------------------------------------

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def cells(count: int) -> list[Any]:
    return [{"bytes": png(picture(k)), "path": f"{k}.png"} for k in range(count)]


def write_parquet(
    path: Path, images: list[Any], labels: list[Any], names: list[str] | None = None
) -> None:
    schema = pa.schema([("image", IMAGE), ("label", pa.int64())])
    if names is not None:
        label = {"_type": "ClassLabel", "names": names}
        info = {"info": {"features": {"image": {"_type": "Image"}, "label": label}}}
        schema = schema.with_metadata({"huggingface": json.dumps(info)})
    pq.write_table(pa.table([pa.array(images, IMAGE), labels], schema=schema), path)


PARQUET = ParquetParams(
    name="pets",
    source="parquet",
    image_size=8,
    digest=None,
    train=(
        ParquetFile(path="train-0.parquet", sha256=None),
        ParquetFile(path="train-1.parquet", sha256=None),
    ),
    test=(ParquetFile(path="test.parquet", sha256=None),),
)
NAMES = ["cat", "dog"]


@pytest.fixture
def pets(raw: Path) -> Path:
    write_parquet(raw / "train-0.parquet", cells(5), [1, 0, 1, 0, 0], NAMES)
    write_parquet(raw / "train-1.parquet", cells(2), [1, 1], NAMES)
    write_parquet(raw / "test.parquet", cells(3), [0, 1, 0], NAMES)
    return raw


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
    write_parquet(pets / "test.parquet", [*cells(140), None], [0, 1] * 70 + [0], NAMES)
    rejects(PARQUET, pets, f"{pets / 'test.parquet'} row 140: ")


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


def test_a_huge_unnamed_label(pets: Path) -> None:
    for file in pets.iterdir():
        write_parquet(file, cells(2), [0, 10**12])
    rejects(PARQUET, pets, pets / "train-0.parquet", "row 1", 10**12)


def test_unreadable_class_names(pets: Path) -> None:
    table = pq.read_table(pets / "test.parquet").replace_schema_metadata({"huggingface": "{"})
    pq.write_table(table, pets / "test.parquet")
    rejects(PARQUET, pets, pets / "test.parquet", "huggingface")


# --- CIFAR --------------------------------------------------------------------------------------

CIFAR = CifarParams(
    name="cifar100",
    source="cifar100",
    image_size=32,
    digest=None,
    folder="cifar",
    download=False,
)


@pytest.fixture
def cifar(raw: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small archive in CIFAR-100's form, whose checksums torchvision is told."""
    from torchvision.datasets import CIFAR100

    numbers = np.random.default_rng(0)
    files = {"meta": {"fine_label_names": ["apple", "bee"]}}
    for split, labels in (("train", [1, 0, 1]), ("test", [0, 1])):
        pixels = numbers.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
        files[split] = {"data": pixels, "fine_labels": labels}  # type: ignore[dict-item]
    archive = raw / "cifar" / "tiny.tar.gz"
    archive.parent.mkdir()
    md5 = {}
    with tarfile.open(archive, "w:gz") as packed:
        for name, content in files.items():
            pickled = pickle.dumps(content)
            md5[name] = hashlib.md5(pickled).hexdigest()
            entry = tarfile.TarInfo(f"{CIFAR100.base_folder}/{name}")
            entry.size = len(pickled)
            packed.addfile(entry, io.BytesIO(pickled))
    monkeypatch.setattr(CIFAR100, "url", "https://example.org/tiny.tar.gz")
    monkeypatch.setattr(CIFAR100, "filename", archive.name)
    monkeypatch.setattr(CIFAR100, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(CIFAR100, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", CIFAR100.meta | {"md5": md5["meta"]})
    return raw


def test_cifar_from_its_archive(cifar: Path, tmp_path: Path) -> None:
    before = contents(cifar)
    store = verify_store(prepare(CIFAR, cifar, tmp_path / "prepared").parent)
    assert store.manifest.classes == ("apple", "bee")
    assert store.train.labels.tolist() == [1, 0, 1]
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3072), dtype=np.uint8)
    np.testing.assert_array_equal(store.train.images, pixels.reshape(3, 3, 32, 32))
    assert contents(cifar) == before


def test_cifar_archive_of_another_checksum_is_not_opened(
    cifar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = cifar / "cifar" / "tiny.tar.gz"
    with archive.open("ab") as stream:
        stream.write(b"more")
    for module, name in ((tarfile, "open"), (pickle, "load")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("opened"))
    found = hashlib.md5(archive.read_bytes()).hexdigest()
    rejects(CIFAR, cifar, archive, found, "https://example.org/tiny.tar.gz")


def test_cifar_archive_that_can_not_be_read(cifar: Path) -> None:
    archive = cifar / "cifar" / "tiny.tar.gz"
    archive.unlink()
    archive.mkdir()
    rejects(CIFAR, cifar, archive, "can't read the raw data of 'cifar100'", "Is a directory")


def test_cifar_archive_that_may_not_be_downloaded(cifar: Path) -> None:
    archive = cifar / "cifar" / "tiny.tar.gz"
    archive.unlink()
    rejects(CIFAR, cifar, archive, "download is false", "https://example.org/tiny.tar.gz")


def no_network(*_: Any, **__: Any) -> None:
    raise URLError("Network is unreachable")


def test_cifar_without_network(cifar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = cifar / "cifar" / "tiny.tar.gz"
    archive.unlink()
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    source = CIFAR.model_copy(update={"download": True})
    rejects(source, cifar, archive, "Network is unreachable", "https://example.org/tiny.tar.gz")
    assert contents(cifar / "cifar") == []


def test_cifar_download_is_moved_into_place(
    cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = cifar / "cifar" / "tiny.tar.gz"
    content = archive.read_bytes()
    archive.unlink()

    def download(url: str, root: str, filename: str, md5: str) -> None:
        assert md5 == hashlib.md5(content).hexdigest()
        (Path(root) / filename).write_bytes(content)

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download)
    prepare(CIFAR.model_copy(update={"download": True}), cifar, tmp_path / "prepared")
    assert contents(cifar / "cifar") == [archive]


def test_cifar_archive_in_place_needs_no_network(
    cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    prepare(CIFAR.model_copy(update={"download": True}), cifar, tmp_path / "prepared")


def test_cifar_archive_of_other_files(cifar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR100

    monkeypatch.setattr(CIFAR100, "test_list", [["other", "0" * 32]])
    rejects(CIFAR, cifar, cifar / "cifar" / "tiny.tar.gz", "does not unpack")


def test_cifar_of_another_size(cifar: Path) -> None:
    rejects(CIFAR.model_copy(update={"image_size": 64}), cifar, "image_size is 64", "32")


# --- the store as a whole -----------------------------------------------------------------------


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
    content = {key: tree[key] for key in ("schema_version", "image_size", "classes")}
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

    split = SplitImages(labels=np.array([0, 0]), blocks=blocks)
    opened = SourceImages(classes=("0",), train=split, test=split, library_versions={})
    monkeypatch.setattr(preparation, "open_source", lambda *_: opened)
    with pytest.raises(KeyboardInterrupt):
        prepare(DIGITS, tmp_path, tmp_path / "prepared")
    assert contents(tmp_path / "prepared") == []


def test_raw_data_that_change_while_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = np.zeros((1, 3, 16, 16), dtype=np.uint8)
    split = SplitImages(labels=np.array([0, 0]), blocks=lambda: iter([block]))
    opened = SourceImages(classes=("0",), train=split, test=split, library_versions={})
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


# --- opening and verifying ----------------------------------------------------------------------


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
        ({"classes": ["cat", "wolf"]}, "digest"),
        ({"classes": ["cat"]}, "train.rows_per_class has 2 counts for 1 classes"),
        ({"image_size": 9}, "digest"),
        ({"schema_version": 2}, "schema_version is 2"),
        ({"colour": "red"}, "unknown key 'colour'"),
    ],
)
def test_a_manifest_that_was_edited(store_folder: Path, change: Any, words: str) -> None:
    path = store_folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    error_of(lambda: load_manifest(store_folder), path, words, "prepare the data again")


def test_a_manifest_that_is_no_object(store_folder: Path) -> None:
    (store_folder / "manifest.json").write_text("[]")
    error_of(lambda: load_manifest(store_folder), store_folder / "manifest.json", "[]")


# --- progress -----------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_in_a_log_is_a_line_every_tenth() -> None:
    stream = io.StringIO()
    with Progress("preparing pets", 1000, stream) as progress:
        for _ in range(1000):
            progress.advance(1)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0] == "preparing pets: 100 of 1,000 rows (10 %)"


def test_progress_on_a_terminal_is_one_line_even_when_interrupted() -> None:
    stream = Terminal()
    with pytest.raises(KeyboardInterrupt), Progress("preparing pets", 10, stream) as progress:
        progress.advance(5)
        raise KeyboardInterrupt
    assert stream.getvalue() == "\rpreparing pets: 5 of 10 rows (50 %)\n"


# --- real pictures ------------------------------------------------------------------------------


def real_parquet_folder() -> Path:
    """The folder that HAMJEPA_AUDIT_TEST_PARQUET names, or pictures beside the project."""
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
