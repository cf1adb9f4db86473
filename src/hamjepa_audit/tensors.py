"""Tensors as safetensors files."""

from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from hamjepa_audit.files import write_bytes


def write_tensors(
    target: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Writes tensors, contiguous on the CPU, atomically; the same tensors give the same bytes.

    Of `metadata` at most one entry: safetensors writes several in any order.

    safetensors' own `save_file` is not used: it reports a full disk as an error of its own kind,
    and leaves a temporary file without an owner's name when it is killed.

    Raises:
        UserError: the folder can't be written to, or the disk is full.
    """
    write_bytes(target, save(tensors, metadata))
