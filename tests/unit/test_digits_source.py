"""The digits source: enlarged and scaled images, and the stratified split."""

from pathlib import Path

import numpy as np

from hamjepa_audit.data.preparation import prepare
from hamjepa_audit.data.sources.digits import stratified_test_mask, to_rgb_bytes
from hamjepa_audit.data.store import verify_store
from hamjepa_audit.params import load_study
from tests.conftest import REPOSITORY
from tests.unit import preparing
from tests.unit.preparing import DIGITS, rejects

raw = preparing.raw


def test_digits_hold_the_originals_in_a_stratified_split(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    store = verify_store(prepare(DIGITS, tmp_path, tmp_path / "prepared").parent)
    assert store.train.images.shape == (1438, 3, 16, 16)
    assert store.test.images.shape == (359, 3, 16, 16)
    small = np.concatenate([store.test.images, store.train.images])[:, 0, ::2, ::2]
    labels = np.concatenate([store.test.labels, store.train.labels])
    bunch = load_digits()
    originals = np.rint(bunch.images * 255 / 16).astype(np.uint8)

    def rows(images: np.ndarray, targets: np.ndarray) -> list[bytes]:
        return sorted(i.tobytes() + bytes([t]) for i, t in zip(images, targets, strict=True))

    assert rows(small, labels) == rows(originals, bunch.target)
    expected = [round(0.2 * count) for count in np.bincount(bunch.target)]
    assert list(store.manifest.test.rows_per_class) == expected


def test_digits_are_enlarged_by_repetition_and_scaled_to_bytes() -> None:
    image = np.arange(64, dtype=np.float64).reshape(1, 8, 8) % 17
    enlarged = to_rgb_bytes(image, 24)
    assert enlarged.dtype == np.uint8
    assert enlarged.shape == (1, 3, 24, 24)
    np.testing.assert_array_equal(enlarged, np.repeat(enlarged[:, :1], 3, axis=1))
    np.testing.assert_array_equal(
        enlarged[0, 0], np.kron(np.rint(image[0] * 255 / 16), np.ones((3, 3)))
    )
    assert enlarged.max() == 255


def test_the_study_normalises_with_the_moments_of_all_images() -> None:
    from sklearn.datasets import load_digits

    views = load_study(REPOSITORY / "params", "digits").views
    images = to_rgb_bytes(load_digits().images, views.size) / 255
    assert views.mean == (round(images.mean(), 3),) * 3
    assert views.std == (round(images.std(), 3),) * 3


def test_the_split_depends_on_its_seed_alone() -> None:
    labels = np.repeat(np.arange(3), 10)
    mask = stratified_test_mask(labels, 0.3, seed=5)
    assert np.flatnonzero(mask).tolist() == [4, 7, 8, 11, 16, 17, 24, 27, 29]
    np.testing.assert_array_equal(mask, stratified_test_mask(labels, 0.3, seed=5))
    assert (mask != stratified_test_mask(labels, 0.3, seed=6)).any()


def test_digits_of_a_size_that_is_no_multiple_of_8(raw: Path) -> None:
    rejects(DIGITS.model_copy(update={"image_size": 20}), raw, "image_size is 20", "multiple of 8")


def test_a_test_fraction_that_leaves_a_class_out(raw: Path) -> None:
    rejects(
        DIGITS.model_copy(update={"test_fraction": 0.001}),
        raw,
        "class '0'",
        "test split",
        "data.test_fraction",
    )
