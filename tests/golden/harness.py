"""Golden cases: independently computed inputs, outputs and gradients, and their comparison."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass
class Case:
    """One golden case; `checked` collects the names of compared arrays, so that none is missed."""

    name: str
    component: str
    scalars: dict[str, Any]
    arrays: dict[str, np.ndarray]
    tolerance: dict[str, float]
    checked: set[str] = field(default_factory=set)

    def tensor(self, name: str, requires_grad: bool = False) -> Tensor:
        """An array as a float64 (or integer) tensor."""
        tensor = torch.from_numpy(self.arrays[name])
        tensor = tensor.double() if tensor.is_floating_point() else tensor
        return tensor.clone().requires_grad_(requires_grad)

    def check(self, name: str, actual: Tensor | np.ndarray | float) -> None:
        """Asserts |actual - expected| <= atol + rtol * max|expected|, as defined in the index."""
        expected = self.arrays[name]
        value = actual.detach().numpy() if isinstance(actual, Tensor) else np.asarray(actual)
        prefix = "grad_" if name.startswith("grad_") else ""
        rtol = self.tolerance.get(f"{prefix}rtol", self.tolerance["rtol"])
        atol = self.tolerance.get(f"{prefix}atol", self.tolerance["atol"])
        largest = float(np.abs(expected).max(initial=0.0))
        assert value.shape == expected.shape, f"{self.name}: {name} has shape {value.shape}"
        error = float(np.abs(value - expected).max(initial=0.0))
        assert error <= atol + rtol * largest, f"{self.name}: {name} is off by {error:.3g}"
        self.checked.add(name)

    def expected_names(self) -> set[str]:
        """Names of the arrays that a runner has to check."""
        return {name for name in self.arrays if name.startswith(("exp_", "grad_"))}


def load_cases(folder: Path) -> list[Case]:
    """All cases in `folder`, float64."""
    index = json.loads((folder / "index.json").read_text())
    return [_load(folder, entry) for entry in index["cases"]]


def _load(folder: Path, entry: dict[str, Any]) -> Case:
    with np.load(folder / entry["file"], allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    return Case(
        name=entry["name"],
        component=entry["component"],
        scalars=entry["scalars"],
        arrays=arrays,
        tolerance=entry["tolerance_float64"],
    )
