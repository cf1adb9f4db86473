"""The handwritten digits that scikit-learn ships: 1,797 grey images of 8x8 pixels, values 0..16."""

from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from hamjepa_audit.data.sources.base import SourceImages, SplitImages
from hamjepa_audit.data.store import Images, Labels
from hamjepa_audit.errors import UserError
from hamjepa_audit.params.sources import DigitsParams

SIDE = 8
FULL_SCALE = 16


def open_digits(source: DigitsParams) -> SourceImages:
    """The digits, split class by class and enlarged by repeating pixels.

    Raises:
        UserError: `image_size` is not a multiple of 8.
    """
    if source.image_size % SIDE != 0:
        raise UserError(
            f"data.image_size is {source.image_size}: digits are enlarged by repeating their "
            f"{SIDE}x{SIDE} pixels, so it must be a multiple of {SIDE}; try 16"
        )
    from sklearn.datasets import load_digits  # slow to import

    bunch = load_digits()
    images = to_rgb_bytes(np.asarray(bunch.images), source.image_size)
    labels = np.asarray(bunch.target, dtype=np.int64)
    is_test = stratified_test_mask(labels, source.test_fraction, source.split_seed)
    return SourceImages(
        classes=tuple(str(name) for name in bunch.target_names),
        train=_split(images, labels, ~is_test),
        test=_split(images, labels, is_test),
        library_versions={"scikit-learn": version("scikit-learn")},
    )


def stratified_test_mask(labels: Labels, fraction: float, seed: int) -> NDArray[np.bool_]:
    """Mask (N,) of the test rows: a random `fraction` of each class, rounded to whole rows."""
    mask = np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        # NumPy guarantees the raw stream of a bit generator; its permutations may change.
        keys = np.random.PCG64(np.random.SeedSequence([seed, int(label)])).random_raw(len(rows))
        order = np.argsort(keys, kind="stable")
        mask[rows[order[: round(fraction * len(rows))]]] = True
    return mask


def to_rgb_bytes(images: NDArray[np.float64], size: int) -> Images:
    """Grey images (N, 8, 8) of values 0..16 as uint8 (N, 3, size, size)."""
    grey = np.rint(images * (255 / FULL_SCALE)).astype(np.uint8)
    factor = size // SIDE
    enlarged = grey.repeat(factor, axis=1).repeat(factor, axis=2)
    return np.repeat(enlarged[:, np.newaxis], 3, axis=1)


def _split(images: Images, labels: Labels, mask: NDArray[np.bool_]) -> SplitImages:
    return SplitImages(labels=labels[mask], blocks=lambda: iter([images[mask]]))
