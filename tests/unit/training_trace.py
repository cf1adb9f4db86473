"""The trace that guards TRAINING_NUMERICS; python -m tests.unit.training_trace writes it anew."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hamjepa_audit.data.preparation import prepare
from hamjepa_audit.data.store import open_store
from hamjepa_audit.identity import TRAINING_NUMERICS
from hamjepa_audit.params import load_study, resolve_run
from hamjepa_audit.training.device import make_deterministic
from hamjepa_audit.training.loop import pretrain
from tests.tiny import ARMS, EPOCHS, STUDY, copy_params, edit
from tests.unit.traces import Trace

TRACE = Trace("training", TRAINING_NUMERICS)
TRACED = (*ARMS, "vicreg", "rdmreg", "frozen", "euler", "symplectic_euler", "volume_preserving")


def stressed_params(target: Path) -> Path:
    """The tiny study with every term, floor, ramp, clip and decay at work."""
    folder = copy_params(target)
    study, hamjepa = folder / "studies" / f"{STUDY}.yaml", folder / "arms" / "hamjepa.yaml"
    edit(study, "arms", list(TRACED))
    edit(study, "optimisation.learning_rate", 2e-3)
    edit(study, "optimisation.weight_decay", 0.5)
    edit(hamjepa, "objective.predictor.potential.residual_scale", 2.0)
    edit(hamjepa, "objective.predictor.potential.residual_ramp_epochs", 3)
    edit(
        folder / "arms" / "volume_preserving.yaml", "objective.predictor.force.residual_scale", 2.0
    )
    edit(hamjepa, "objective.variance_floor.minimum_std", 1.2)
    for part in ("q", "p"):
        edit(hamjepa, f"objective.logdet_floor.{part}.minimum_logdet", 1.0)
        edit(hamjepa, f"objective.logdet_floor.{part}.minimum_participation", 0.9)
        edit(hamjepa, f"objective.logdet_floor.{part}.maximum_top_share", 0.02)
    edit(hamjepa, "clipping.maximum_norm", 0.2)
    return folder


def trace(params: Path, images: torch.Tensor, arm: str) -> dict[str, Any]:
    """History, and the norm of every tensor of the final checkpoint, of one arm's run."""
    run = resolve_run(load_study(params, STUDY), arm, EPOCHS, 0)
    result = pretrain(run, images, torch.device("cpu"), arm)
    weights = result.model.state_dict()
    norms = {name: float(value.double().norm()) for name, value in sorted(weights.items())}
    return {"history": result.history, "norms": norms}


def main() -> None:
    """Stores the trace of every arm."""
    make_deterministic(threads=1)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        params = stressed_params(root / "params")
        prepare(load_study(params, STUDY).data, root, root)
        images = torch.from_numpy(np.array(open_store(root / STUDY).train.images))
        TRACE.store({arm: trace(params, images, arm) for arm in TRACED})


if __name__ == "__main__":
    main()
