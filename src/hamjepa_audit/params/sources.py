"""Sources of a study's images. Paths are relative to the folder of raw data."""

import posixpath
from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from hamjepa_audit.params.base import Count, Name, Params, Seed

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


def _refuse_repeated(train: Iterable[str], test: Iterable[str], kind: str) -> None:
    """Raises ValueError if a part or file is listed twice; its path may be written in two ways."""
    seen: set[str] = set()
    for path in (*train, *test):
        if posixpath.normpath(path) in seen:
            raise ValueError(
                f"the {kind} '{path}' is listed twice: test images must not be trained on, and no "
                f"image may count twice"
            )
        seen.add(posixpath.normpath(path))


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
    classes: tuple[str, ...] | None = Field(default=None, min_length=1)

    @field_validator("classes")
    @classmethod
    def _classes_are_distinct(cls, classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        twice = sorted({name for name in classes or () if (classes or ()).count(name) > 1})
        if twice:
            raise ValueError(f"the class '{twice[0]}' is listed twice: remove one of them")
        return classes

    @model_validator(mode="after")
    def _parts_are_distinct(self) -> Self:
        _refuse_repeated(self.train, self.test, "part")
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
        train, test = ([file.path for file in files] for files in (self.train, self.test))
        _refuse_repeated(train, test, "file")
        return self


Source = Annotated[
    DigitsParams | CifarParams | ImageFolderParams | ParquetParams, Field(discriminator="source")
]
