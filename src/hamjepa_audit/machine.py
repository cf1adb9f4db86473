"""The machine that a workflow is planned on, without importing PyTorch."""

import os
from pathlib import Path


def gpu_count() -> int:
    """GPUs that a process started here may use: those of CUDA_VISIBLE_DEVICES, else NVIDIA's."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return len([name for name in chosen.split(",") if name.strip() not in ("", "-1")])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))
