"""Small pictures, and Parquet files with them, labelled as cats and dogs.

A test module assigns the fixtures that it needs, directly or indirectly, to its own names:
`pets = cats_and_dogs.pets`.
"""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hamjepa_audit.params.sources import ParquetFile, ParquetParams

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
NAMES = ["cat", "dog"]
PARQUET = ParquetParams(
    name="pets",
    source="parquet",
    image_size=8,
    digest=None,
    train=(
        ParquetFile(path="train-0.parquet", sha256=None),
        ParquetFile(path="train-1.parquet", sha256=None),
    ),
    test=(ParquetFile(path="test.parquet", sha256=None),),
)


def picture(index: int, size: tuple[int, int] = (8, 8)) -> Image.Image:
    pixels = np.random.default_rng(index).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def planes(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def cells(count: int) -> list[Any]:
    return [{"bytes": png(picture(k)), "path": f"{k}.png"} for k in range(count)]


def write_parquet(
    path: Path, images: list[Any], labels: list[Any], names: list[str] | None = None
) -> None:
    schema = pa.schema([("image", IMAGE), ("label", pa.int64())])
    if names is not None:
        label = {"_type": "ClassLabel", "names": names}
        info = {"info": {"features": {"image": {"_type": "Image"}, "label": label}}}
        schema = schema.with_metadata({"huggingface": json.dumps(info)})
    pq.write_table(pa.table([pa.array(images, IMAGE), labels], schema=schema), path)


@pytest.fixture
def pets(raw: Path) -> Path:
    write_parquet(raw / "train-0.parquet", cells(5), [1, 0, 1, 0, 0], NAMES)
    write_parquet(raw / "train-1.parquet", cells(2), [1, 1], NAMES)
    write_parquet(raw / "test.parquet", cells(3), [0, 1, 0], NAMES)
    return raw
