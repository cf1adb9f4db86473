"""What one rank of a test of data-parallel training does: python -m tests.unit.ranks PARAMS OUT."""

import sys
from pathlib import Path

import torch
from torch import Tensor

from hamjepa_audit.data.streaming import BatchImages, batches
from hamjepa_audit.data.views import random_views
from hamjepa_audit.params import RunParams, load_study, resolve_run
from hamjepa_audit.training.device import make_deterministic
from hamjepa_audit.training.distributed import ALONE, Ranks, join_ranks
from hamjepa_audit.training.loop import VIEWS, Trainer
from hamjepa_audit.training.model import build_model
from tests.tiny import EPOCHS, STUDY

ARMS = ("hamjepa", "sigreg", "mlp")
DTYPES = (torch.float64, torch.float32)
STEPS, BATCH = 10, 64

Trained = dict[str, Tensor]
"""The columns (STEPS, C) of every step as `columns`, and the weights by name."""


class DoubleTrainer(Trainer):
    """Views are float32 as always; encoder, objective and optimiser compute in float64."""

    def _states(self, samples: Tensor, images: BatchImages, epoch: int) -> Tensor:
        rows = samples.repeat(VIEWS)
        which = torch.arange(VIEWS).repeat_interleave(len(samples))
        twice = torch.arange(len(samples)).repeat(VIEWS)
        views = random_views(images[twice], rows, self.run.views, self.run.seed, epoch, which)
        states: Tensor = self.model.encoder(views.double())
        return states.unflatten(0, (VIEWS, len(samples)))


def run_of(params: Path, arm: str) -> RunParams:
    run = resolve_run(load_study(params, STUDY), arm, EPOCHS, 0)
    return run.model_copy(
        update={"optimisation": run.optimisation.model_copy(update={"batch_size": BATCH})}
    )


def train(run: RunParams, dtype: torch.dtype, ranks: Ranks = ALONE) -> Trained:
    """Ten steps of a run on random images."""
    shape = (STEPS * BATCH, 3, run.data.image_size, run.data.image_size)
    source = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=source)
    model = build_model(run)
    for part in model.parts().values():
        part.to(dtype)
    kind = DoubleTrainer if dtype == torch.float64 else Trainer
    trainer = kind(run, model, images, "test", ranks)
    trainer.model.encoder.train()
    order = [ranks.share(samples) for samples in trainer._batches(1, STEPS)]
    columns = [
        trainer.step(samples, pictures, 1, index)
        for index, (samples, pictures) in enumerate(batches(images, order))
    ]
    return trainer.model.state_dict() | {"columns": torch.stack(columns)}


def main(params: Path, out: Path) -> None:
    make_deterministic(threads=1)
    ranks, _ = join_ranks(torch.device("cpu"))
    trained = {
        (arm, dtype): train(run_of(params, arm), dtype, ranks) for arm in ARMS for dtype in DTYPES
    }
    torch.save(trained, out / f"rank{ranks.rank}.pt")
    ranks.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
