"""Compilation of the encoder for a GPU: BatchNorm, ReLU and additions become fewer kernels."""

import importlib.util
import os
import shutil
import sys
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

C_COMPILERS = ("gcc", "clang")
"""What Triton looks for unless CC names one."""


def can_compile(device: torch.device) -> bool:
    """Whether PyTorch can compile for a device; prints why not if that is a GPU."""
    if device.type != "cuda":
        return False
    candidates = [os.environ["CC"]] if os.environ.get("CC") else C_COMPILERS
    lacking = [
        what
        for what, there in (
            ("Triton (`pip install triton`)", importlib.util.find_spec("triton") is not None),
            ("a C compiler (gcc, clang or CC)", any(map(shutil.which, candidates))),
        )
        if not there
    ]
    if lacking:
        print(
            f"warning: the encoder is not compiled, so training is slower and rounds differently: "
            f"{' and '.join(lacking)} is missing; install it, or set compile_on_gpu to false",
            file=sys.stderr,
        )
    return not lacking


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
