"""A store of whole pictures, and access to its single images.

A test module assigns the fixtures that it needs, directly or indirectly, to its own names:
`store = whole_pictures.store`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hamjepa_audit.data.generated import write_image_folder
from hamjepa_audit.data.preparation import prepare
from hamjepa_audit.data.store import Store, verify_store
from hamjepa_audit.params.generated import GeneratedParams
from hamjepa_audit.params.sources import ImageFolderParams

CPU = torch.device("cpu")
SOURCE = ImageFolderParams(
    name="pictures",
    source="image_folder",
    image_size=24,
    digest=None,
    folder="pictures",
    train=("train.X1", "train.X2"),
    test=("val",),
    shape="whole",
)
IMAGES = {"train.X1": 20, "train.X2": 15, "val": 6}
CLASSES = 3


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    params = GeneratedParams(
        classes=CLASSES, images=IMAGES, sides=(30, 60), jpeg_quality=90, seed=0
    )
    write_image_folder(folder / "pictures", params, np.random.default_rng(params.seed))
    return folder


@pytest.fixture(scope="module")
def store(originals: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return verify_store(prepare(SOURCE, originals, tmp_path_factory.mktemp("data")).parent)


def image_of(split: Any, row: int) -> np.ndarray:
    height, width = split.sizes[row]
    return split.pixels[split.starts[row] : split.starts[row + 1]].reshape(height, width, 3)
