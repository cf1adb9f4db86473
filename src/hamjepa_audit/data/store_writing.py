"""Checks that all preparations share; writing a store and moving it into place."""

import hashlib
import io
import os
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from hamjepa_audit.data.store import (
    IMAGE_DTYPE,
    LABEL_DTYPE,
    MANIFEST,
    PARTS,
    SCHEMA_VERSION,
    Labels,
    Manifest,
    Shape,
    SplitName,
    SplitRecord,
    array_file,
    content_digest,
)
from hamjepa_audit.errors import UserError
from hamjepa_audit.files import write_sealed_json
from hamjepa_audit.locking import sole_process
from hamjepa_audit.params.sources import Source

SPLITS: tuple[SplitName, ...] = ("train", "test")

COMPLETION = {
    "image_folder": "add images of it, or list the classes to take under data.classes",
    "parquet": "add rows of it, or write the files again without its name, and labels without gaps",
    "digits": "change data.test_fraction or data.split_seed",
    "cifar10": "fetch the archive again",
    "cifar100": "fetch the archive again",
}
"""What to do about a class without images, by the kind of source."""


def require_all_classes(
    source: Source, classes: tuple[str, ...], labels: Mapping[SplitName, Labels]
) -> None:
    """Raises UserError if there are fewer than two classes, or a split lacks images of one.

    `labels` are int64 (N,), indices into `classes`.
    """
    if len(classes) < 2:
        raise UserError(
            f"'{source.name}' has only the class '{classes[0]}': accuracies need at least two; "
            f"add images of another class"
        )
    for split, values in labels.items():
        empty = np.flatnonzero(np.bincount(values, minlength=len(classes)) == 0)
        if len(empty) > 0:
            raise UserError(
                f"class '{classes[empty[0]]}' of '{source.name}' has no images in the "
                f"{split} split ({len(empty)} of {len(classes)} classes lack them): "
                f"every class needs some in both; {COMPLETION[source.source]}"
            )


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk where a folder is, or will be."""
    place = folder
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def require_space(source: Source, folder: Path, needed: int) -> None:
    """Raises UserError if less than `needed` bytes are free on the disk."""
    free = free_bytes(folder)
    if needed > free:
        raise UserError(
            f"preparing '{source.name}' needs {needed / 1e6:,.1f} MB in {folder}, but only "
            f"{free / 1e6:,.1f} MB are free there; free some or choose another folder of data"
        )


def require_pinned_digest(source: Source, manifest: Manifest) -> None:
    """Raises UserError if the prepared data are not those that the parameters pin."""
    if source.digest is not None and source.digest != manifest.digest:
        versions = ", ".join(f"{name} {at}" for name, at in manifest.library_versions.items())
        raise UserError(
            f"'{source.name}' prepared here has the digest {manifest.digest}, but the study pins "
            f"{source.digest}: other raw data, parameters or libraries (here {versions}); "
            f"fix them, or pin the new digest as data.digest"
        )


def images_header(*shape: int) -> bytes:
    """The .npy header of an array of images of this shape."""
    stream = io.BytesIO()
    descriptor = np.lib.format.dtype_to_descr(IMAGE_DTYPE)
    np.lib.format.write_array_header_1_0(
        stream, {"descr": descriptor, "fortran_order": False, "shape": shape}
    )
    return stream.getvalue()


def write_array(target: Path, array: NDArray[Any]) -> None:
    """Writes an array as a .npy file and waits until it is on the disk."""
    with target.open("wb") as stream:
        np.lib.format.write_array(stream, array, allow_pickle=False)
        sync(stream)


def complete_split(
    folder: Path, split: SplitName, labels: Labels, classes: int, digest: "hashlib._Hash"
) -> SplitRecord:
    """Completes a split by writing its labels, int64 (N,); returns the manifest's record of it.

    `digest` is the SHA-256 of the bytes before the labels; it is updated with them.
    """
    written = labels.astype(LABEL_DTYPE)
    write_array(folder / array_file(split, "labels"), written)
    digest.update(written.data)
    counts = np.bincount(labels, minlength=classes)
    return SplitRecord(
        rows=len(labels), rows_per_class=tuple(counts.tolist()), sha256=digest.hexdigest()
    )


def write_manifest(
    folder: Path,
    source: Source,
    shape: Shape,
    classes: tuple[str, ...],
    records: Mapping[SplitName, SplitRecord],
    library_versions: dict[str, str],
) -> Manifest:
    """Writes and returns the manifest of a store whose splits are written.

    Label k is `classes[k]`; the libraries are those that decoded the images.
    """
    train, test = (records[split] for split in SPLITS)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        dataset=source.name,
        source=source.source,
        image_size=source.image_size,
        shape=shape,
        classes=classes,
        train=train,
        test=test,
        digest=content_digest(source.image_size, shape, classes, train, test),
        library_versions=library_versions,
    )
    write_sealed_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    return manifest


def sync(stream: IO[bytes]) -> None:
    """Waits until all that was written to the stream is on the disk."""
    stream.flush()
    os.fsync(stream.fileno())


def sole_preparation(source: Source, root: Path) -> AbstractContextManager[None]:
    """Lock of the one process that prepares a data set in the folder `root`, which must exist.

    Raises:
        UserError: another process is preparing it.
    """
    return sole_process(root / f".{source.name}.lock", f"preparing '{source.name}' in {root}")


def move_store(scratch: Path, folder: Path, shape: Shape) -> None:
    """Moves a store's files into place; until the manifest is moved, the folder is no store.

    If an earlier move was interrupted, the files that aren't in `scratch` are in place already.
    """
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    for split in SPLITS:
        if shape == "square":
            (folder / array_file(split, "sizes")).unlink(missing_ok=True)
        for name in (array_file(split, part) for part in PARTS):
            if (scratch / name).exists():
                (scratch / name).replace(folder / name)
    (scratch / MANIFEST).replace(folder / MANIFEST)
