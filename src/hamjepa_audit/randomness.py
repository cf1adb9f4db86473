"""Independent random generators, one per purpose, so that no draw affects another.

Every stream depends on the run's seed and its own indices only: arms of one seed share initial
encoder weights, data order and views, and a step's draws don't depend on earlier ones.
"""

from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """The purpose of a generator.

    The numbers of PROBE, GEOMETRY and DYNAMICS are part of EVALUATION_NUMERICS, that of VIEWS is
    part of both, and the others of TRAINING_NUMERICS.
    """

    ENCODER_WEIGHTS = 0
    PREDICTOR_WEIGHTS = 1
    DATA_ORDER = 2
    VIEWS = 3
    FLOOR_DIRECTIONS = 4
    SIGREG_DIRECTIONS = 5
    PROBE = 6
    GEOMETRY = 7
    RDMREG_DIRECTIONS = 8
    RDMREG_TARGET = 9
    DYNAMICS = 10


def derived_seed(stream: Stream, seed: int, *indices: int) -> int:
    """A 63-bit seed for a stream of a run at some indices (NumPy's SeedSequence)."""
    words = np.random.SeedSequence([int(stream), seed, *indices]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


def generator(stream: Stream, seed: int, *indices: int) -> torch.Generator:
    """A CPU generator of a stream."""
    return torch.Generator().manual_seed(derived_seed(stream, seed, *indices))


def device_generator(
    device: torch.device, stream: Stream, seed: int, *indices: int
) -> torch.Generator:
    """A generator of a stream on a device; its numbers depend on the device."""
    return torch.Generator(device).manual_seed(derived_seed(stream, seed, *indices))


def numpy_generator(stream: Stream, seed: int, *indices: int) -> np.random.Generator:
    """A NumPy generator of a stream, for what PyTorch can't draw from a given generator."""
    return np.random.default_rng(np.random.SeedSequence([int(stream), seed, *indices]))


def epoch_order(seed: int, epoch: int, rows: int) -> np.ndarray:
    """The order (rows,) int64 in which an epoch sees the training images."""
    return numpy_generator(Stream.DATA_ORDER, seed, epoch).permutation(rows)
