"""Preparation of images that are kept whole; it takes long and resumes after an interruption.

The folder `.NAME.partial` beside the store holds, for each split, the pixels so far and their
journal. A new preparation keeps the leading images of the journal that are still the first of the
source, and continues after them.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from hamjepa_audit.data.ahead import ahead
from hamjepa_audit.data.preparation_journal import (
    HEADER_BYTES,
    Row,
    SplitWork,
    finished_rows,
    journal_lines,
    journalled_rows,
    rewind,
)
from hamjepa_audit.data.progress import Progress
from hamjepa_audit.data.sources.base import DAMAGED, pillow_versions, reading_raw_data
from hamjepa_audit.data.sources.image_folder import (
    class_names,
    list_image_folder,
    read_whole,
    whole_size,
)
from hamjepa_audit.data.store import (
    CHANNELS,
    MANIFEST,
    SCHEMA_VERSION,
    SIZE_DTYPE,
    Images as Pixels,
    Labels,
    SplitName,
    SplitRecord,
    array_file,
    load_manifest,
)
from hamjepa_audit.data.store_writing import (
    SPLITS,
    complete_split,
    free_bytes,
    images_header,
    move_store,
    require_all_classes,
    require_pinned_digest,
    require_space,
    sole_preparation,
    sync,
    write_array,
    write_manifest,
)
from hamjepa_audit.errors import UserError
from hamjepa_audit.params.sources import ImageFolderParams

BLOCK_ROWS = 64
"""Images per block written; an interruption may lose one block of work."""

AHEAD_PER_THREAD = 4
"""Images per thread that may be decoded before they are written."""

SAMPLED = 500
"""Images whose size is looked up to estimate the disk space that the store needs."""


@dataclass(frozen=True)
class Folder:
    """A listed folder of images: its path, its classes, the images of each split."""

    raw: Path
    classes: tuple[str, ...]
    rows: dict[SplitName, list[Row]]


def list_whole(source: ImageFolderParams, raw: Path) -> Folder:
    """Lists a source's folder.

    Raises:
        UserError: a folder is missing, holds no images, or can't be read.
    """
    place = raw / source.folder
    listings = list_image_folder(source, raw)
    with reading_raw_data(source, raw):
        rows = [[_row(place, label, path) for label, path in listing] for listing in listings]
    classes = class_names(source, (row.label for split in rows for row in split))
    return Folder(place, classes, dict(zip(SPLITS, rows, strict=True)))


def prepare_whole(source: ImageFolderParams, images: Folder, root: Path, threads: int) -> None:
    """Makes the store of a folder of images that are kept whole.

    After an interruption, finished work is kept beside the store, and the next preparation
    continues from there. The store's files appear once all are complete, the manifest last.

    Raises:
        UserError: as `preparation.prepare`.
        OSError: the disk is full or can't be written to.
    """
    labels = {split: _labels(images, split) for split in SPLITS}
    require_all_classes(source, images.classes, labels)
    scratch = root / f".{source.name}.partial"
    scratch.mkdir(parents=True, exist_ok=True)
    with sole_preparation(source, root):
        works = _works(source, images, scratch)
        if not _is_whole(scratch, works):
            (scratch / MANIFEST).unlink(missing_ok=True)
            _say_what_it_takes(source, images, works, root / source.name)
            records = {work.split: _decode(source, images, work, threads) for work in works}
            write_manifest(scratch, source, "whole", images.classes, records, pillow_versions())
        require_pinned_digest(source, load_manifest(scratch))
        move_store(scratch, root / source.name, "whole")
        shutil.rmtree(scratch)


def _labels(images: Folder, split: SplitName) -> Labels:
    numbers = {name: number for number, name in enumerate(images.classes)}
    return np.array([numbers[row.label] for row in images.rows[split]], dtype=np.int64)


def _works(source: ImageFolderParams, images: Folder, scratch: Path) -> list[SplitWork]:
    """Both splits, with the rows that an earlier preparation finished."""
    layout = {"schema_version": SCHEMA_VERSION, "image_size": source.image_size}
    _forget_unless(scratch, {**layout, **pillow_versions()})
    works = [SplitWork(scratch, split, images.rows[split]) for split in SPLITS]
    for work in works:
        work.done = finished_rows(work)
    return works


def _row(raw: Path, label: str, path: Path) -> Row:
    status = path.stat()
    return Row(str(path.relative_to(raw)), label, status.st_size, status.st_mtime_ns)


def _forget_unless(scratch: Path, settings: dict[str, object]) -> None:
    """Discards work that was done under other settings, which give other pixels or files."""
    path = scratch / "settings.json"
    text = json.dumps(settings)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        for split in SPLITS:
            SplitWork(scratch, split, []).journal.unlink(missing_ok=True)
        path.write_text(text, encoding="utf-8")


def _is_whole(scratch: Path, works: list[SplitWork]) -> bool:
    """Whether an earlier preparation of the same images only has to be pinned or moved.

    The files themselves aren't checked: an interrupted move may have moved some of them.
    """
    return (scratch / MANIFEST).exists() and all(
        sum(1 for _ in journalled_rows(work)) == len(work.rows) for work in works
    )


def _say_what_it_takes(
    source: ImageFolderParams, images: Folder, works: list[SplitWork], folder: Path
) -> None:
    """Prints how much disk space the store needs; raises UserError if it isn't free."""
    needed = sum(_estimated_bytes(source, images, work) for work in works)
    there = sum(work.pixel_bytes for work in works)
    done, rows = sum(len(work.done) for work in works), sum(len(work.rows) for work in works)
    print(
        f"preparing {source.name}: {rows:,} images, about {needed / 1e9:,.2f} GB in {folder}, "
        f"{free_bytes(folder) / 1e9:,.2f} GB free"
        + (f"; {done:,} images are there already" if done else ""),
        file=sys.stderr,
        flush=True,
    )
    require_space(source, folder, needed - there)


def _estimated_bytes(source: ImageFolderParams, images: Folder, work: SplitWork) -> int:
    """Bytes of a split's pixels, estimated from the sizes of evenly spaced images."""
    sizes = []
    for row in work.rows[:: -(-len(work.rows) // SAMPLED)]:
        try:
            with Image.open(images.raw / row.name) as image:
                width, height = whole_size(image.size, source.image_size)
        except DAMAGED:
            continue  # decoding will report what is wrong with it
        sizes.append(CHANNELS * width * height)
    return round(len(work.rows) * sum(sizes) / max(1, len(sizes)))


def _decode(
    source: ImageFolderParams, images: Folder, work: SplitWork, threads: int
) -> SplitRecord:
    """Decodes the remaining images; each block is kept once it is written."""
    digest = hashlib.sha256()
    title = f"preparing {source.name}, {work.split}"
    for path in (work.pixels, work.journal):
        path.touch()
    with (
        work.pixels.open("r+b") as pixels,
        work.journal.open("r+") as journal,
        Progress(title, len(work.rows)) as progress,
        closing(_blocks(source, images, work.rows[len(work.done) :], threads)) as blocks,
    ):
        rewind(work, pixels, journal, digest)
        progress.start_at(len(work.done))
        for block, arrays in blocks:
            for array in arrays:
                pixels.write(array.data)
                digest.update(array.data)
            sync(pixels)  # the journal must not list pixels that aren't on the disk
            journal.write(journal_lines(block))
            journal.flush()
            work.done += block
            if block:
                progress.advance(len(block))
        header = images_header(work.pixel_bytes)
        assert len(header) == HEADER_BYTES, header
        pixels.seek(0)
        pixels.write(header)
        sync(pixels)
    return _describe(images, work, digest)


def _blocks(
    source: ImageFolderParams, images: Folder, rows: list[Row], threads: int
) -> Generator[tuple[list[Row], list[Pixels]], None, None]:
    """Yields blocks, in order, of rows with their sizes and of their pixels (height, width, 3).

    Raises:
        UserError: an image is broken; the images before it have been yielded.
    """

    def read(row: Row) -> Pixels:
        return read_whole(images.raw / row.name, source.image_size)

    block: list[Row] = []
    arrays: list[Pixels] = []
    with closing(ahead(read, rows, threads, depth=AHEAD_PER_THREAD * threads)) as futures:
        for row, future in zip(rows, futures, strict=True):
            try:
                array = future.result()
            except UserError as error:
                yield block, arrays
                raise UserError(
                    f"{error}; the images before it are kept, and preparing again resumes there"
                ) from error
            block.append(replace(row, height=array.shape[0], width=array.shape[1]))
            arrays.append(array)
            if len(block) == BLOCK_ROWS:
                yield block, arrays
                block, arrays = [], []
    yield block, arrays


def _describe(images: Folder, work: SplitWork, digest: "hashlib._Hash") -> SplitRecord:
    """Writes a split's sizes and labels; `digest` covers its pixels already."""
    sizes = np.array([(row.height, row.width) for row in work.done], dtype=SIZE_DTYPE)
    write_array(work.folder / array_file(work.split, "sizes"), sizes)
    digest.update(sizes.data)
    labels = _labels(images, work.split)
    return complete_split(work.folder, work.split, labels, len(images.classes), digest)
