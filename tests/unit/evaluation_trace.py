"""The trace that guards EVALUATION_NUMERICS; python -m tests.unit.evaluation_trace rewrites it.

Weights and features are random, so that the trace doesn't depend on the numbers of training.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hamjepa_audit.evaluation.dynamics import dynamics_measurements
from hamjepa_audit.evaluation.features import extract_features
from hamjepa_audit.evaluation.trajectory import measurements
from hamjepa_audit.metrics import Measurement
from hamjepa_audit.model import build_model
from hamjepa_audit.params import load_study, resolve_run
from hamjepa_audit.plans.identity import EVALUATION_NUMERICS
from tests.tiny import EPOCHS, STUDY, edit
from tests.unit.traces import Trace

TRACE = Trace("evaluation", EVALUATION_NUMERICS)
TRAINING, TEST, CLASSES = 300, 120, 10


def trace(params: Path) -> dict[str, Any]:
    """Measurements on random weights, images and features, by part."""
    edit(params / "studies" / f"{STUDY}.yaml", "evaluation.dynamics.rollout_applications", 10)
    run = resolve_run(load_study(params, STUDY), "hamjepa", EPOCHS, 0)
    chance = torch.Generator().manual_seed(0)
    model = build_model(run)
    draw_weights(model, chance)
    size = run.data.image_size
    images = [
        torch.randint(0, 256, (rows, 3, size, size), dtype=torch.uint8, generator=chance)
        for rows in (6, 4)
    ]
    extracted = extract_features(model.encoder.eval().requires_grad_(False), run, *images)
    features, labels = clusters(extracted["train"].shape[1], chance)
    rows = list(measurements(run, features, labels, CLASSES))
    predictor = model.objective.get_submodule("predictor")
    moved = dynamics_measurements(run, predictor, features["view_a"], features["view_b"])
    of = {"knn": "knn_", "probe": "linear_probe_"}
    return {
        "features": {name: float(x.double().norm()) for name, x in extracted.items()},
        **{part: _values([r for r in rows if r.metric.startswith(of[part])]) for part in of},
        "geometry": _values([r for r in rows if not r.metric.startswith(tuple(of.values()))]),
        "dynamics": _values(moved),
    }


def draw_weights(model: nn.Module, chance: torch.Generator) -> None:
    """Fills all tensors in order of their names; the trace must not depend on initialisation."""
    for name, tensor in sorted(model.state_dict().items()):
        if tensor.is_floating_point():
            drawn = 0.3 * torch.randn(tensor.shape, generator=chance)
            tensor.copy_(drawn.abs() + 0.5 if name.endswith("running_var") else drawn)


def clusters(
    width: int, chance: torch.Generator
) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
    """Features (N, width) and labels of slightly overlapping classes."""
    labels = tuple(torch.arange(rows) % CLASSES for rows in (TRAINING, TEST))
    centres = torch.randn(CLASSES, width, generator=chance)

    def around(of: Tensor) -> Tensor:
        return centres[of] + 5.0 * torch.randn(len(of), width, generator=chance)

    train, test = (around(of) for of in labels)
    views = {name: test + 0.3 * torch.randn(test.shape, generator=chance) for name in "ab"}
    features = {"train": train, "test": test, "view_a": views["a"], "view_b": views["b"]}
    return features, (labels[0], labels[1])


def _values(rows: list[Measurement]) -> dict[str, float]:
    return {f"{row.readout} {row.metric}": row.value for row in rows}


if __name__ == "__main__":
    TRACE.make_and_store(trace)
