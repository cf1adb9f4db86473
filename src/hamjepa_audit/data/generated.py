"""Generated JPEG images, one folder per class, to try out the pipeline for photographs.

Each class has its own colour and grating; each image its own size, shift, tint and noise.
"""

from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image

from hamjepa_audit.data.store import Images
from hamjepa_audit.files import atomic_path
from hamjepa_audit.params.generated import GeneratedParams


def write_image_folder(folder: Path, params: GeneratedParams, numbers: Generator) -> None:
    """Writes PART/cNNN/IMAGE.JPEG files; generators in the same state give the same files."""
    for label in range(params.classes):
        for part, count in params.images.items():
            place = folder / part / f"c{label:03d}"
            for index in range(count):
                low, high = params.sides
                height, width = (int(side) for side in numbers.integers(low, high + 1, size=2))
                pixels = _picture(height, width, label / params.classes, numbers)
                with atomic_path(place / f"{part}_{label:03d}_{index:05d}.JPEG") as target:
                    Image.fromarray(pixels).save(target, "JPEG", quality=params.jpeg_quality)


def _picture(height: int, width: int, place: float, numbers: Generator) -> Images:
    """An image (height, width, 3) of the class at `place` in [0, 1)."""
    rows, columns = np.mgrid[:height, :width] / max(height, width)
    angle = np.pi * place + numbers.normal(0, 0.1)
    along = np.cos(angle) * rows + np.sin(angle) * columns
    waves = np.sin(2 * np.pi * ((3 + 12 * place) * along + numbers.random()))
    hue = 2 * np.pi * (place + np.arange(3) / 3)
    tint = 110 + 50 * np.cos(hue) + numbers.normal(0, 15, size=3)
    noise = numbers.normal(0, 12, size=(height, width, 1))
    return np.clip(tint + 60 * waves[..., None] + noise, 0, 255).astype(np.uint8)
