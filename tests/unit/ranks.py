"""What one rank of a test of data-parallel training does, and how ranks are started."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from hamjepa_audit.bookkeeping.layout import Layout
from hamjepa_audit.data.store import Store, verify_store
from hamjepa_audit.data.streaming import BatchImages, batches
from hamjepa_audit.data.views import random_views
from hamjepa_audit.errors import UserError
from hamjepa_audit.model import build_model
from hamjepa_audit.params import RunParams, load_study, resolve_run
from hamjepa_audit.training import session
from hamjepa_audit.training.device import make_deterministic
from hamjepa_audit.training.distributed import ALONE, Ranks, joined_ranks
from hamjepa_audit.training.loop import VIEWS, Trainer
from hamjepa_audit.training.progress import TrainingProgress
from hamjepa_audit.training.state import States, capture, restore
from tests.conftest import REPOSITORY
from tests.tiny import EPOCHS, STUDY

ARMS = ("hamjepa", "sigreg", "mlp")
RANKS = 2
STEPS, BATCH = 10, 64
RANK = """
import sys
from pathlib import Path
from tests.unit.ranks import main
main(sys.argv[1], Path(sys.argv[2]))
"""

State = tuple[dict[str, Any], dict[str, Tensor]]
"""What `capture` gives."""


@dataclass
class Step:
    """One step: what it measured, and the state after it."""

    columns: Tensor
    after: State


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


def trainer_of(run: RunParams, kind: type[Trainer] = Trainer, ranks: Ranks = ALONE) -> Trainer:
    """A new trainer on random images, enough for STEPS steps an epoch."""
    shape = (STEPS * BATCH, 3, run.data.image_size, run.data.image_size)
    source = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=source)
    model = build_model(run).to(torch.device("cpu"))
    if kind is DoubleTrainer:
        for part in model.parts().values():
            part.double()
    trainer = kind(run, model, images, "test", ranks)
    trainer.model.encoder.train()
    return trainer


def train(trainer: Trainer, states: Sequence[State] = ()) -> list[Step]:
    """The steps of an epoch, each from the state after the one before it: ours, or a given one."""
    order = [trainer.ranks.share(samples) for samples in trainer._batches(1, STEPS)]
    assert isinstance(trainer.images, Tensor)
    steps = []
    for index, (samples, pictures) in enumerate(batches(trainer.images, order)):
        if states and index:
            restore(trainer, *states[index - 1])
        columns = trainer.step(samples, pictures, 1, index)
        steps.append(Step(columns, copied(capture(trainer))))
    return steps


def copied(state: State) -> State:
    """A state that later steps don't change."""
    content, tensors = state
    return content, {name: value.clone() for name, value in tensors.items()}


def run_ranks(task: str, folder: Path, gpus: str = "") -> list[Any]:
    """Does a task in RANKS processes together; what each of them says, in their order.

    GPUs are names here: where PyTorch finds none, it computes on the CPU.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "WORLD_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": str(RANKS), "CUDA_VISIBLE_DEVICES": gpus,
        "TMPDIR": str(folder),
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, task, str(folder)],
            cwd=REPOSITORY,
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(RANKS)
    ]
    assert [process.wait(timeout=240) for process in processes] == [0] * RANKS
    return [torch.load(folder / f"{task}{rank}.pt", weights_only=False) for rank in range(RANKS)]


def in_doubles(folder: Path, ranks: Ranks) -> dict[str, list[Step]]:
    """Ten steps on end in float64, by arm."""
    return {
        arm: train(trainer_of(run_of(folder / "params", arm), DoubleTrainer, ranks)) for arm in ARMS
    }


def as_trained(folder: Path, ranks: Ranks) -> dict[str, list[Step]]:
    """The steps as training does them, each from the state that one process had before it."""
    states = torch.load(folder / "states.pt", weights_only=False)
    return {
        arm: train(trainer_of(run_of(folder / "params", arm), ranks=ranks), states[arm])
        for arm in ARMS
    }


def states_at(folder: Path, name: str, conditions: str) -> States:
    """States of a run that are made, and gone on with, under some conditions."""
    code = {"commit": "", "uncommitted_changes": False}
    return States(folder / name, {"torch": conditions}, code, datetime.now(UTC), 0.0)


def resume(folder: Path, ranks: Ranks) -> dict[str, Any]:
    """Restores two runs' states and says how far each had come, and with which weights.

    The first rank's conditions are those of the states in one run; the second's, in the other.
    """
    found = {}
    for name, its in (("first", 0), ("second", 1)):
        trainer = trainer_of(run_of(folder / "params", "hamjepa"), ranks=ranks)
        here = "here" if ranks.rank == its else "elsewhere"
        states_at(folder, name, here).restore(trainer)
        found[name] = trainer.steps_done, trainer.model.state_dict()
    return found


def fail(folder: Path, ranks: Ranks) -> list[str]:
    """What a rank is told if the first fails, and if it doesn't."""

    def work() -> str:
        raise UserError(f"rank {ranks.rank} can't")

    told = [ranks.from_first(lambda: f"rank {ranks.rank}")]
    try:
        ranks.from_first(work)
    except UserError as error:
        told.append(str(error))
    return told


def lease(folder: Path, ranks: Ranks) -> str:
    """Which GPU a rank was given."""
    return os.environ["CUDA_VISIBLE_DEVICES"]


def wait(folder: Path, ranks: Ranks) -> float:
    """How long the run's device waited, after an epoch in which each rank's did for its number."""
    trainer = trainer_of(run_of(folder / "params", "sigreg"), ranks=ranks)
    trainer.position.waited = float(ranks.rank)
    trainer.train_epoch(1, TrainingProgress("test", EPOCHS, STEPS, quiet=True))
    return trainer.position.waited


def verify(folder: Path, ranks: Ranks) -> list[Any]:
    """How often a rank hashed a sound store and how many images it has; why not a damaged one."""
    hashed: list[Path] = []

    def counted(store: Path) -> Store:
        hashed.append(store)
        return verify_store(store)

    session.verify_store = counted
    run, cpu = run_of(folder / "params", "sigreg"), torch.device("cpu")
    images = session.training_images(Layout(data=folder / "data"), run, cpu, ranks)
    found: list[Any] = [len(hashed), len(images)]
    try:
        session.training_images(Layout(data=folder / "damaged"), run, cpu, ranks)
    except UserError as error:
        found.append(str(error))
    return found


TASKS = {
    "in_doubles": in_doubles,
    "as_trained": as_trained,
    "resume": resume,
    "fail": fail,
    "lease": lease,
    "wait": wait,
    "verify": verify,
}


def main(task: str, folder: Path) -> None:
    """One rank's part, and the file that says what it found."""
    make_deterministic(threads=1)
    with joined_ranks("auto", 2) as (ranks, _):
        found = cast(Any, TASKS[task])(folder, ranks)
        torch.save(found, folder / f"{task}{ranks.rank}.pt")
