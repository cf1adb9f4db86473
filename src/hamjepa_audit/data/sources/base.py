"""The interface that all sources share, and decoding of images."""

import contextlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError, features

from hamjepa_audit.data.store import Images, Labels
from hamjepa_audit.errors import UserError, first_line
from hamjepa_audit.params.sources import Source

DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)
"""Errors that Pillow raises when it opens or decodes files that are damaged or not images."""

BLOCK_ROWS = 128
"""Images decoded at a time: 25 MB at 256 pixels."""


@dataclass(frozen=True)
class SplitImages:
    """One split of a source.

    Attributes:
        labels: int64 (N,), known before any image is decoded.
        blocks: starts the stream of images: uint8 (n, 3, S, S) blocks in the labels' order, N
            rows in all; raises UserError for an image that can't be used.
    """

    labels: Labels
    blocks: Callable[[], Iterator[Images]]


@dataclass(frozen=True)
class SourceImages:
    """An opened source: label k is `classes[k]`; the libraries are those that decode images."""

    classes: tuple[str, ...]
    train: SplitImages
    test: SplitImages
    library_versions: dict[str, str]


@contextlib.contextmanager
def reading_raw_data(source: Source, raw: Path) -> Iterator[None]:
    """Turns an OSError of the block into a UserError that names the source."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"can't read the raw data of '{source.name}' in {raw} ({error}); check the permissions"
        ) from error


def decode_rgb(image: Path | IO[bytes], where: str) -> Image.Image:
    """Decodes an image to RGB of 8 bits per channel with Pillow.

    Args:
        image: a file or a stream.
        where: name of the image in error messages.

    Raises:
        UserError: the file can't be read, is not an image or is damaged; or its values are grey and
            of more than 8 bits, which Pillow would clip.
    """
    advice = "fetch it again or take it out of the data set"
    try:
        with Image.open(image) as opened:
            _require_8_bits(opened.mode, where)
            return opened.convert("RGB")
    except IsADirectoryError as error:
        raise UserError(
            f"{where} is a folder: images must lie in the folder of their class"
        ) from error
    except UnidentifiedImageError as error:
        raise UserError(f"{where} is not an image that Pillow can read; {advice}") from error
    except DAMAGED as error:
        raise UserError(f"{where} can't be decoded ({first_line(error)}); {advice}") from error


def _require_8_bits(mode: str, where: str) -> None:
    # Pillow would clip their values to 0..255, which leaves little but black or white.
    if mode in ("I", "F") or mode.startswith("I;"):
        raise UserError(
            f"{where} has Pillow's mode {mode}: 16 or 32 bits per channel; allowed are "
            f"8, such as RGB or L; scale its values to 0..255 and save it with 8 bits"
        )


def to_planes(image: Image.Image) -> Images:
    """An RGB image as uint8 (3, height, width)."""
    return np.asarray(image, dtype=np.uint8).transpose(2, 0, 1)


def pillow_versions() -> dict[str, str]:
    """Versions of Pillow and its codecs, on which decoded pixels depend."""
    codecs = {
        "libjpeg-turbo": features.version_feature("libjpeg_turbo"),
        "libwebp": features.version_module("webp"),
    }
    found = {name: str(number) for name, number in codecs.items() if number is not None}
    return {"pillow": version("pillow")} | found
