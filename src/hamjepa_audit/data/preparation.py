"""Preparation: a source's images, decoded once into an immutable store."""

import hashlib
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from hamjepa_audit.data.progress import Progress
from hamjepa_audit.data.sources import SourceImages, SplitImages, open_source
from hamjepa_audit.data.store import (
    CHANNELS,
    IMAGE_DTYPE,
    LABEL_DTYPE,
    MANIFEST,
    Manifest,
    SplitName,
    SplitRecord,
    array_file,
)
from hamjepa_audit.data.store_writing import (
    SPLITS,
    complete_split,
    images_header,
    move_store,
    require_all_classes,
    require_pinned_digest,
    require_space,
    sole_preparation,
    sync,
    write_manifest,
)
from hamjepa_audit.data.whole_preparation import list_whole, prepare_whole
from hamjepa_audit.errors import UserError, explained
from hamjepa_audit.leftovers import remove_leftovers, temporary_prefix
from hamjepa_audit.params.sources import ImageFolderParams, Source

_HEADER_BYTES = 4096


def prepare(source: Source, raw: Path, root: Path, *, threads: int = 1) -> Path:
    """Makes the store of a source, replacing an existing one.

    The files are written in a temporary folder and moved into place once all are complete, the
    manifest last. A failure before that leaves nothing behind, except with images that are kept
    whole: they take long, so finished ones are kept (see `whole_preparation`).

    Args:
        source: what to prepare.
        raw: the folder of raw data that the source's paths are relative to.
        root: the folder of prepared data; the store is `root / source.name`.
        threads: number of images decoded in parallel; the result does not depend on it.

    Returns:
        The path of the store's manifest.

    Raises:
        UserError: the raw data are missing or damaged, a split lacks a class, the disk is too
            small or can't be written to, the digest is not the one that the source pins, or
            another process is preparing the same data set.
    """
    folder = root / source.name
    if isinstance(source, ImageFolderParams) and source.shape == "whole":
        write: Callable[[], object] = partial(
            prepare_whole, source, list_whole(source, raw), root, threads
        )
    else:
        write = partial(_prepare_squares, source, open_source(source, raw, threads), root)
    # Errors of reading are UserErrors already.
    with explained(f"write {folder}", "check the folder's permissions and free disk space"):
        write()
    return folder / MANIFEST


def _prepare_squares(source: Source, images: SourceImages, root: Path) -> None:
    labels = {split: _split_of(images, split).labels for split in SPLITS}
    require_all_classes(source, images.classes, labels)
    folder = root / source.name
    require_space(source, folder, _needed_bytes(source, images))
    root.mkdir(parents=True, exist_ok=True)
    with sole_preparation(source, root):
        remove_leftovers(folder)
        with tempfile.TemporaryDirectory(prefix=temporary_prefix(folder), dir=root) as scratch:
            manifest = _write_store(Path(scratch), source, images)
            require_pinned_digest(source, manifest)
            move_store(Path(scratch), folder, manifest.shape)


def _needed_bytes(source: Source, images: SourceImages) -> int:
    rows = sum(len(_split_of(images, split).labels) for split in SPLITS)
    return rows * (3 * source.image_size**2 + LABEL_DTYPE.itemsize) + 4 * _HEADER_BYTES


def _write_store(folder: Path, source: Source, images: SourceImages) -> Manifest:
    records = {split: _write_split(folder, source, images, split) for split in SPLITS}
    return write_manifest(
        folder, source, "square", images.classes, records, images.library_versions
    )


def _write_split(
    folder: Path, source: Source, images: SourceImages, split: SplitName
) -> SplitRecord:
    content = _split_of(images, split)
    labels = content.labels
    digest = hashlib.sha256()
    title = f"preparing {source.name}, {split}"
    # Plain writes raise an error on a full disk; a memory map would kill the process.
    target = folder / array_file(split, "images")
    with target.open("wb") as stream, Progress(title, len(labels)) as shown:
        stream.write(images_header(len(labels), CHANNELS, source.image_size, source.image_size))
        rows = 0
        for block in content.blocks():
            pixels = np.ascontiguousarray(block, dtype=IMAGE_DTYPE)
            stream.write(pixels.data)
            digest.update(pixels.data)
            rows += len(pixels)
            shown.advance(len(pixels))
        sync(stream)
    if rows != len(labels):
        raise UserError(
            f"the {split} split of '{source.name}' gave {rows} images for {len(labels)} labels: "
            f"the raw data changed while they were read; prepare them again"
        )
    return complete_split(folder, split, labels, len(images.classes), digest)


def _split_of(images: SourceImages, split: SplitName) -> SplitImages:
    return images.train if split == "train" else images.test
