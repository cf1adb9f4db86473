"""Preparation: a source's images, decoded once into an immutable store."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import IO

import numpy as np

from hamjepa_audit.data.progress import Progress
from hamjepa_audit.data.sources import SourceImages, SplitImages, open_source
from hamjepa_audit.data.store import (
    IMAGE_DTYPE,
    LABEL_DTYPE,
    MANIFEST,
    SCHEMA_VERSION,
    Manifest,
    SplitName,
    SplitRecord,
    content_digest,
    images_file,
    labels_file,
)
from hamjepa_audit.errors import UserError
from hamjepa_audit.files import write_sealed_json
from hamjepa_audit.leftovers import remove_leftovers, temporary_prefix
from hamjepa_audit.params.sources import Source

SPLITS: tuple[SplitName, ...] = ("train", "test")
_HEADER_BYTES = 4096


def prepare(source: Source, raw: Path, root: Path, *, threads: int = 1) -> Path:
    """Makes the store of a source, in place of one that is there already.

    The files are written in a temporary folder and moved to their places once all are whole, the
    manifest last. Whatever fails before that leaves nothing behind.

    Args:
        source: what to prepare.
        raw: the folder of raw data that the source's paths are relative to.
        root: the folder of prepared data; the store is `root / source.name`.
        threads: how many images are decoded side by side; the result does not depend on it.

    Returns:
        The path of the store's manifest.

    Raises:
        UserError: the raw data are missing or damaged, a split lacks a class, the disk is too
            small or can't be written to, or the digest is not the one that the source pins.
    """
    images = open_source(source, raw, threads)
    _require_all_classes(source, images)
    folder = root / source.name
    try:
        _require_space(folder, source, images)
        root.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        with tempfile.TemporaryDirectory(prefix=temporary_prefix(folder), dir=root) as scratch:
            manifest = _write_store(Path(scratch), source, images)
            _require_pinned_digest(source, manifest)
            _move(Path(scratch), folder)
    except OSError as error:  # sources turn what they read with into UserErrors themselves
        reason = error.strerror or str(error)
        raise UserError(
            f"can't write {folder}: {reason}; check the folder's permissions and free disk space"
        ) from error
    return folder / MANIFEST


def _require_all_classes(source: Source, images: SourceImages) -> None:
    for split in SPLITS:
        labels = _split_of(images, split).labels
        counts = np.bincount(labels, minlength=len(images.classes))
        empty = np.flatnonzero(counts == 0)
        if len(empty) > 0:
            raise UserError(
                f"class '{images.classes[empty[0]]}' of '{source.name}' has no images in the "
                f"{split} split ({len(empty)} of {len(images.classes)} classes lack them): "
                f"every class needs some in both; complete the data or drop the class"
            )


def _require_space(folder: Path, source: Source, images: SourceImages) -> None:
    rows = sum(len(_split_of(images, split).labels) for split in SPLITS)
    needed = rows * (3 * source.image_size**2 + LABEL_DTYPE.itemsize) + 4 * _HEADER_BYTES
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise UserError(
            f"preparing '{source.name}' needs {needed / 1e6:,.1f} MB in {folder}, but only "
            f"{free / 1e6:,.1f} MB are free there; free some or choose another folder of data"
        )


def _write_store(folder: Path, source: Source, images: SourceImages) -> Manifest:
    train, test = (_write_split(folder, source, images, split) for split in SPLITS)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        dataset=source.name,
        source=source.source,
        image_size=source.image_size,
        classes=images.classes,
        train=train,
        test=test,
        digest=content_digest(source.image_size, images.classes, train, test),
        library_versions=images.library_versions,
    )
    write_sealed_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    return manifest


def _write_split(
    folder: Path, source: Source, images: SourceImages, split: SplitName
) -> SplitRecord:
    content = _split_of(images, split)
    labels = content.labels.astype(LABEL_DTYPE)
    digest = hashlib.sha256()
    title = f"preparing {source.name}, {split}"
    # Plain writes: on a full disk they are an error, where a memory map kills the process.
    with (folder / images_file(split)).open("wb") as stream, Progress(title, len(labels)) as shown:
        _write_header(stream, (len(labels), 3, source.image_size, source.image_size))
        rows = 0
        for block in content.blocks():
            pixels = np.ascontiguousarray(block, dtype=IMAGE_DTYPE)
            stream.write(pixels.data)
            digest.update(pixels.data)
            rows += len(pixels)
            shown.advance(len(pixels))
        _sync(stream)
    if rows != len(labels):
        raise UserError(
            f"the {split} split of '{source.name}' gave {rows} images for {len(labels)} labels: "
            f"the raw data changed while they were read; prepare them again"
        )
    with (folder / labels_file(split)).open("wb") as stream:
        np.lib.format.write_array(stream, labels, allow_pickle=False)
        _sync(stream)
    digest.update(labels.data)
    counts = np.bincount(labels, minlength=len(images.classes))
    return SplitRecord(rows=rows, rows_per_class=tuple(counts.tolist()), sha256=digest.hexdigest())


def _write_header(stream: IO[bytes], shape: tuple[int, ...]) -> None:
    descriptor = np.lib.format.dtype_to_descr(IMAGE_DTYPE)
    np.lib.format.write_array_header_1_0(
        stream, {"descr": descriptor, "fortran_order": False, "shape": shape}
    )


def _sync(stream: IO[bytes]) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _require_pinned_digest(source: Source, manifest: Manifest) -> None:
    if source.digest is not None and source.digest != manifest.digest:
        versions = ", ".join(f"{name} {at}" for name, at in manifest.library_versions.items())
        raise UserError(
            f"'{source.name}' prepared here has the digest {manifest.digest}, but the study pins "
            f"{source.digest}: other raw data, parameters or libraries (here {versions}); "
            f"mend them, or pin the new digest as data.digest"
        )


def _move(scratch: Path, folder: Path) -> None:
    """Puts the files in place; without a manifest, what is there meanwhile is no store."""
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    for split in SPLITS:
        for name in (images_file(split), labels_file(split)):
            (scratch / name).replace(folder / name)
    (scratch / MANIFEST).replace(folder / MANIFEST)


def _split_of(images: SourceImages, split: SplitName) -> SplitImages:
    return images.train if split == "train" else images.test
