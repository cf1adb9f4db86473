"""Counter-based random numbers on any device: Philox4x32-10 (Salmon et al. 2011, Random123).

A number depends on its key and counter only, not on state, batch size or device.
"""

import functools

import torch
from torch import Tensor

MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10


def philox4x32(counter: Tensor, key: tuple[int, int]) -> Tensor:
    """Four 32-bit words for each counter.

    Args:
        counter: (..., 4) int64, each word in [0, 2^32).
        key: two words in [0, 2^32).

    Returns:
        (..., 4) int64, each in [0, 2^32).
    """
    # Only even words are multiplied. Each operation handles both (even, odd) pairs at once.
    even, odd = counter[..., 0::2], counter[..., 1::2]
    multipliers, round_keys = _constants(key, counter.device)
    for words in round_keys:
        product = even * multipliers  # int64 wraps around and keeps all 64 bits
        high, low = (product >> 32) & MASK, product & MASK
        even, odd = high.flip(-1) ^ odd ^ words, low.flip(-1)
    return torch.stack([even, odd], dim=-1).flatten(-2)


@functools.lru_cache(maxsize=16)
def _constants(key: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Multipliers (2,) and each round's two key words (ROUNDS, 2), int64.

    Cached, because creating a tensor on a GPU synchronises with it.
    """
    words = [
        [
            (word + number * increment) & MASK
            for word, increment in zip(key, KEY_INCREMENTS, strict=True)
        ]
        for number in range(ROUNDS)
    ]
    return torch.tensor(MULTIPLIERS, device=device), torch.tensor(words, device=device)


def uniforms(
    samples: Tensor, epoch: int, views: Tensor, key: tuple[int, int], count: int
) -> Tensor:
    """Uniform numbers in [0, 1) for each sample and view of an epoch.

    Args:
        samples: (B,) int64 indices in the training set.
        epoch: epoch, from 1 in training.
        views: (B,) int64, index of each row's view of its sample.
        key: two words that identify the run's stream.
        count: numbers per row.

    Returns:
        (B, count) float32, multiples of 2^-24.
    """
    blocks = torch.arange(-(-count // 4), device=samples.device)
    counter = torch.stack(
        [
            samples[:, None].expand(-1, len(blocks)),
            blocks.expand(len(samples), -1),
            torch.full((len(samples), len(blocks)), epoch, device=samples.device),
            views[:, None].expand(-1, len(blocks)),
        ],
        dim=-1,
    )
    words = philox4x32(counter, key).flatten(1)[:, :count]
    return (words >> 8).float() * 2.0**-24
