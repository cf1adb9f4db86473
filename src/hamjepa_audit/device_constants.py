"""Constant tensors, made once for each device, because making one on a GPU waits for it."""

import functools
from typing import Any

import torch
from torch import Tensor


@functools.cache
def device_constant(
    values: tuple[Any, ...], device: torch.device, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Numbers, or tuples of them as rows, on a device; not to be changed in place."""
    return torch.tensor(values, dtype=dtype, device=device)
