"""Counter-based random numbers on any device: Philox4x32-10 (Salmon et al. 2011, Random123).

A number depends on its key and counter alone: on no state, no batch size and no device.
"""

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
    x0, x1, x2, x3 = counter.unbind(-1)
    key0, key1 = key
    for _ in range(ROUNDS):
        high0, low0 = _multiply(x0, MULTIPLIERS[0])
        high1, low1 = _multiply(x2, MULTIPLIERS[1])
        x0, x1, x2, x3 = high1 ^ x1 ^ key0, low1, high0 ^ x3 ^ key1, low0
        key0, key1 = (key0 + KEY_INCREMENTS[0]) & MASK, (key1 + KEY_INCREMENTS[1]) & MASK
    return torch.stack([x0, x1, x2, x3], dim=-1)


def _multiply(x: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """High and low words of a 32 x 32 bit product; int64 overflow wraps and keeps all 64 bits."""
    product = x * multiplier
    return (product >> 32) & MASK, product & MASK


def uniforms(
    samples: Tensor, epoch: int, views: Tensor, key: tuple[int, int], count: int
) -> Tensor:
    """Uniform numbers in [0, 1) for each sample and view of an epoch.

    Args:
        samples: (B,) int64 indices in the training set.
        epoch: epoch, from 1 in training.
        views: (B,) int64, which view of the sample each row is.
        key: two words that name the run's stream.
        count: how many numbers a sample needs.

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
