"""Images in folders, one folder per class; a split may be spread over several parts."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image

from hamjepa_audit.data.sources.base import (
    BLOCK_ROWS,
    SourceImages,
    SplitImages,
    decode_rgb,
    pillow_versions,
    to_planes,
)
from hamjepa_audit.data.store import Images
from hamjepa_audit.errors import UserError
from hamjepa_audit.params.sources import ImageFolderParams

Entry: TypeAlias = tuple[str, Path]
"""Class name and file of an image."""


def open_image_folder(source: ImageFolderParams, raw: Path, threads: int) -> SourceImages:
    """Opens FOLDER/PART/CLASS/* below `raw`; the classes are those of all parts, sorted.

    Raises:
        UserError: the folder or a part is missing, or a part holds no images.
    """
    train, test = map(list, list_image_folder(source, raw))
    classes = class_names(source, (label for label, _ in train + test))
    return SourceImages(
        classes=classes,
        train=_split(train, classes, source.image_size, threads),
        test=_split(test, classes, source.image_size, threads),
        library_versions=pillow_versions(),
    )


def list_image_folder(
    source: ImageFolderParams, raw: Path
) -> tuple[Iterator[Entry], Iterator[Entry]]:
    """The images of the train and the test split, sorted by class, file name and part.

    The order does not depend on how a split is divided into parts of whole classes.

    Raises:
        UserError: the folder is missing; or, when the first image is requested, a part is missing
            or holds no images.
        OSError: a folder can't be read during iteration.
    """
    folder = raw / source.folder
    if not folder.is_dir():
        raise UserError(f"no folder {folder} of images for '{source.name}'; put the data set there")
    train, test = (
        _list_split([folder / part for part in parts], source.classes)
        for parts in (source.train, source.test)
    )
    return train, test


def class_names(source: ImageFolderParams, labels: Iterable[str]) -> tuple[str, ...]:
    """The sorted classes: those that the source names, else all labels of images."""
    return tuple(sorted(source.classes or set(labels)))


def read_square(path: Path, size: int) -> Images:
    """An image file as uint8 (3, size, size): shorter side resized to `size`, centre cut out.

    Sides and offsets are rounded as in torchvision's Resize and CenterCrop.

    Raises:
        UserError: the file is not an image, or is damaged.
    """
    resized = _read_resized(path, size)
    left, top = (round((side - size) / 2) for side in resized.size)
    return to_planes(resized.crop((left, top, left + size, top + size)))


def read_whole(path: Path, size: int) -> Images:
    """An image file as uint8 (height, width, 3): shorter side resized to `size`.

    Raises:
        UserError: the file is not an image, or is damaged.
    """
    return np.asarray(_read_resized(path, size), dtype=np.uint8)


def whole_size(size: tuple[int, int], shorter_side: int) -> tuple[int, int]:
    """Width and height of an image of size (width, height) after its shorter side is resized."""
    width, height = (shorter_side * side // min(size) for side in size)
    return width, height


def _read_resized(path: Path, size: int) -> Image.Image:
    image = decode_rgb(path, str(path))
    return image.resize(whole_size(image.size, size), Image.Resampling.BILINEAR)


def _list_split(parts: list[Path], classes: tuple[str, ...] | None) -> Iterator[Entry]:
    """Yields the images of some parts, of all or the given classes; lists one class at a time."""
    folders: dict[str, list[Path]] = {}
    for part in parts:
        for folder in _class_folders(part):
            if classes is None or folder.name in classes:
                folders.setdefault(folder.name, []).append(folder)
    for label, places in sorted(folders.items()):
        files = [path for place in places for path in place.iterdir() if _is_visible(path)]
        if not files:
            raise UserError(
                f"no images in {' and '.join(map(str, places))}; put the class's images there, or "
                f"delete the folder{'s' if len(places) > 1 else ''}"
            )
        for path in sorted(files, key=lambda path: (path.name, path)):
            yield label, path


def _class_folders(part: Path) -> list[Path]:
    if not part.is_dir():
        raise UserError(
            f"missing folder {part} of classes; put it there or correct data.train and data.test"
        )
    folders = [folder for folder in part.iterdir() if folder.is_dir() and _is_visible(folder)]
    if not any(_is_visible(path) for folder in folders for path in folder.iterdir()):
        raise UserError(f"{part} holds no images; put them in {part}/CLASS/")
    return folders


def _is_visible(path: Path) -> bool:
    return not path.name.startswith(".")


def _split(listing: list[Entry], classes: tuple[str, ...], size: int, threads: int) -> SplitImages:
    numbers = {name: number for number, name in enumerate(classes)}

    def blocks() -> Iterator[Images]:
        with ThreadPoolExecutor(threads) as pool:
            for start in range(0, len(listing), BLOCK_ROWS):
                paths = [path for _, path in listing[start : start + BLOCK_ROWS]]
                yield np.stack(list(pool.map(read_square, paths, [size] * len(paths))))

    labels = np.array([numbers[name] for name, _ in listing], dtype=np.int64)
    return SplitImages(labels=labels, blocks=blocks)
