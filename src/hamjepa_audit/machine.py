"""The machine that a workflow is planned on, without importing PyTorch."""

import os
from pathlib import Path

NO_GPU = ("", "-1", "NoDevFiles")


def visible_gpus() -> list[str]:
    """Names of the GPUs that a process started here may use, as CUDA_VISIBLE_DEVICES takes them.

    Those of CUDA_VISIBLE_DEVICES if it is set, indices or UUIDs (a MIG part's too), each once; like
    CUDA, up to the first that names none. Else the indices of all of NVIDIA's.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return [str(index) for index in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]
    names = [name.strip() for name in chosen.split(",")]
    end = next((index for index, name in enumerate(names) if name in NO_GPU), len(names))
    return list(dict.fromkeys(names[:end]))


def gpu_count() -> int:
    """GPUs that a process started here may use."""
    return len(visible_gpus())
