"""Image folders: merged parts, sorted classes, cropped images; errors name their cause."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hamjepa_audit.data.preparation import prepare
from hamjepa_audit.data.sources.image_folder import read_square, read_whole
from hamjepa_audit.data.store import load_manifest, verify_store
from hamjepa_audit.errors import UserError
from hamjepa_audit.params.sources import ImageFolderParams
from tests.unit import preparing
from tests.unit.cats_and_dogs import picture, planes
from tests.unit.preparing import rejects

raw = preparing.raw

FOLDER = ImageFolderParams(
    name="animals",
    source="image_folder",
    image_size=8,
    digest=None,
    folder="animals",
    train=("train.X1", "train.X2"),
    test=("val",),
)


@pytest.fixture
def animals(raw: Path) -> Path:
    """Cats in both parts of train, dogs only in the first; both in val."""
    places = {
        "train.X1/cat": [1],
        "train.X1/dog": [0, 1],
        "train.X2/cat": [0, 2],
        "val/cat": [0],
        "val/dog": [0, 1],
    }
    for place, numbers in places.items():
        (raw / "animals" / place).mkdir(parents=True)
        for k in numbers:
            picture(k, (12, 9)).save(raw / "animals" / place / f"{place.split('/')[1]}{k}.png")
    (raw / "animals/train.X1/cat/.hidden").touch()
    shutil.copytree(raw / "animals/val/dog", raw / "animals/val/.trash")
    return raw


def test_image_folder_unites_parts_and_sorts_classes(animals: Path, tmp_path: Path) -> None:
    store = verify_store(prepare(FOLDER, animals, tmp_path / "prepared").parent)
    assert store.manifest.classes == ("cat", "dog")
    assert store.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert store.test.labels.tolist() == [0, 1, 1]
    expected = picture(2, (12, 9)).resize((10, 8), Image.Resampling.BILINEAR).crop((1, 0, 9, 8))
    np.testing.assert_array_equal(store.train.images[2], planes(expected))  # from train.X2
    np.testing.assert_array_equal(store.train.images[1], store.train.images[4])  # from train.X1


def test_the_digest_does_not_depend_on_how_train_is_cut(animals: Path, tmp_path: Path) -> None:
    parts = load_manifest(prepare(FOLDER, animals, tmp_path / "parts").parent)
    for part in ("train.X1", "train.X2"):
        shutil.copytree(animals / "animals" / part, animals / "animals/train", dirs_exist_ok=True)
    source = FOLDER.model_copy(update={"train": ("train",)})
    assert load_manifest(prepare(source, animals, tmp_path / "one").parent).digest == parts.digest


@pytest.mark.parametrize("size", [(12, 9), (9, 13), (8, 8), (5, 7), (31, 10), (11, 8), (8, 15)])
def test_images_are_cut_as_torchvision_cuts_them(size: tuple[int, int], tmp_path: Path) -> None:
    from torchvision import transforms

    picture(0, size).save(tmp_path / "a.png")
    reference = transforms.Compose([transforms.Resize(8), transforms.CenterCrop(8)])
    expected = planes(reference(picture(0, size)))
    np.testing.assert_array_equal(read_square(tmp_path / "a.png", 8), expected)


def test_grey_and_palette_images_become_rgb(tmp_path: Path) -> None:
    for mode in ("L", "P", "RGBA", "CMYK"):
        path = tmp_path / f"{mode}.tiff"
        picture(0).convert(mode).save(path)
        assert read_square(path, 8).shape == (3, 8, 8)


def test_more_than_8_bits_per_channel_are_refused_and_not_clipped(tmp_path: Path) -> None:
    for mode, suffix in (("I;16", "png"), ("I;16B", "tiff"), ("I", "tiff"), ("F", "tiff")):
        path = tmp_path / f"deep.{suffix}"
        Image.new(mode, (8, 8), 40_000).save(path)
        for read in (read_square, read_whole):
            told = f"{path} has Pillow's mode {Image.open(path).mode}: .* save it with 8 bits"
            with pytest.raises(UserError, match=told):
                read(path, 8)


def test_missing_image_folder(raw: Path) -> None:
    rejects(FOLDER, raw, f"no folder {raw / 'animals'}")


def test_missing_part(animals: Path) -> None:
    shutil.rmtree(animals / "animals/train.X2")
    rejects(FOLDER, animals, f"missing folder {animals / 'animals/train.X2'}")


def test_empty_part(animals: Path) -> None:
    shutil.rmtree(animals / "animals/val")
    (animals / "animals/val/cat").mkdir(parents=True)
    rejects(FOLDER, animals, animals / "animals/val", "no images")


def test_a_class_that_one_split_lacks(animals: Path) -> None:
    shutil.rmtree(animals / "animals/val/cat")
    rejects(FOLDER, animals, "class 'cat'", "test split", "data.classes")


@pytest.mark.parametrize("parts", [["train.X1"], ["train.X1", "val"], ["train.X1", "train.X2"]])
def test_a_class_folder_without_images(animals: Path, parts: list[str]) -> None:
    folders = [animals / "animals" / part / "fox" for part in parts]
    for folder in folders:
        folder.mkdir()
    named = [folder for folder in folders if folder.parent.name != "val"]  # train is listed first
    remedy = "delete the folder" if len(named) == 1 else "delete the folders"
    rejects(FOLDER, animals, f"no images in {' and '.join(map(str, named))}; put", remedy)


def test_a_class_alone(animals: Path) -> None:
    for part in ("train.X1", "train.X2", "val"):
        for folder in (animals / "animals" / part).glob("*"):
            if folder.name != "cat":
                shutil.rmtree(folder)
    rejects(FOLDER, animals, "has only the class 'cat': accuracies need at least two")


def test_images_in_a_folder_within_that_of_their_class(animals: Path) -> None:
    nested = animals / "animals/val/dog/images"
    nested.mkdir()
    rejects(FOLDER, animals, f"{nested} is a folder: images must lie in the folder of their class")


def test_a_file_that_is_no_image(animals: Path) -> None:
    broken = animals / "animals/val/dog/dog0.png"
    broken.write_text("a dog")
    rejects(FOLDER, animals, broken, "not an image")


def test_a_truncated_image(animals: Path) -> None:
    broken = animals / "animals/train.X1/dog/dog1.png"
    broken.write_bytes(broken.read_bytes()[:200])
    rejects(FOLDER, animals, broken, "can't be decoded")


def test_an_image_of_damaged_chunks(animals: Path) -> None:
    broken = animals / "animals/val/dog/dog1.png"
    content = bytearray(broken.read_bytes())
    content[36] = 0  # the length of the first chunk of pixels
    broken.write_bytes(content)
    rejects(FOLDER, animals, broken, "broken PNG file")


def test_a_folder_in_place_of_an_image(animals: Path) -> None:
    (animals / "animals/val/dog/images").mkdir()
    rejects(FOLDER, animals, animals / "animals/val/dog/images")
