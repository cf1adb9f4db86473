"""Numbers from the host on a device, without waiting for it: constants, and drawn tensors."""

import functools
from typing import Any

import torch
from torch import Tensor


@functools.cache
def device_constant(
    values: tuple[Any, ...], device: torch.device, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Numbers, or tuples of them as rows, on a device; not to be changed in place.

    Made once for each device, because making one on a GPU waits for it.
    """
    with torch.inference_mode(False):  # so that it can be used in training, whoever asks first
        return torch.tensor(values, dtype=dtype, device=device)


@functools.cache
def device_identity(size: int, device: torch.device) -> Tensor:
    """The identity matrix (size, size) float64 on a device; not to be changed in place.

    Made once for each device, which saves a training step the kernels.
    """
    with torch.inference_mode(False):
        return torch.eye(size, dtype=torch.float64, device=device)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy of a tensor of the host on a device, or on a CPU the tensor itself.

    It goes through page-locked memory: from any other, even a copy that is not blocking waits
    until a GPU has finished its work.
    """
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
