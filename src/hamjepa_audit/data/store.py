"""The prepared store: a folder of immutable uint8 images, their labels, and a manifest.

The store of a data set is the folder `<data root>/<dataset name>/`, which contains

- `train_images.npy`, `test_images.npy`: uint8 (N, 3, S, S), C order; or, for whole images of
  varying shape, uint8 (bytes,), one image (height, width, 3) after the other;
- `train_sizes.npy`, `test_sizes.npy`, for whole images only: int32 (N, 2), height and width;
- `train_labels.npy`, `test_labels.npy`: int64 (N,), little-endian;
- `manifest.json`, written last: a folder without it is not a complete store.
"""

import hashlib
import tokenize
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from hamjepa_audit.errors import UserError, unreadable
from hamjepa_audit.files import JSON_SEAL, digest_of, read_json, read_sealed_json
from hamjepa_audit.params.base import Count, Name, Params
from hamjepa_audit.params.loading import validate
from hamjepa_audit.params.sources import Sha256

SCHEMA_VERSION = 1
"""Incremented manually when the file layout or the content of the digest changes."""

MANIFEST = "manifest.json"
IMAGE_DTYPE = np.dtype("|u1")
LABEL_DTYPE = np.dtype("<i8")
SIZE_DTYPE = np.dtype("<i4")
CHANNELS = 3
_HASH_BYTES = 1 << 24

SplitName: TypeAlias = Literal["train", "test"]
Images: TypeAlias = NDArray[np.uint8]
Labels: TypeAlias = NDArray[np.int64]
Sizes: TypeAlias = NDArray[np.int32]
Shape: TypeAlias = Literal["square", "whole"]
Part: TypeAlias = Literal["images", "sizes", "labels"]
PARTS: tuple[Part, ...] = ("images", "sizes", "labels")


class SplitRecord(Params):
    """The manifest's entry for one split.

    `sha256` covers the image bytes, the sizes if there are any, and the label bytes.
    """

    rows: Count
    rows_per_class: tuple[Count, ...]
    sha256: Sha256


class Manifest(Params):
    """Description of a store's content.

    `digest` identifies the data. It covers everything that determines the content of a row, but not
    the names of the data set and its source, nor the versions of the libraries that decoded it.
    """

    schema_version: Annotated[int, Field(ge=SCHEMA_VERSION, le=SCHEMA_VERSION)]
    dataset: Name
    source: str
    image_size: Count
    shape: Shape
    classes: tuple[str, ...] = Field(min_length=1)
    train: SplitRecord
    test: SplitRecord
    digest: Sha256
    library_versions: dict[str, str]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for split, record in (("train", self.train), ("test", self.test)):
            if len(record.rows_per_class) != len(self.classes):
                raise ValueError(
                    f"{split}.rows_per_class has {len(record.rows_per_class)} counts "
                    f"for {len(self.classes)} classes"
                )
            if sum(record.rows_per_class) != record.rows:
                raise ValueError(f"{split}.rows_per_class does not add up to {record.rows} rows")
        expected = content_digest(self.image_size, self.shape, self.classes, self.train, self.test)
        if self.digest != expected:
            raise ValueError(f"digest is {self.digest} but the manifest's content gives {expected}")
        return self


@dataclass(frozen=True)
class Split:
    """One split: images uint8 (N, 3, S, S) and labels int64 (N,), read-only memory maps."""

    images: Images
    labels: Labels


@dataclass(frozen=True)
class WholeSplit:
    """One split of images of varying shape, read-only memory maps.

    Attributes:
        pixels: uint8 (bytes,), one image (height, width, 3) after the other.
        sizes: int32 (N, 2), height and width.
        labels: int64 (N,).
    """

    pixels: NDArray[np.uint8]
    sizes: Sizes
    labels: Labels

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """(N + 1,) byte offset of each image's start, and of the end of the last image."""
        return np.concatenate([[0], np.cumsum(image_bytes(self.sizes))])


@dataclass(frozen=True)
class Store:
    """A prepared data set, opened for reading."""

    folder: Path
    manifest: Manifest
    train: Split | WholeSplit
    test: Split | WholeSplit


def image_bytes(sizes: Sizes) -> NDArray[np.int64]:
    """Numbers of bytes (N,) of images of sizes (N, 2)."""
    return CHANNELS * sizes.astype(np.int64).prod(axis=1)


def load_manifest(folder: Path) -> Manifest:
    """The manifest of the store in `folder`.

    Raises:
        UserError: it is missing, not JSON, changed since it was written, of another schema version,
            or inconsistent.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise UserError(f"no prepared data in {folder}: {MANIFEST} is missing; prepare the data")
    tree = read_json(path)
    if not isinstance(tree, dict):
        raise UserError(f"{path} must hold a JSON object, found {tree!r}; prepare the data again")
    try:
        content = {key: value for key, value in tree.items() if key != JSON_SEAL}
        manifest = validate(Manifest, content, str(path))  # its messages say more than the seal's
        read_sealed_json(path)
        return manifest
    except UserError as error:
        raise UserError(f"{error}; prepare the data again") from error


def open_store(folder: Path) -> Store:
    """Opens a store without reading its images.

    Returns:
        Memory maps whose shapes and types agree with the manifest.

    Raises:
        UserError: a file is missing or truncated, or its shape or type differs from the manifest.
    """
    manifest = load_manifest(folder)
    return Store(
        folder=folder,
        manifest=manifest,
        train=_open_split(folder, "train", manifest.train.rows, manifest),
        test=_open_split(folder, "test", manifest.test.rows, manifest),
    )


def verify_store(folder: Path, digest: str | None = None) -> Store:
    """Opens a store and verifies its hashes, a few megabytes at a time.

    Args:
        folder: the store's folder.
        digest: the data that it must hold, if results are going to be named after them.

    Returns:
        The opened store, whose bytes agree with the manifest.

    Raises:
        UserError: as for `open_store`; it holds other data, prepared since its digest was read; or
            a split's bytes have changed since they were prepared.
    """
    store = open_store(folder)
    if digest not in (None, store.manifest.digest):
        raise UserError(
            f"{folder} has the digest {store.manifest.digest}, but had {digest} when this command "
            f"started: its data were prepared again meanwhile; give the same command again"
        )
    for name, split, record in (
        ("train", store.train, store.manifest.train),
        ("test", store.test, store.manifest.test),
    ):
        found = _split_sha256(split)
        if found != record.sha256:
            raise UserError(
                f"the {name} split in {folder} has the SHA-256 {found}, but its manifest says "
                f"{record.sha256}: the files were changed or damaged; prepare the data again"
            )
    return store


def content_digest(
    image_size: int,
    shape: Shape,
    classes: tuple[str, ...],
    train: SplitRecord,
    test: SplitRecord,
) -> str:
    """The digest (SHA-256, hex) that identifies a store's data."""
    return digest_of(
        {
            "schema_version": SCHEMA_VERSION,
            "image_size": image_size,
            "shape": shape,
            "classes": classes,
            "train": train.model_dump(mode="json"),
            "test": test.model_dump(mode="json"),
        }
    )


def labels_sha256(store: Store) -> str:
    """SHA-256 (hex) of the bytes of training labels, then test labels; not in the manifest."""
    digest = hashlib.sha256()
    for split in (store.train, store.test):
        _hash_rows(split.labels, digest.update)
    return digest.hexdigest()


def array_file(split: SplitName, part: Part) -> str:
    """The name of one of a split's files; only stores of whole images have sizes."""
    return f"{split}_{part}.npy"


def _open_split(
    folder: Path, split: SplitName, rows: int, manifest: Manifest
) -> Split | WholeSplit:
    labels = _open_array(folder / array_file(split, "labels"), LABEL_DTYPE, (rows,))
    images = folder / array_file(split, "images")
    if manifest.shape == "square":
        side = manifest.image_size
        return Split(_open_array(images, IMAGE_DTYPE, (rows, CHANNELS, side, side)), labels)
    sizes = _open_array(folder / array_file(split, "sizes"), SIZE_DTYPE, (rows, 2))
    shape = (int(image_bytes(sizes).sum()),)
    return WholeSplit(_open_array(images, IMAGE_DTYPE, shape), sizes, labels)


def _open_array(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if not path.is_file():
        raise UserError(f"missing file {path}, which {MANIFEST} describes; prepare the data again")
    try:
        # Not np.load, which would also accept archives of several arrays.
        array = np.lib.format.open_memmap(path, mode="r")
    # NumPy parses the header as Python: damaged, it may not even consist of tokens.
    except (OSError, ValueError, EOFError, SyntaxError, tokenize.TokenError) as error:
        raise unreadable(path, "a complete .npy file", error, "prepare the data again") from error
    if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        raise UserError(
            f"{path} holds {array.dtype} {array.shape}, but {MANIFEST} says {dtype} {shape} "
            f"in C order; prepare the data again"
        )
    return array


def _split_sha256(split: Split | WholeSplit) -> str:
    digest = hashlib.sha256()
    images: list[NDArray[Any]] = (
        [split.pixels, split.sizes] if isinstance(split, WholeSplit) else [split.images]
    )
    for array in (*images, split.labels):
        _hash_rows(array, digest.update)
    return digest.hexdigest()


def _hash_rows(array: NDArray[Any], update: Callable[[memoryview], None]) -> None:
    step = max(1, _HASH_BYTES // (array.nbytes // len(array)))
    for start in range(0, len(array), step):
        update(array[start : start + step].data)
