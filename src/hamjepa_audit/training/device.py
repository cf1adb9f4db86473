"""The compute device, and the settings that make it deterministic."""

import contextlib
import os
import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import torch

from hamjepa_audit.errors import UserError
from hamjepa_audit.gpu_lease import leased_gpus
from hamjepa_audit.machine import DeviceName, visible_gpus


@contextlib.contextmanager
def leased_device(name: DeviceName, runs_per_gpu: int = 1) -> Iterator[torch.device]:
    """Yields the device that `name` asks for; if that is a GPU, one with room for this process.

    It waits until there is room. Within the block, CUDA_VISIBLE_DEVICES names only the leased GPU.
    If CUDA is initialised already, nothing is leased, because its GPU can't be changed any more.

    Args:
        name: as `choose_device` takes it.
        runs_per_gpu: processes that may share a GPU, at least 1.

    Raises:
        UserError: a GPU is asked for and there is none.
    """
    gpus = [] if name == "cpu" or torch.cuda.is_initialized() else visible_gpus()
    with contextlib.ExitStack() as lease:
        if gpus:
            (gpu,) = lease.enter_context(leased_gpus(gpus, runs_per_gpu))
            lease.enter_context(only_gpu(gpu))
        yield choose_device(name)


@contextlib.contextmanager
def only_gpu(gpu: str) -> Iterator[None]:
    """Makes only one GPU visible to CUDA, which must not be initialised, within the block."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    try:
        yield
    finally:
        if before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def choose_device(name: DeviceName) -> torch.device:
    """The device that `name` asks for; "auto" takes a GPU if there is one.

    Raises:
        UserError: a GPU is asked for and there is none.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UserError(
            "--device cuda: PyTorch finds no GPU on this machine; use --device cpu, or check "
            "the driver and CUDA_VISIBLE_DEVICES"
        )
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def make_deterministic(threads: int | None) -> dict[str, Any]:
    """Switches PyTorch to deterministic algorithms and full float32 precision.

    Args:
        threads: CPU threads, or None for PyTorch's default. Rounding may depend on the number.

    Returns:
        The settings, for the run record.
    """
    # cuBLAS reads this at initialisation; without it, its reductions may differ between runs.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # use_deterministic_algorithms(True) would do, but imports the compiler, which takes seconds.
    torch.set_deterministic_debug_mode("error")
    # Filling new memory with NaN only helps to find reads of uninitialised memory, and is slow.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    if threads is not None:
        torch.set_num_threads(threads)
    return {
        "deterministic_algorithms": True,
        "cudnn_benchmark": False,
        "tf32": False,
        "cublas_workspace": os.environ["CUBLAS_WORKSPACE_CONFIG"],
        "threads": torch.get_num_threads(),
    }


def autocast(
    device: torch.device, precision: Literal["bf16", "fp32"]
) -> AbstractContextManager[Any]:
    """bf16 autocast on a GPU if the parameters ask for it, else float32."""
    enabled = device.type == "cuda" and precision == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def describe_device(device: torch.device) -> dict[str, Any]:
    """Name, memory and driver of the device, for the run record."""
    if device.type == "cpu":
        return {"type": "cpu", "name": _processor(), "cores": os.cpu_count()}
    properties = torch.cuda.get_device_properties(device)
    return {
        "type": "cuda",
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "driver": _nvidia_driver(),
    }


def _nvidia_driver() -> str | None:
    """The driver's version if Linux reports it."""
    version = Path("/sys/module/nvidia/version")
    return version.read_text().strip() if version.exists() else None


def _processor() -> str:
    """The processor's model if Linux reports it, else its architecture."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def peak_memory(device: torch.device) -> dict[str, int]:
    """Peak memory so far in bytes: of the process, and on the GPU if there is one."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes per unit of ru_maxrss
    peak = {"host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if device.type == "cuda":
        peak["device_bytes"] = torch.cuda.max_memory_allocated(device)
    return peak
