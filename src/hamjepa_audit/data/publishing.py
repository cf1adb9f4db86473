"""What every preparation checks, and how a finished store takes its place."""

import os
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

import numpy as np

from hamjepa_audit.data.store import (
    LABEL_DTYPE,
    MANIFEST,
    Labels,
    Manifest,
    Shape,
    SplitName,
    images_file,
    labels_file,
    sizes_file,
)
from hamjepa_audit.errors import UserError
from hamjepa_audit.locking import sole_process
from hamjepa_audit.params.sources import Source

SPLITS: tuple[SplitName, ...] = ("train", "test")


def require_all_classes(
    source: Source, classes: tuple[str, ...], labels: Mapping[SplitName, Labels]
) -> None:
    """Refuses a split that has no image of some class.

    Args:
        source: for the message.
        classes: all of them.
        labels: int64 (N,) of each split, places in `classes`.
    """
    for split, values in labels.items():
        empty = np.flatnonzero(np.bincount(values, minlength=len(classes)) == 0)
        if len(empty) > 0:
            raise UserError(
                f"class '{classes[empty[0]]}' of '{source.name}' has no images in the "
                f"{split} split ({len(empty)} of {len(classes)} classes lack them): "
                f"every class needs some in both; complete the data or drop the class"
            )


def free_bytes(folder: Path) -> int:
    """Free disk space where a folder is, or will be."""
    place = folder
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def require_space(source: Source, folder: Path, needed: int) -> None:
    """Refuses to fill a disk that has less than `needed` bytes."""
    free = free_bytes(folder)
    if needed > free:
        raise UserError(
            f"preparing '{source.name}' needs {needed / 1e6:,.1f} MB in {folder}, but only "
            f"{free / 1e6:,.1f} MB are free there; free some or choose another folder of data"
        )


def require_pinned_digest(source: Source, manifest: Manifest) -> None:
    """Refuses data that are not those that the parameters pin."""
    if source.digest is not None and source.digest != manifest.digest:
        versions = ", ".join(f"{name} {at}" for name, at in manifest.library_versions.items())
        raise UserError(
            f"'{source.name}' prepared here has the digest {manifest.digest}, but the study pins "
            f"{source.digest}: other raw data, parameters or libraries (here {versions}); "
            f"mend them, or pin the new digest as data.digest"
        )


def write_labels(folder: Path, split: SplitName, labels: Labels) -> Labels:
    """Writes a split's labels; returns them as they are written."""
    written = labels.astype(LABEL_DTYPE)
    with (folder / labels_file(split)).open("wb") as stream:
        np.lib.format.write_array(stream, written, allow_pickle=False)
        sync(stream)
    return written


def sync(stream: IO[bytes]) -> None:
    """Waits until what was written is on the disk."""
    stream.flush()
    os.fsync(stream.fileno())


def sole_preparation(source: Source, root: Path) -> AbstractContextManager[None]:
    """Held by the one process that prepares a data set in the folder `root`, which is there.

    Raises:
        UserError: another one is at it.
    """
    return sole_process(root / f".{source.name}.lock", f"preparing '{source.name}' in {root}")


def move_store(scratch: Path, folder: Path, shape: Shape) -> None:
    """Puts a store's files in place; without a manifest, what is there meanwhile is no store.

    Where an earlier move was cut short, the files that aren't in `scratch` are in place already.

    Args:
        scratch: where the files lie.
        folder: where they belong.
        shape: of the store's images, which decides what files it has.
    """
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    for split in SPLITS:
        if shape == "square":
            (folder / sizes_file(split)).unlink(missing_ok=True)
        for name in (images_file(split), sizes_file(split), labels_file(split)):
            if (scratch / name).exists():
                (scratch / name).replace(folder / name)
    (scratch / MANIFEST).replace(folder / MANIFEST)
