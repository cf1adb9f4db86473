"""The trace that guards TRAINING_NUMERICS; python -m tests.unit.training_trace rewrites it.

A trace in float32 would not hold on another processor: rounding moves an activation across a
ReLU's kink, which changes a gradient by 1e-3, and a dozen steps amplify this. Therefore the runs
use float64 and stand-in views that all processors round alike; real views are traced separately.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hamjepa_audit.data.preparation import prepare
from hamjepa_audit.data.store import open_store
from hamjepa_audit.data.views import normalise, random_views
from hamjepa_audit.model import Model, build_model
from hamjepa_audit.params import load_study, resolve_run
from hamjepa_audit.params.studies import RunParams, ViewParams
from hamjepa_audit.plans.identity import TRAINING_NUMERICS
from hamjepa_audit.training import loop
from hamjepa_audit.training.device import make_deterministic
from tests.tiny import ARMS, EPOCHS, RAMP, STUDY, copy_params, edit
from tests.unit.traces import Trace

TRACE = Trace("training", TRAINING_NUMERICS)
TRACED = (*ARMS, "vicreg", "rdmreg", "frozen", "euler", "symplectic_euler", "volume_preserving")
VIEWS = "views"
TRACED_IMAGES = 640
"""Ten steps per epoch, so that the floors' directions are redrawn during the run."""


def stressed_params(target: Path) -> Path:
    """The tiny study with all terms, floors, ramps, clipping and weight decay in effect."""
    folder = copy_params(target)
    study, hamjepa = folder / "studies" / f"{STUDY}.yaml", folder / "arms" / "hamjepa.yaml"
    edit(study, "arms", list(TRACED))
    edit(study, "optimisation.batch_size", 64)
    edit(study, "optimisation.learning_rate", 2e-3)
    edit(study, "optimisation.weight_decay", 0.5)
    edit(hamjepa, "objective.predictor.potential.residual_scale", 2.0)
    edit(study, RAMP, 3)
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


def stand_in_views(
    images: torch.Tensor,
    samples: torch.Tensor,
    params: ViewParams,
    seed: int,
    epoch: int,
    views: torch.Tensor,
    draws: object,
) -> torch.Tensor:
    """Views (B, 3, S, S) float64 that differ by sample, view and epoch, in exact arithmetic."""
    x = images.double() / 256
    x = torch.where(views.view(-1, 1, 1, 1) == 0, x, x.flip(-1))
    shift = (samples * 7 + epoch * 3 + views * 5) % 16
    return normalise(x * (1 + shift.view(-1, 1, 1, 1) / 16), params).contiguous()


def double_model(run: RunParams) -> Model:
    """The initial model in float64."""
    model = build_model(run)
    model.encoder.double()
    model.objective.double()
    return model


def trace(params: Path, images: torch.Tensor, arm: str) -> dict[str, Any]:
    """History, and the norm of every tensor of the final checkpoint, of one arm's run."""
    run = resolve_run(load_study(params, STUDY), arm, EPOCHS, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "random_views", stand_in_views)
        patch.setattr(loop, "build_model", double_model)
        result = loop.pretrain(run, images[:TRACED_IMAGES], torch.device("cpu"), arm)
    weights = result.model.weights()
    norms = {name: float(value.double().norm()) for name, value in sorted(weights.items())}
    return {"history": result.history, "norms": norms}


def views_trace(params: Path, images: torch.Tensor) -> list[float]:
    """Root mean square of each of sixteen random views."""
    run = resolve_run(load_study(params, STUDY), ARMS[0], EPOCHS, 0)
    samples = torch.arange(8).repeat(2)
    which = torch.arange(2).repeat_interleave(8)
    views = random_views(images[samples], samples, run.views, run.seed, 1, which)
    return views.double().square().mean(dim=(1, 2, 3)).sqrt().tolist()


def main() -> None:
    """Stores the traces of all arms and of views."""
    make_deterministic(threads=1)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        params = stressed_params(root / "params")
        prepare(load_study(params, STUDY).data, root, root)
        images = torch.from_numpy(np.array(open_store(root / STUDY).train.images))
        arms = {arm: trace(params, images, arm) for arm in TRACED}
        TRACE.store(arms | {VIEWS: views_trace(params, images)})


if __name__ == "__main__":
    main()
