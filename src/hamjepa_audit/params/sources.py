"""Sources of a study's images. Paths are relative to the folder of raw data."""

import posixpath
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from hamjepa_audit.params.base import Count, Name, Params, Seed, distinct, require_distinct

USED_ONCE = "test images must not be trained on, and no image may count twice"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class SourceParams(Params):
    """Parameters of all sources. `digest` pins the prepared store; null leaves it unpinned."""

    name: Name
    image_size: Count
    digest: Sha256 | None

    @field_validator("name")
    @classmethod
    def _store_is_not_among_raw_data(cls, name: str) -> str:
        if name == "raw":
            raise ValueError("'raw' is the folder of raw data: give the prepared data another name")
        return name

    def description(self) -> dict[str, Any]:
        """What determines the prepared data, as JSON: everything but the digest of the result."""
        return self.model_dump(mode="json", exclude={"digest"})


class DigitsParams(SourceParams):
    """Handwritten digits that scikit-learn ships; the split is made here."""

    source: Literal["digits"]
    test_fraction: Annotated[float, Field(gt=0, lt=1)]
    split_seed: Seed


class CifarParams(SourceParams):
    """CIFAR-10 or CIFAR-100 through torchvision, with the archive's checksum verified."""

    source: Literal["cifar10", "cifar100"]
    folder: str
    download: bool


class ImageFolderParams(SourceParams):
    """FOLDER/train/CLASS/* (or train.X1/ .. train.XN/ parts) and FOLDER/val/CLASS/*.

    Images are resized so that the shorter side is `image_size`. Then `shape` "square" cuts out
    the centre square; "whole" keeps the whole image, whatever its longer side.
    `classes` restricts the folders used, so that a full ImageNet can serve; null takes all.
    """

    source: Literal["image_folder"]
    folder: str
    train: tuple[str, ...] = Field(min_length=1)
    test: tuple[str, ...] = Field(min_length=1)
    shape: Literal["square", "whole"] = "square"
    classes: Annotated[tuple[str, ...], Field(min_length=1), distinct()] | None = None

    @model_validator(mode="after")
    def _parts_are_distinct(self) -> Self:
        require_distinct(map(posixpath.normpath, (*self.train, *self.test)), USED_ONCE)
        return self


class ParquetFile(Params):
    """One Parquet file in the Hugging Face image convention; `sha256` null leaves it unpinned."""

    path: str
    sha256: Sha256 | None


class ParquetParams(SourceParams):
    """Parquet files with a struct column `image` {bytes, path} and an integer column `label`."""

    source: Literal["parquet"]
    train: tuple[ParquetFile, ...] = Field(min_length=1)
    test: tuple[ParquetFile, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _files_are_distinct(self) -> Self:
        paths = (posixpath.normpath(file.path) for file in (*self.train, *self.test))
        require_distinct(paths, USED_ONCE)
        return self


Source = Annotated[
    DigitsParams | CifarParams | ImageFolderParams | ParquetParams, Field(discriminator="source")
]
