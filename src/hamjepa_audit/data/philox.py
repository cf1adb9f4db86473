"""Counter-based random numbers on any device: Philox4x32-10 (Salmon et al. 2011, Random123).

A number depends on its key and counter only, not on state, batch size or device.
"""

import torch
from torch import Tensor

from hamjepa_audit.device_constants import device_constant

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
    multipliers = device_constant(MULTIPLIERS, counter.device, torch.int64)
    for words in device_constant(_round_keys(key), counter.device, torch.int64):
        product = (even * multipliers).flip(-1)  # int64 wraps around and keeps all 64 bits
        even, odd = ((product >> 32) & MASK) ^ odd ^ words, product & MASK
    return torch.stack([even, odd], dim=-1).flatten(-2)


def _round_keys(key: tuple[int, int]) -> tuple[tuple[int, ...], ...]:
    """Each round's two key words."""
    return tuple(
        tuple(
            (word + number * increment) & MASK
            for word, increment in zip(key, KEY_INCREMENTS, strict=True)
        )
        for number in range(ROUNDS)
    )


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
