"""The machine that a workflow is planned on, without importing PyTorch."""

import os
from pathlib import Path
from typing import Literal, TypeAlias

DeviceName: TypeAlias = Literal["auto", "cpu", "cuda"]
"""Where to compute; "auto" is a GPU if there is one."""

NO_GPU = ("", "-1", "NoDevFiles")


def visible_gpus() -> list[str]:
    """Names of the GPUs that a process started here may use, in CUDA_VISIBLE_DEVICES' format.

    If CUDA_VISIBLE_DEVICES is set, its indices or UUIDs (also of MIG instances), without repeats;
    as in CUDA, up to the first that names no GPU. Else the indices of all NVIDIA GPUs.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return [str(index) for index in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]
    names = [name.strip() for name in chosen.split(",")]
    end = next((index for index, name in enumerate(names) if name in NO_GPU), len(names))
    return list(dict.fromkeys(names[:end]))


def gpu_count() -> int:
    """Number of GPUs that a process started here may use."""
    return len(visible_gpus())
