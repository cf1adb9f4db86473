"""Streaming: the same bytes as from memory, and measured waiting times."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hamjepa_audit.data import streaming
from hamjepa_audit.data.ahead import ahead
from hamjepa_audit.data.preparation import prepare
from hamjepa_audit.data.store import Store, WholeSplit, open_store
from hamjepa_audit.data.streaming import StreamedImages, batches, open_images
from hamjepa_audit.data.whole_images import WholeImages
from hamjepa_audit.model import build_model
from hamjepa_audit.training.loop import Trainer
from hamjepa_audit.training.progress import TrainingProgress
from hamjepa_audit.training.session import warn_of_waiting
from hamjepa_audit.training.state import capture, restore
from tests.tiny import copy_params
from tests.unit import whole_pictures
from tests.unit.preparing import error_of
from tests.unit.ranks import run_of
from tests.unit.whole_pictures import CPU, SOURCE

originals, store = whole_pictures.originals, whole_pictures.store


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
    assert prompt < late.waited.seconds() > 0.1


def waiting_trainer(params: Path, split: Any) -> Trainer:
    """A trainer with 3 steps per epoch on streamed images."""
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


@pytest.mark.faults
def test_a_store_that_is_prepared_again_while_it_is_read(originals: Path, tmp_path: Path) -> None:
    folder = prepare(SOURCE, originals, tmp_path).parent
    images, order = StreamedImages(open_store(folder).train, CPU), [torch.arange(100)]
    before = next(iter(images.batches(order)))[1]
    prepare(SOURCE.model_copy(update={"image_size": 20}), originals, tmp_path)
    after = next(iter(images.batches(order)))[1]
    assert isinstance(before, WholeImages) and isinstance(after, WholeImages)
    assert torch.equal(before.pixels, after.pixels)


def test_a_batch_of_all_shapes_knows_bounds_of_all_its_sides(store: Store) -> None:
    assert isinstance(store.train, WholeSplit)
    rows = torch.arange(105)
    ((_, images),) = StreamedImages(store.train, CPU).batches([rows])
    assert isinstance(images, WholeImages) and len(images) == 105
    assert images.sizes.tolist() == store.train.sizes.tolist()
    assert images.shortest_side == max(min(sides) for sides in images.sizes.tolist())
    assert images.longest_side == max(max(sides) for sides in images.sizes.tolist())
    for sides in ([30, 20], [20, 30]):
        sizes = np.array([[24, 25], sides], dtype=np.int32)
        pixels = np.memmap(
            store.folder / "train_images.npy", dtype=np.uint8, mode="r", shape=(6000,)
        )
        split = WholeSplit(pixels, sizes, np.zeros(2, dtype=np.int64))
        ((_, images),) = StreamedImages(split, CPU).batches([torch.arange(2)])
        assert isinstance(images, WholeImages)
        assert (images.shortest_side, images.longest_side) == (24, 30)


def test_no_more_is_done_ahead_than_its_depth_and_nothing_after_it_is_closed() -> None:
    taken, done, go = [], [], threading.Event()

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    def work(item: int) -> int:
        go.wait()
        done.append(item)
        return item

    futures = ahead(work, items(), threads=1, depth=3)
    first = next(futures)
    assert taken == [0, 1, 2]
    threading.Timer(0.1, go.set).start()
    futures.close()
    assert first.result() == 0 and set(done) <= {0, 1} and len(done) < 3
