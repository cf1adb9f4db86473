"""Progress of preparing a split of whole images: the pixels written so far and their journal.

The journal has one line per image, written after the image's pixels.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO

from hamjepa_audit.data.store import CHANNELS, SplitName, array_file

HEADER_BYTES = 128
"""Bytes reserved for the .npy header of the pixels, whose number is only known at the end."""

CHUNK = 1 << 20
"""Bytes read at a time."""


@dataclass(frozen=True, slots=True)
class Row:
    """One image of a split: the file that it comes from, and its size once it is decoded."""

    name: str
    label: str
    file_bytes: int
    modified_ns: int
    height: int = 0
    width: int = 0

    def is_of(self, other: "Row") -> bool:
        """Whether both rows come from the same file in the same state."""
        return replace(self, height=0, width=0) == replace(other, height=0, width=0)


@dataclass
class SplitWork:
    """A split in preparation.

    Attributes:
        folder: holds its files until they are moved into place.
        split: train or test.
        rows: all its images.
        done: the leading rows whose pixels are written.
    """

    folder: Path
    split: SplitName
    rows: list[Row]
    done: list[Row] = field(default_factory=list)

    @property
    def pixels(self) -> Path:
        """File of the pixels so far, after the bytes reserved for the header."""
        return self.folder / array_file(self.split, "images")

    @property
    def journal(self) -> Path:
        """File with one line for each image whose pixels are written."""
        return self.folder / f"{self.split}.jsonl"

    @property
    def pixel_bytes(self) -> int:
        """Bytes of pixels of the images that are done."""
        return sum(CHANNELS * row.height * row.width for row in self.done)


def journalled_rows(work: SplitWork) -> Iterator[Row]:
    """Yields the leading rows of the journal that still match the split.

    Stops at a line that an interruption cut short, if only by its end.
    """
    if not work.journal.exists():
        return
    with work.journal.open() as journal:
        for line, row in zip(journal, work.rows, strict=False):
            try:
                found = Row(**json.loads(line))
            except json.JSONDecodeError:
                return
            if not line.endswith("\n") or not found.is_of(row):
                return
            yield found


def finished_rows(work: SplitWork) -> list[Row]:
    """The rows of `journalled_rows` whose pixels are complete."""
    if not work.pixels.exists():
        return []
    available = work.pixels.stat().st_size - HEADER_BYTES
    done: list[Row] = []
    for row in journalled_rows(work):
        available -= CHANNELS * row.height * row.width
        if available < 0:
            break
        done.append(row)
    return done


def rewind(work: SplitWork, pixels: IO[bytes], journal: IO[str], digest: "hashlib._Hash") -> None:
    """Truncates both files after the finished rows, and updates the digest with their pixels."""
    pixels.truncate(HEADER_BYTES + work.pixel_bytes)
    pixels.seek(HEADER_BYTES)
    while chunk := pixels.read(CHUNK):
        digest.update(chunk)
    journal.truncate(sum(len(journal_lines([row])) for row in work.done))
    journal.seek(0, os.SEEK_END)


def journal_lines(rows: list[Row]) -> str:
    """The journal's lines for some rows."""
    return "".join(f"{json.dumps(asdict(row))}\n" for row in rows)
