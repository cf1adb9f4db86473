"""Images kept whole: preparation that continues, streaming, crops that agree with torchvision's."""

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import functional

from hamjepa_audit.data import streaming, whole_preparation
from hamjepa_audit.data.generated import write_image_folder
from hamjepa_audit.data.preparation import prepare
from hamjepa_audit.data.store import Store, WholeSplit, load_manifest, open_store, verify_store
from hamjepa_audit.data.streaming import StreamedImages, batches, open_images
from hamjepa_audit.data.view_draws import draw_views
from hamjepa_audit.data.views import plain_views, random_views
from hamjepa_audit.data.whole_images import WholeImages, largest_box
from hamjepa_audit.errors import UserError
from hamjepa_audit.params import load_study
from hamjepa_audit.params.generated import GeneratedParams
from hamjepa_audit.params.sources import ImageFolderParams
from hamjepa_audit.training.loop import Trainer
from hamjepa_audit.training.model import build_model
from hamjepa_audit.training.progress import TrainingProgress
from hamjepa_audit.training.session import warn_of_waiting
from hamjepa_audit.training.state import capture, restore
from tests.conftest import REPOSITORY
from tests.tiny import copy_params
from tests.unit.ranks import run_of

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
    params = GeneratedParams(classes=CLASSES, images=IMAGES, sides=(30, 60), seed=0)
    write_image_folder(folder / "pictures", params, np.random.default_rng(params.seed))
    return folder


@pytest.fixture
def raw(originals: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals, tmp_path / "raw"))


@pytest.fixture(scope="module")
def store(originals: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return verify_store(prepare(SOURCE, originals, tmp_path_factory.mktemp("data")).parent)


def error_of(call: Callable[[], Any], *culprits: object) -> str:
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert all(str(culprit) in message for culprit in culprits), message
    return message


def image_of(split: Any, row: int) -> np.ndarray:
    height, width = split.sizes[row]
    return split.pixels[split.starts[row] : split.starts[row + 1]].reshape(height, width, 3)


def training_files(raw: Path) -> list[Path]:
    """The training images in the store's order."""
    files = [*raw.glob("pictures/train.X1/*/*"), *raw.glob("pictures/train.X2/*/*")]
    return sorted(files, key=lambda path: (path.parent.name, path.name, path))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- preparation --------------------------------------------------------------------------------


def test_images_are_those_of_torchvisions_resize(store: Store, originals: Path) -> None:
    assert store.manifest.shape == "whole" and isinstance(store.train, WholeSplit)
    assert list(store.manifest.train.rows_per_class) == [35] * CLASSES
    assert store.manifest.classes == ("c000", "c001", "c002")
    for row, path in enumerate(training_files(originals)):
        expected = transforms.Resize(24)(Image.open(path).convert("RGB"))
        np.testing.assert_array_equal(image_of(store.train, row), np.asarray(expected))
        assert store.train.labels[row] == int(path.parent.name[1:])


def test_threads_change_nothing(store: Store, originals: Path, tmp_path: Path) -> None:
    other = prepare(SOURCE, originals, tmp_path, threads=3).parent
    assert bytes_of(other) == bytes_of(store.folder)
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_the_digest_tells_whole_images_from_squares(store: Store, originals: Path) -> None:
    manifest = store.manifest
    with pytest.raises(UserError, match="digest"):
        (store.folder / "manifest.json").rename(store.folder / "kept.json")
        try:
            text = (store.folder / "kept.json").read_text()
            (store.folder / "manifest.json").write_text(text.replace('"whole"', '"square"'))
            load_manifest(store.folder)
        finally:
            (store.folder / "kept.json").replace(store.folder / "manifest.json")
    assert load_manifest(store.folder) == manifest


def decoded_by(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are decoded from now on."""
    seen: list[Path] = []
    original = whole_preparation.read_whole

    def recording(path: Path, size: int) -> np.ndarray:
        seen.append(path)
        return original(path, size)

    monkeypatch.setattr(whole_preparation, "read_whole", recording)
    return seen


@pytest.mark.faults
def test_a_broken_jpeg_is_named_and_nothing_is_lost(
    raw: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_preparation, "BLOCK_ROWS", 8)
    files = training_files(raw)
    broken, content = files[50], files[50].read_bytes()
    status = broken.stat()
    broken.write_bytes(content[: len(content) // 2])
    root = tmp_path / "data"
    error_of(
        lambda: prepare(SOURCE, raw, root), broken, "can't be decoded", "images before it are kept"
    )
    assert not (root / "pictures").exists()
    broken.write_bytes(content)
    os.utime(broken, ns=(status.st_atime_ns, status.st_mtime_ns))
    seen = decoded_by(monkeypatch)
    folder = prepare(SOURCE, raw, root).parent
    assert set(seen) & set(files) == set(files[50:])
    assert bytes_of(folder) == bytes_of(store.folder)
    assert not (root / ".pictures.partial").exists()


@pytest.mark.faults
def test_a_jpeg_whose_header_says_that_it_is_huge_is_named(raw: Path, tmp_path: Path) -> None:
    """The first: it is one of those whose size tells how much disk is needed."""
    broken = training_files(raw)[0]
    content = bytearray(broken.read_bytes())
    sizes = content.index(b"\xff\xc0") + 5
    content[sizes : sizes + 4] = b"\xff\x00\xff\x00"
    broken.write_bytes(content)
    error_of(lambda: prepare(SOURCE, raw, tmp_path / "data"), broken, "can't be decoded", "exceeds")


@pytest.mark.faults
def test_a_broken_jpeg_may_be_taken_out(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_preparation, "BLOCK_ROWS", 8)
    files = training_files(raw)
    files[50].write_bytes(b"no picture")
    root = tmp_path / "data"
    error_of(lambda: prepare(SOURCE, raw, root), files[50], "not an image")
    files[50].unlink()
    seen = decoded_by(monkeypatch)
    folder = prepare(SOURCE, raw, root).parent
    assert set(seen) & set(files) == set(files[51:])
    fresh = prepare(SOURCE, raw, tmp_path / "fresh").parent
    assert bytes_of(folder) == bytes_of(fresh)


@pytest.mark.faults
def test_a_missing_class_folder_of_a_list(raw: Path, tmp_path: Path) -> None:
    source = SOURCE.model_copy(update={"classes": ("c002", "c000", "n000")})
    error_of(
        lambda: prepare(source, raw, tmp_path / "data"),
        "class 'n000' of 'pictures' has no images in the train split",
        "(1 of 3 classes lack them)",
    )
    shutil.rmtree(raw / "pictures/val/c001")
    error_of(lambda: prepare(SOURCE, raw, tmp_path / "data"), "c001", "test split")
    assert not (tmp_path / "data").exists()


def test_a_class_list_takes_these_classes_alone(raw: Path, tmp_path: Path) -> None:
    source = SOURCE.model_copy(update={"classes": ("c002", "c000")})
    found = load_manifest(prepare(source, raw, tmp_path / "one").parent)
    assert found.classes == ("c000", "c002")
    for path in raw.glob("pictures/*/c001"):
        shutil.rmtree(path)
    assert load_manifest(prepare(SOURCE, raw, tmp_path / "two").parent).digest == found.digest


@pytest.mark.faults
@pytest.mark.parametrize("after", [0, 1, 17, 64, 110])
@pytest.mark.parametrize("damage", ["none", "torn line", "lost pixels", "more pixels"])
def test_an_interrupted_preparation_continues(
    originals: Path,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
    damage: str,
) -> None:
    """Killed at any moment, it makes the same store, and decodes only what wasn't kept."""
    monkeypatch.setattr(whole_preparation, "BLOCK_ROWS", 8)
    monkeypatch.setattr(whole_preparation, "AHEAD_PER_THREAD", 1)
    original, count = whole_preparation.read_whole, 0

    def interrupted(path: Path, size: int) -> np.ndarray:
        nonlocal count
        count += 1
        if count > after:
            raise KeyboardInterrupt
        return original(path, size)

    monkeypatch.setattr(whole_preparation, "read_whole", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(SOURCE, originals, tmp_path)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]
    assert not (tmp_path / "pictures").exists()
    work = tmp_path / ".pictures.partial"
    split = "test" if after > 105 else "train"
    if damage == "torn line" and (work / f"{split}.jsonl").stat().st_size:
        text = (work / f"{split}.jsonl").read_text()
        (work / f"{split}.jsonl").write_text(text[:-5])
    elif damage == "lost pixels":
        os.truncate(work / f"{split}_images.npy", 100)
    elif damage == "more pixels":
        with (work / f"{split}_images.npy").open("ab") as stream:
            stream.write(b"x" * 1000)
    monkeypatch.setattr(whole_preparation, "read_whole", original)
    seen = decoded_by(monkeypatch)
    folder = prepare(SOURCE, originals, tmp_path).parent
    assert bytes_of(folder) == bytes_of(store.folder)
    if damage in ("none", "more pixels"):
        kept = after - after % 8 if after <= 105 else 105 + (after - 105) // 8 * 8
        assert len(seen) == 123 - kept


def interrupt_move(monkeypatch: pytest.MonkeyPatch, folder: Path, after: int) -> None:
    """Ends a preparation when so many of the store's seven files are in their place."""
    original, count = Path.replace, 0

    def interrupted(self: Path, target: Path) -> Path:
        nonlocal count
        if Path(target).parent == folder and self.parent.name.endswith(".partial"):
            count += 1
            if count > after:
                raise KeyboardInterrupt
        return original(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)


@pytest.mark.faults
@pytest.mark.parametrize("after", range(7))
def test_a_move_that_was_interrupted_is_finished(
    originals: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    folder = tmp_path / "pictures"
    with monkeypatch.context() as patch:
        interrupt_move(patch, folder, after)
        with pytest.raises(KeyboardInterrupt):
            prepare(SOURCE, originals, tmp_path)
    assert not (folder / "manifest.json").exists()
    assert len(list(folder.iterdir())) == after
    seen = decoded_by(monkeypatch)
    prepare(SOURCE, originals, tmp_path)
    assert seen == [] and bytes_of(folder) == bytes_of(store.folder)
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


@pytest.mark.faults
def test_a_move_is_not_finished_once_the_images_have_changed(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data" / "pictures"
    with monkeypatch.context() as patch:
        interrupt_move(patch, folder, 3)
        with pytest.raises(KeyboardInterrupt):
            prepare(SOURCE, raw, tmp_path / "data")
    files = training_files(raw)
    files[9].write_bytes(files[10].read_bytes())
    prepare(SOURCE, raw, tmp_path / "data")
    assert bytes_of(folder) == bytes_of(prepare(SOURCE, raw, tmp_path / "fresh").parent)


def test_other_settings_or_files_start_anew(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_preparation, "BLOCK_ROWS", 8)
    files = training_files(raw)
    content = files[100].read_bytes()
    files[100].write_bytes(b"no picture")
    root = tmp_path / "data"
    error_of(lambda: prepare(SOURCE, raw, root), files[100])
    files[100].write_bytes(content)
    files[9].write_bytes(files[10].read_bytes())  # changed meanwhile
    seen = decoded_by(monkeypatch)
    folder = prepare(SOURCE, raw, root).parent
    assert set(seen) & set(files) == set(files[9:])
    assert bytes_of(folder) == bytes_of(prepare(SOURCE, raw, tmp_path / "fresh").parent)


def test_needed_disk_is_said_and_checked(
    originals: Path,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prepare(SOURCE, originals, tmp_path / "a")
    assert "preparing pictures: 123 images, about 0.00 GB in" in capsys.readouterr().err
    needed = sum(split.pixels.nbytes for split in (store.train, store.test))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed - 1))
    error_of(lambda: prepare(SOURCE, originals, tmp_path / "b"), "needs 0.3 MB", "are free")


def test_two_preparations_at_once_are_refused(
    originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = whole_preparation.read_whole

    def second(path: Path, size: int) -> np.ndarray:
        monkeypatch.setattr(whole_preparation, "read_whole", original)
        error_of(lambda: prepare(SOURCE, originals, tmp_path), "another process")
        return original(path, size)

    monkeypatch.setattr(whole_preparation, "read_whole", second)
    prepare(SOURCE, originals, tmp_path)


@pytest.mark.parametrize("name", ["train_sizes.npy", "train_images.npy"])
def test_a_whole_store_that_is_damaged(store: Store, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(store.folder, tmp_path / "copy"))
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    error_of(lambda: verify_store(folder), folder, "train", "prepare the data again")
    (folder / name).unlink()
    error_of(lambda: open_store(folder), name)


def test_squares_take_the_place_of_whole_images(raw: Path, tmp_path: Path) -> None:
    folder = prepare(SOURCE, raw, tmp_path / "data").parent
    prepare(SOURCE.model_copy(update={"shape": "square"}), raw, tmp_path / "data")
    assert verify_store(folder).manifest.shape == "square"
    assert not (folder / "train_sizes.npy").exists()


def test_the_published_list_has_a_hundred_classes() -> None:
    source = load_study(REPOSITORY / "params", "imagenet100_cmc").data
    assert isinstance(source, ImageFolderParams) and source.classes is not None
    assert len(set(source.classes)) == 100
    assert all(len(name) == 9 and name[0] == "n" and name[1:].isdigit() for name in source.classes)


# --- views --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def params() -> Any:
    views = load_study(REPOSITORY / "params", "cifar100").views
    return views.model_copy(update={"size": 20})


def whole(split: WholeSplit, rows: list[int]) -> WholeImages:
    _, images = next(iter(StreamedImages(split, CPU).batches([torch.tensor(rows)])))
    assert isinstance(images, WholeImages)
    return images


def test_a_streamed_batch_holds_its_images(store: Store) -> None:
    assert isinstance(store.train, WholeSplit)
    rows = [5, 100, 5, 7]
    images = whole(store.train, rows)
    for place, row in enumerate(rows):
        expected = image_of(store.train, row)
        height, width = expected.shape[:2]
        box = [torch.full((4,), value) for value in (0, 0, 1, 1)]
        box[2][place], box[3][place] = height, width
        cut = images.boxes(*box, side=images.longest_side)[place]
        np.testing.assert_array_equal(cut[:, :height, :width].permute(1, 2, 0), expected)


def test_crops_of_whole_images_are_torchvisions(store: Store, params: Any) -> None:
    """Each view's crop and flip, before any colour changes, against Pillow's bilinear resizing."""
    assert isinstance(store.train, WholeSplit)
    plain = params.model_copy(
        update={
            "grayscale_probability": 0.0,
            "jitter": params.jitter.model_copy(update={"probability": 0.0}),
            "blur": params.blur.model_copy(update={"probability": 0.0}),
            "solarize": params.solarize.model_copy(update={"probability": 0.0}),
            "mean": (0.0, 0.0, 0.0),
            "std": (1.0, 1.0, 1.0),
        }
    )
    rows = list(range(0, 105, 3))
    images, samples = whole(store.train, rows), torch.tensor(rows)
    which = torch.zeros_like(samples)
    views = random_views(images, samples, plain, 3, 2, which)
    sizes = images.sizes.float().unbind(1)
    draws = draw_views(samples, sizes, plain, 3, 2, which)
    for place, row in enumerate(rows):
        top, left, height, width = (
            int(x[place]) for x in (draws.top, draws.left, draws.height, draws.width)
        )
        picture = image_of(store.train, row)
        assert top + height <= picture.shape[0] and left + width <= picture.shape[1]
        planes = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255
        expected = functional.resized_crop(
            planes, top, left, height, width, [20, 20], antialias=True
        )[0]
        if draws.flip[place]:
            expected = expected.flip(-1)
        torch.testing.assert_close(views[place], expected, atol=2e-6, rtol=0)


def test_boxes_of_equal_sizes_are_those_of_square_images(params: Any) -> None:
    samples = torch.arange(500)
    views = torch.ones_like(samples)
    same = torch.full((500,), 24.0)
    ours = draw_views(samples, (same, same), params, 1, 1, views)
    square = draw_views(samples, (24, 24), params, 1, 1, views)
    for name in ("top", "left", "height", "width", "flip"):
        assert torch.equal(getattr(ours, name), getattr(square, name)), name


@pytest.mark.parametrize("ratios", [(0.75, 4 / 3), (0.9, 1.0), (1.0, 2.0)])
def test_boxes_fit_in_their_images_and_under_the_bound(
    params: Any, ratios: tuple[float, float]
) -> None:
    chosen = params.model_copy(update={"crop_ratio": ratios})
    samples = torch.arange(4000)
    rows = torch.randint(24, 200, (4000,), generator=torch.Generator().manual_seed(0)).float()
    columns = torch.where(samples % 2 == 0, 24.0, rows)
    rows = torch.where(samples % 2 == 0, rows, 24.0)
    draws = draw_views(samples, (rows, columns), chosen, 0, 1, torch.zeros_like(samples))
    assert bool((draws.top >= 0).all() and (draws.top + draws.height <= rows).all())
    assert bool((draws.left >= 0).all() and (draws.left + draws.width <= columns).all())
    bound = largest_box(24, 200, ratios)
    assert max(draws.height.max(), draws.width.max()) <= bound <= 24 * 2 + 2


def test_views_depend_on_nothing_but_seed_epoch_sample_and_view(store: Store, params: Any) -> None:
    assert isinstance(store.train, WholeSplit)

    def views(rows: list[int], epoch: int = 1, view: int = 0) -> torch.Tensor:
        samples = torch.tensor(rows)
        which = torch.full_like(samples, view)
        return random_views(whole(store.train, rows), samples, params, 0, epoch, which)

    alone, together = views([9]), views([3, 9, 80])
    torch.testing.assert_close(alone[0], together[1], atol=1e-5, rtol=0)
    assert not torch.allclose(alone, views([9], epoch=2))
    assert not torch.allclose(alone, views([9], view=1))


def test_plain_views_are_torchvisions_centre_crops(store: Store, params: Any) -> None:
    assert isinstance(store.test, WholeSplit)
    rows = list(range(18))
    views = plain_views(whole(store.test, rows), params)
    evaluation = transforms.Compose([
        transforms.ToPILImage(), transforms.CenterCrop(20), transforms.ToTensor(),
        transforms.Normalize(params.mean, params.std),
    ])  # fmt: skip
    for row in rows:
        torch.testing.assert_close(views[row], evaluation(image_of(store.test, row).copy()))


# --- streaming ----------------------------------------------------------------------------------


def test_small_squares_stay_resident_and_large_ones_stream_the_same_bytes(
    originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SOURCE.model_copy(update={"shape": "square"})
    split = open_store(prepare(source, originals, tmp_path).parent).train
    resident = open_images(split, CPU)
    assert isinstance(resident, torch.Tensor)
    monkeypatch.setattr(streaming, "RESIDENT_SHARE", 0.0)
    streamed = open_images(split, CPU)
    assert isinstance(streamed, StreamedImages) and len(streamed) == len(resident)
    order = list(torch.randperm(105, generator=torch.Generator().manual_seed(0)).split(10))
    ours, theirs = (list(batches(images, order)) for images in (streamed, resident))
    assert len(ours) == len(theirs) == len(order)
    for (samples, images), (expected, pictures) in zip(ours, theirs, strict=True):
        assert torch.equal(samples, expected) and torch.equal(images, pictures)  # type: ignore[arg-type]


def test_waiting_is_measured(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    order = list(torch.arange(100).split(10))
    images = StreamedImages(store.train, CPU)
    for _ in images.batches(order):
        time.sleep(0.005)
    prompt = images.waited.seconds()
    original = StreamedImages._read

    def slow(self: StreamedImages, samples: torch.Tensor) -> Any:
        time.sleep(0.05)
        return original(self, samples)

    monkeypatch.setattr(StreamedImages, "_read", slow)
    late = StreamedImages(store.train, CPU)
    assert len(list(late.batches(order))) == 10
    assert prompt < 0.05 < 0.1 < late.waited.seconds()


def waiting_trainer(params: Path, split: Any) -> Trainer:
    """A trainer of 3 steps an epoch on streamed images."""
    run = run_of(params, "sigreg")
    few = run.optimisation.model_copy(update={"batch_size": 32})
    run = run.model_copy(update={"optimisation": few})
    return Trainer(run, build_model(run), StreamedImages(split, CPU), "a-run")


def test_the_share_of_waiting_is_of_the_whole_run_also_once_resumed(
    store: Store, tmp_path: Path
) -> None:
    params = copy_params(tmp_path / "params")
    quiet = TrainingProgress("a-run", 2, 3, quiet=True)
    before = waiting_trainer(params, store.train)
    before.train_epoch(3, quiet)
    assert before.position.waited == before.images.waited.seconds() > 0  # type: ignore[union-attr]
    before.position.waited, before.position.epoch_seconds = 700.0, [1000.0]
    assert before.data_wait_share() == 0.7
    after = waiting_trainer(params, store.train)
    restore(after, *capture(before))
    assert after.data_wait_share() == 0.7
    after.train_epoch(3, quiet)
    here = after.images.waited.seconds()  # type: ignore[union-attr]
    assert after.position.waited == pytest.approx(700 + here, abs=1e-6) and here > 0
    assert after.data_wait_share() == after.position.waited / sum(after.position.epoch_seconds)
    resident = Trainer(after.run, build_model(after.run), torch.zeros(64, 3, 16, 16), "a-run")
    assert resident.data_wait_share() is None


@pytest.mark.parametrize(("share", "warns"), [(0.051, True), (0.05, False), (None, False)])
def test_training_warns_of_long_waiting(
    capsys: pytest.CaptureFixture[str], share: float | None, warns: bool
) -> None:
    warn_of_waiting("a-run", share, 0.05)
    said = capsys.readouterr().err
    assert said.count("\n") == warns
    assert not warns or said.startswith(
        "warning: a-run: the device waited for images 5.1% of the time, more than "
        "streaming.largest_wait_share (5.0%)"
    )


@pytest.mark.faults
def test_a_store_that_is_cut_while_it_is_read(originals: Path, tmp_path: Path) -> None:
    folder = prepare(SOURCE, originals, tmp_path).parent
    images = StreamedImages(open_store(folder).train, CPU)
    os.truncate(folder / "train_images.npy", 5000)
    error_of(lambda: list(images.batches([torch.arange(100)])), "train_images.npy", "shorter")
