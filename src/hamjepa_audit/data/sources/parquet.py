"""Parquet files in the Hugging Face image convention: `image` {bytes, path} and `label`."""

import io
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hamjepa_audit.data.sources.base import (
    BLOCK_ROWS,
    SourceImages,
    SplitImages,
    decode_rgb,
    pillow_versions,
    to_planes,
)
from hamjepa_audit.data.store import Images, Labels
from hamjepa_audit.errors import UserError, first_line, unreadable
from hamjepa_audit.files import require_sha256
from hamjepa_audit.params.sources import ParquetFile, ParquetParams


def open_parquet(source: ParquetParams, raw: Path, threads: int) -> SourceImages:
    """Opens a study's files and checks each of them before any image is decoded.

    Class names come from the schema metadata under `huggingface`; without them, classes are named
    by their numbers. Error messages count rows from 0 within their file.

    Raises:
        UserError: a file is missing, damaged or not the pinned one; a column is missing; a label
            is null, negative or beyond the class names; files disagree about the class names.
    """
    train = [_checked_path(raw, file, "train") for file in source.train]
    test = [_checked_path(raw, file, "test") for file in source.test]
    labels = {path: _read_labels(path) for path in train + test}
    return SourceImages(
        classes=_classes(labels),
        train=_split(train, labels, source.image_size, threads),
        test=_split(test, labels, source.image_size, threads),
        library_versions=pillow_versions() | {"pyarrow": version("pyarrow")},
    )


def _checked_path(raw: Path, file: ParquetFile, split: str) -> Path:
    path = raw / file.path
    if not path.is_file():
        raise UserError(
            f"missing Parquet file {path}; put it there or correct data.{split} in the study"
        )
    if file.sha256 is not None:
        remedy = f"fetch the file again or correct data.{split} in the study"
        require_sha256(path, file.sha256, "the study", remedy)
    return path


def _read_labels(path: Path) -> Labels:
    """The labels of a file, int64 (N,), none of them null or negative."""
    try:
        with pq.ParquetFile(path) as file:
            _require_columns(path, file.schema_arrow)
            column = file.read(columns=["label"]).column("label").cast(pa.int64())
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error
    nulls = np.flatnonzero(column.is_null().to_numpy())
    if len(nulls) > 0:
        raise UserError(f"{path} row {nulls[0]}: label is null; give the row a label or drop it")
    labels: Labels = column.to_numpy()
    negative = np.flatnonzero(labels < 0)
    if len(negative) > 0:
        row = negative[0]
        raise UserError(
            f"{path} row {row}: label is {labels[row]}, but labels start at 0; "
            f"drop rows without a class"
        )
    return labels


def _require_columns(path: Path, schema: pa.Schema) -> None:
    expected = "expected a struct column image {bytes, path} and an integer column label"
    for name in ("image", "label"):
        if name not in schema.names:
            raise UserError(f"{path} has no column '{name}', only {schema.names}: {expected}")
    image, label = schema.field("image").type, schema.field("label").type
    if not pa.types.is_struct(image) or image.get_field_index("bytes") < 0:
        raise UserError(f"{path} has the column image of type {image}: {expected}")
    content = image.field("bytes").type
    if not (pa.types.is_binary(content) or pa.types.is_large_binary(content)):
        raise UserError(f"{path} has the column image of type {image}: {expected}")
    if not pa.types.is_integer(label):
        raise UserError(f"{path} has the column label of type {label}: {expected}")


def _classes(labels: Mapping[Path, Labels]) -> tuple[str, ...]:
    """The class names that all files agree on, or their numbers if no file has names."""
    names = {path: _class_names(path) for path in labels}
    first, classes = next(iter(names.items()))
    for path, other in names.items():
        if other != classes:
            raise UserError(
                f"class names differ: {_difference(first, classes, path, other)}; "
                f"take files of one data set"
            )
    if classes is None:
        return _numbered_classes(labels)
    for path, numbers in labels.items():
        beyond = np.flatnonzero(numbers >= len(classes))
        if len(beyond) > 0:
            raise UserError(
                f"{path} row {beyond[0]}: label is {numbers[beyond[0]]}, but the file names "
                f"{len(classes)} classes, 0 to {len(classes) - 1}; correct the label"
            )
    return classes


def _numbered_classes(labels: Mapping[Path, Labels]) -> tuple[str, ...]:
    highest = max(int(numbers.max(initial=0)) for numbers in labels.values())
    rows = sum(len(numbers) for numbers in labels.values())
    if highest >= rows:
        path, row = next(
            (path, int(np.argmax(numbers)))
            for path, numbers in labels.items()
            if numbers.max(initial=0) == highest
        )
        raise UserError(
            f"{path} row {row}: label is {highest}, but there are only {rows} rows: "
            f"labels must number the classes from 0 without gaps; renumber them"
        )
    return tuple(str(number) for number in range(highest + 1))


def _class_names(path: Path) -> tuple[str, ...] | None:
    metadata = pq.read_schema(path).metadata or {}
    if b"huggingface" not in metadata:
        return None
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        names = features["label"].get("names")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} has schema metadata under 'huggingface' without info.features.label "
            f"({first_line(error)}); write the file again, with it or without the metadata"
        ) from error
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path} has class names that are not a list of texts: {names!r:.80}")
    return tuple(names)


def _difference(
    first: Path, ours: tuple[str, ...] | None, second: Path, theirs: tuple[str, ...] | None
) -> str:
    if ours is None or theirs is None:
        named, bare = (first, second) if theirs is None else (second, first)
        return f"{named} has them and {bare} has none"
    if len(ours) != len(theirs):
        return f"{first} has {len(ours)} and {second} has {len(theirs)}"
    number = next(k for k, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
    return f"label {number} is '{ours[number]}' in {first} and '{theirs[number]}' in {second}"


def _split(
    paths: list[Path], labels: Mapping[Path, Labels], size: int, threads: int
) -> SplitImages:
    def blocks() -> Iterator[Images]:
        with ThreadPoolExecutor(threads) as pool:
            for path in paths:
                row = 0
                for cells in _cells(path):
                    rows = range(row, row + len(cells))
                    yield np.stack(list(pool.map(partial(_decode, path, size), rows, cells)))
                    row += len(cells)

    return SplitImages(labels=np.concatenate([labels[path] for path in paths]), blocks=blocks)


def _cells(path: Path) -> Iterator[list[Any]]:
    """Yields the image column in blocks of rows, each row a {bytes, path} or None."""
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BLOCK_ROWS, columns=["image"]):
                yield batch.column("image").to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def _decode(path: Path, size: int, row: int, cell: Mapping[str, Any] | None) -> Images:
    where = f"{path} row {row}"
    if cell is None or cell["bytes"] is None:
        raise UserError(f"{where}: image is null; give the row an image or drop it")
    image = decode_rgb(io.BytesIO(cell["bytes"]), f"{where}: image")
    if image.size != (size, size):
        width, height = image.size
        raise UserError(
            f"{where}: image has {width}x{height} pixels, but data.image_size is {size}; "
            f"correct it or resize the images"
        )
    return to_planes(image)


def _unreadable(path: Path, error: Exception) -> UserError:
    return unreadable(path, "a readable Parquet file", error, "fetch it again")
