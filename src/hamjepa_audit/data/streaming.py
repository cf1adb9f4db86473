"""Batches of images, from the device's memory or, if they don't fit, streamed from the disk.

Threads read the next batches into page-locked memory and copy them to the device while it
computes. The images of a batch are the same either way.
"""

import os
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import NamedTuple, TypeAlias

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from hamjepa_audit.data.ahead import ahead
from hamjepa_audit.data.store import CHANNELS, Split, WholeSplit
from hamjepa_audit.data.whole_images import WholeImages
from hamjepa_audit.errors import UserError

RESIDENT_SHARE = 0.5
"""Share of the device's free memory up to which square images are kept there."""

READERS = 4
"""Threads that read batches; a read waits for the disk, not for a core."""

BATCHES_AHEAD = 6
"""Prefetch depth: batches that are read or being read before they are requested."""

BatchImages: TypeAlias = Tensor | WholeImages
"""Images of a batch: uint8 (B, 3, H, W), or images of varying shapes."""


def open_images(split: Split | WholeSplit, device: torch.device) -> "Tensor | StreamedImages":
    """A split's images: resident on the device if they are square and fit, else streamed to it."""
    if isinstance(split, Split) and split.images.nbytes <= RESIDENT_SHARE * _free_memory(device):
        return torch.from_numpy(np.array(split.images)).to(device)
    return StreamedImages(split, device)


def batches(
    images: "Tensor | StreamedImages", order: Sequence[Tensor]
) -> Iterator[tuple[Tensor, BatchImages]]:
    """Yields the sample indices (B,) of each batch, on the images' device, and its images.

    Args:
        images: images of a split.
        order: indices (B,) int64 of each batch's samples, on the CPU.
    """
    if isinstance(images, StreamedImages):
        yield from images.batches(order)
        return
    if not order:
        return
    # All in one copy, because each copy of indices to a GPU synchronises with it.
    moved = torch.cat(list(order)).to(images.device)
    for samples in moved.split([len(rows) for rows in order]):
        yield samples, images[samples]


class StreamedImages:
    """A split's images on the disk, read on demand; `len` is their number.

    Attributes:
        device: device that batches are copied to.
        waited: time that the device was idle because a batch was late.
    """

    def __init__(self, split: Split | WholeSplit, device: torch.device) -> None:
        self.device = device
        self.waited = WaitingTime(device)
        self._split = split
        pixels = split.images if isinstance(split, Split) else split.pixels
        assert isinstance(pixels, np.memmap), "a store's arrays are memory maps"
        self._pixels = pixels
        # Opened once: if the data are prepared again, the name will belong to other bytes.
        self._file = os.open(str(self._pixels.filename), os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __len__(self) -> int:
        return len(self._split.labels)

    def batches(self, order: Sequence[Tensor]) -> Iterator[tuple[Tensor, BatchImages]]:
        """See the module's function `batches`."""
        with closing(ahead(self._load, order, READERS, BATCHES_AHEAD)) as futures:
            for future in futures:
                with self.waited:
                    loaded = future.result()
                    if loaded.copied is not None:
                        stream = torch.cuda.current_stream(self.device)
                        stream.wait_event(loaded.copied)
                        for tensor in loaded.tensors:
                            tensor.record_stream(stream)
                yield loaded.tensors[0], _images(loaded)

    def _load(self, samples: Tensor) -> "_Loaded":
        """Reads a batch and starts its copy to the device; runs in a reader thread."""
        tensors, sides = self._read(samples)
        if self._copies is None:
            return _Loaded(tensors, sides, None)
        with torch.cuda.stream(self._copies):
            moved = [x.pin_memory().to(self.device, non_blocking=True) for x in tensors]
            copied = torch.cuda.Event()
            copied.record(self._copies)
        return _Loaded(moved, sides, copied)

    def _read(self, samples: Tensor) -> tuple[list[Tensor], tuple[int, int]]:
        """The tensors and sides of a batch, as in `_Loaded`, but in host memory."""
        rows, split = samples.numpy(), self._split
        if isinstance(split, Split):
            length = split.images[0].nbytes
            flat = self._read_bytes(rows * length, np.full(len(rows), length))
            return [samples, flat], (split.images.shape[-2], split.images.shape[-1])
        starts = split.starts[rows]
        lengths = split.starts[rows + 1] - starts
        sizes = split.sizes[rows]
        first = torch.from_numpy(np.cumsum(lengths) - lengths)
        flat = self._read_bytes(starts, lengths)
        tensors = [samples, flat, first, torch.from_numpy(sizes.astype(np.int64))]
        return tensors, (int(sizes.min(axis=1).max()), int(sizes.max()))

    def _read_bytes(self, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> Tensor:
        """Slices of the pixels, concatenated, uint8 (bytes,).

        They are read from the file: page faults on the map would block while holding the GIL.
        """
        flat = torch.empty(
            int(lengths.sum()), dtype=torch.uint8, pin_memory=self._copies is not None
        )
        target = memoryview(flat.numpy())  # type: ignore[arg-type]
        place = 0
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
            stretch = target[place : place + length]
            if os.preadv(self._file, [stretch], self._pixels.offset + start) != length:
                raise UserError(
                    f"{self._pixels.filename} is shorter than when it was opened; prepare the data "
                    f"again"
                )
            place += length
        return flat


class _Loaded(NamedTuple):
    """A batch whose copy to the device may still be running.

    Attributes:
        tensors: on the device, valid once `copied` has completed: sample indices, bytes and, for
            images of varying shapes, the byte at which each image starts, and sizes.
        sides: height and width of square images; upper bounds of the shorter and the longer sides
            of others.
        copied: end of the copy; None if nothing had to be copied.
    """

    tensors: list[Tensor]
    sides: tuple[int, int]
    copied: torch.cuda.Event | None


def _images(loaded: _Loaded) -> BatchImages:
    samples, flat, *places = loaded.tensors
    if not places:
        return flat.view(len(samples), CHANNELS, *loaded.sides)
    starts, sizes = places
    return WholeImages(flat.view(-1, CHANNELS), starts // CHANNELS, sizes, *loaded.sides)


class WaitingTime:
    """Sums up how long the device is idle within its `with` blocks.

    A GPU still computes earlier work while the block waits: what counts is the time between the
    end of that work and the end of the block, measured by events on the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._total = 0.0
        self._started = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def __enter__(self) -> None:
        if self._cuda:
            pair = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            pair[0].record()
            self._events.append(pair)
        else:
            self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        if self._cuda:
            self._events[-1][1].record()
        else:
            self._total += time.perf_counter() - self._started

    def seconds(self) -> float:
        """The sum so far; on a GPU this waits for its work."""
        for start, end in self._events:
            end.synchronize()
            self._total += start.elapsed_time(end) / 1000
        self._events.clear()
        return self._total


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
