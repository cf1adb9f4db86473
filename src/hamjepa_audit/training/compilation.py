"""Compilation of the encoder for a GPU: BatchNorm, ReLU and additions become fewer kernels."""

import importlib.util
import os
import shlex
import shutil
import sys
import sysconfig
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

COMPILED = "compiled"
"""The key in a record's `determinism` that tells that the encoder was compiled."""

OLDEST_CAPABILITY = (7, 0)
"""The compute capability of the oldest GPUs that Triton generates code for: Volta."""


def can_compile(device: torch.device) -> bool:
    """Whether PyTorch can compile for a device; prints what is missing if that is a GPU."""
    if device.type != "cuda":
        return False
    missing = [what for what, there in _needed(device).items() if not there]
    if missing:
        print(
            f"warning: the encoder is not compiled, so training is slower and rounds differently. "
            f"Missing: {', '.join(missing)}; install it, or set compile_on_gpu to false",
            file=sys.stderr,
        )
    return not missing


def _needed(device: torch.device) -> dict[str, bool]:
    """What PyTorch's compiler needs for a GPU, and whether it is there."""
    # Triton compiles a small extension module with it.
    compilers = [shlex.split(os.environ["CC"])[0]] if os.environ.get("CC") else ["gcc", "clang"]
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    return {
        "Triton (`pip install triton`)": importlib.util.find_spec("triton") is not None,
        "a C compiler (gcc, clang or CC)": any(map(shutil.which, compilers)),
        f"Python's headers ({headers})": headers.exists(),
        "a GPU of compute capability 7.0": torch.cuda.get_device_capability(device)
        >= OLDEST_CAPABILITY,
    }


def compiled(encoder: nn.Module) -> Callable[[Tensor], Tensor]:
    """The encoder's forward pass, compiled at its first call; weights are the encoder's own.

    The compiler doesn't measure which kernels are faster, so that all processes get the same ones.
    """
    # It recommends TF32, which the protocol excludes.
    warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores", category=UserWarning)
    function: Callable[[Tensor], Tensor] = torch.compile(
        encoder, dynamic=False, options={"deterministic": True}
    )
    return function
