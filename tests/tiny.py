"""A study that trains in seconds, and how tests run the command line on it."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hamjepa_audit.cli.main import main
from tests.conftest import REPOSITORY

STUDY = "digits"
ARMS = ("sigreg", "identity", "mlp", "hamjepa")
EPOCHS, SEEDS = 2, (0, 1)
RAMP = "arm_overrides.hamjepa.objective.predictor.potential.residual_ramp_epochs"
TINY_THEORY = {
    "geometries.dimensions": [2, 8],
    "geometries.instances": 1,
    "optimiser.dimensions": [2, 4],
    "tasks": {"dimensions": [2, 3], "samples": 20000},
    "spectra.orders": [2, 3, 16],
    "spectra.instances": 2,
    "maps.dimensions": [2, 8],
    "maps.hidden_width": 16,
    "long_run.steps": 5000,
    "tolerances.energy_bounded": 1.5,  # larger, because there are fewer steps and trajectories
    "long_run.dimensions": [2, 8],
    "long_run.trajectories": 16,
    "toy_transport.refined": 2,
    "toy_transport.refined_samples": 512,
    "toy_transport.potentials": {
        "harmonic": {"stiffness": 1.0},
        "quartic": {"quartic": 1.0},
        "harmonic and 0.3 sine": {"stiffness": 1.0, "sine": 0.3},
    },
    "toy_transport.centres": [[1.0, 0.0], [2.0, 0.0]],
    "toy_transport.spreads": [[0.5, 1.0]],
    "pictures.drift.size": 5,
    "pictures.area.points": 40,
}
"""Smaller values for everything that takes time in the theory's checks."""


def copy_params(target: Path) -> Path:
    """Copies the project's parameters, with a tiny version of the embedded study."""
    folder = Path(shutil.copytree(REPOSITORY / "params", target))
    edit(folder / "studies" / f"{STUDY}.yaml", "encoder.width", 8)
    edit(folder / "studies" / f"{STUDY}.yaml", "optimisation.warmup_epochs", 1)
    edit(folder / "studies" / f"{STUDY}.yaml", "optimisation.batch_size", 256)
    edit(folder / "studies" / f"{STUDY}.yaml", RAMP, 10)  # as in the stored traces
    edit(folder / "studies" / f"{STUDY}.yaml", "epochs", [EPOCHS])
    edit(folder / "studies" / f"{STUDY}.yaml", "seeds", list(SEEDS))
    edit(folder / "studies" / f"{STUDY}.yaml", "evaluation.probe.epochs", 2)
    edit(folder / "studies" / f"{STUDY}.yaml", "resumption.epoch_end_after_seconds", 0.0)
    for keys, value in TINY_THEORY.items():
        edit(folder / "theory.yaml", keys, value)
    return folder


def edit(path: Path, keys: str, value: Any) -> None:
    """Sets a dotted key of a YAML file."""
    tree = yaml.safe_load(path.read_text())
    node = tree
    *parents, last = keys.split(".")
    for key in parents:
        node = node.setdefault(key, {})
    node[last] = value
    path.write_text(yaml.safe_dump(tree))


def audit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str]:
    """Runs hamjepa-audit in this process; returns exit status and stderr."""
    monkeypatch.setattr(sys, "argv", ["hamjepa-audit", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    code = stopped.value.code
    return code if isinstance(code, int) else 0, capsys.readouterr().err


def files_below(folder: Path) -> set[str]:
    """Relative paths of all files below a folder, including hidden ones."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
