"""CIFAR-10 and CIFAR-100 through torchvision, from the archive whose checksum torchvision pins.

The archive holds pickles, which run code when loaded, so it is opened only after its checksum has
matched. It is unpacked in a temporary folder; the folder of raw data holds only the archive.
"""

import hashlib
import http.client
import tarfile
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from hamjepa_audit.data.sources.base import BLOCK_ROWS, SourceImages, SplitImages
from hamjepa_audit.data.store import Images
from hamjepa_audit.errors import UserError, first_line
from hamjepa_audit.leftovers import remove_leftovers, temporary_prefix
from hamjepa_audit.params.sources import CifarParams

SIDE = 32


def open_cifar(source: CifarParams, raw: Path) -> SourceImages:
    """Opens CIFAR from its archive in `raw / source.folder`, downloaded if that is allowed.

    Raises:
        UserError: `image_size` is not 32; the archive is missing and can't or may not be
            downloaded; it has another checksum; it can't be unpacked.
    """
    if source.image_size != SIDE:
        raise UserError(
            f"data.image_size is {source.image_size}: {source.source} has {SIDE}x{SIDE} pixels; "
            f"set it to {SIDE}"
        )
    from torchvision import datasets  # slow to import

    pinned = datasets.CIFAR10 if source.source == "cifar10" else datasets.CIFAR100
    archive = raw / source.folder / pinned.filename
    if not archive.exists():
        _require_download(source, pinned, archive)
        _download(pinned, archive)
    _require_checksum(pinned, archive)
    train, test = _load(pinned, archive)
    return SourceImages(
        classes=tuple(train.classes),
        train=_split(train),
        test=_split(test),
        library_versions={"torchvision": version("torchvision")},
    )


def _require_download(source: CifarParams, pinned: Any, archive: Path) -> None:
    if not source.download:
        raise UserError(
            f"missing {pinned.filename}, expected as {archive}, and data.download is false; "
            f"get it from {pinned.url} and put it there, or set data.download to true"
        )


def _download(pinned: Any, archive: Path) -> None:
    """Downloads the archive beside its destination, and moves it there if its checksum matches."""
    from torchvision.datasets import utils  # slow to import

    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(archive)
        prefix = temporary_prefix(archive)
        with tempfile.TemporaryDirectory(prefix=prefix, dir=archive.parent) as scratch:
            utils.download_url(pinned.url, scratch, pinned.filename, pinned.tgz_md5)
            (Path(scratch) / pinned.filename).replace(archive)
    # RuntimeError is how torchvision reports a wrong checksum or too many redirects.
    except (OSError, http.client.HTTPException, RuntimeError) as error:
        raise UserError(
            f"missing {pinned.filename}, expected as {archive}, and downloading {pinned.url} "
            f"failed ({first_line(error)}); download it on another machine and put it there"
        ) from error


def _require_checksum(pinned: Any, archive: Path) -> None:
    with archive.open("rb") as stream:
        found = hashlib.file_digest(stream, _md5).hexdigest()
    if found != pinned.tgz_md5:
        raise UserError(
            f"{archive} has the MD5 {found}, expected {pinned.tgz_md5}: it is damaged or another "
            f"file; delete it and get it again from {pinned.url}"
        )


def _md5() -> "hashlib._Hash":
    return hashlib.md5(usedforsecurity=False)  # the checksum that torchvision pins


def _load(pinned: Any, archive: Path) -> tuple[Any, Any]:
    """Torchvision's train and test sets, with `data` (N, 32, 32, 3), `targets`, `classes`."""
    try:
        with tempfile.TemporaryDirectory(prefix="hamjepa-audit-") as scratch:
            _unpack(archive, scratch)
            return pinned(scratch, train=True), pinned(scratch, train=False)
    except RuntimeError as error:  # torchvision: a file is missing or has another checksum
        raise UserError(
            f"{archive} does not unpack to the files that torchvision's checksums name; "
            f"delete it and get it again from {pinned.url}"
        ) from error
    except (OSError, EOFError, tarfile.TarError) as error:
        raise UserError(
            f"{archive} can't be unpacked and read in {tempfile.gettempdir()} "
            f"({first_line(error)}); check the free disk space there (TMPDIR chooses the folder)"
        ) from error


def _unpack(archive: Path, folder: str) -> None:
    # Python has filters from 3.11.4 on; before that, only the checksum protects against attacks.
    options: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(archive) as packed:
        packed.extractall(folder, **options)


def _split(dataset: Any) -> SplitImages:
    def blocks() -> Iterator[Images]:
        for start in range(0, len(dataset.data), BLOCK_ROWS):
            yield dataset.data[start : start + BLOCK_ROWS].transpose(0, 3, 1, 2)

    return SplitImages(labels=np.asarray(dataset.targets, dtype=np.int64), blocks=blocks)
