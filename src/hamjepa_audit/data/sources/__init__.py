"""Sources of raw images: each gives classes, labels and a stream of images."""

from pathlib import Path

from hamjepa_audit.data.sources import cifar, digits, image_folder, parquet
from hamjepa_audit.data.sources.base import SourceImages, SplitImages, reading_raw_data
from hamjepa_audit.params.sources import (
    CifarParams,
    DigitsParams,
    ImageFolderParams,
    ParquetParams,
    Source,
)

__all__ = ["SourceImages", "SplitImages", "open_source"]


def open_source(source: Source, raw: Path, threads: int = 1) -> SourceImages:
    """Opens a source and checks everything that can be checked without decoding images.

    Args:
        source: what to read.
        raw: the folder of raw data that the source's paths are relative to.
        threads: number of images decoded in parallel.

    Raises:
        UserError: something is missing, damaged, or not what the parameters say.
    """
    with reading_raw_data(source, raw):
        match source:
            case DigitsParams():
                return digits.open_digits(source)
            case CifarParams():
                return cifar.open_cifar(source, raw)
            case ImageFolderParams():
                return image_folder.open_image_folder(source, raw, threads)
            case ParquetParams():
                return parquet.open_parquet(source, raw, threads)
