"""Tensors as safetensors files."""

from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from hamjepa_audit.files import write_bytes


def write_tensors(
    target: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Writes tensors, contiguous on the CPU, atomically; the same tensors give the same bytes.

    `metadata` has at most one entry, because safetensors writes several in arbitrary order.

    safetensors' own `save_file` is not used: it raises its own error type on a full disk, and when
    killed leaves a temporary file whose name does not identify its process.

    Raises:
        UserError: the folder can't be written to, or the disk is full.
    """
    write_bytes(target, save(tensors, metadata))
