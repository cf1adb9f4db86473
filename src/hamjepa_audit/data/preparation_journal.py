"""What is done of a split whose images are prepared whole: pixels so far, and a journal of them.

The journal has one line an image, written after the image's pixels.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO

from hamjepa_audit.data.store import CHANNELS, SplitName, images_file
from hamjepa_audit.files import CHUNK

HEADER_BYTES = 128
"""Room for the .npy header of the pixels, whose number is known last."""


@dataclass(frozen=True, slots=True)
class Row:
    """One image of a split: the file that it is made of, and its size once it is made."""

    name: str
    label: str
    file_bytes: int
    modified_ns: int
    height: int = 0
    width: int = 0

    def is_of(self, other: "Row") -> bool:
        """Whether both are made of the same file in the same state."""
        return replace(self, height=0, width=0) == replace(other, height=0, width=0)


@dataclass
class SplitWork:
    """A split in preparation.

    Attributes:
        folder: where its files lie meanwhile.
        split: train or test.
        rows: all its images.
        done: the first of them, as far as their pixels are there.
    """

    folder: Path
    split: SplitName
    rows: list[Row]
    done: list[Row] = field(default_factory=list)

    @property
    def pixels(self) -> Path:
        """The pixels so far, after room for the header."""
        return self.folder / images_file(self.split)

    @property
    def journal(self) -> Path:
        """One line for each image whose pixels are there."""
        return self.folder / f"{self.split}.jsonl"

    @property
    def pixel_bytes(self) -> int:
        """Bytes of the images that are done."""
        return sum(CHANNELS * row.height * row.width for row in self.done)


def journalled_rows(work: SplitWork) -> Iterator[Row]:
    """The rows at the beginning of the journal that are still the split's.

    A line that an interruption cut short is not JSON, and ends them.
    """
    if not work.journal.exists():
        return
    with work.journal.open() as journal:
        for line, row in zip(journal, work.rows, strict=False):
            try:
                found = Row(**json.loads(line))
            except json.JSONDecodeError:
                return
            if not found.is_of(row):
                return
            yield found


def finished_rows(work: SplitWork) -> list[Row]:
    """Those of `journalled_rows` that have all pixels."""
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
    """Cuts both files after what is done, which the digest takes in."""
    pixels.truncate(HEADER_BYTES + work.pixel_bytes)
    pixels.seek(HEADER_BYTES)
    while chunk := pixels.read(CHUNK):
        digest.update(chunk)
    journal.truncate(sum(len(journal_lines([row])) for row in work.done))
    journal.seek(0, os.SEEK_END)


def journal_lines(rows: list[Row]) -> str:
    """The journal's lines of some rows."""
    return "".join(f"{json.dumps(asdict(row))}\n" for row in rows)
