"""Tasks of the ranks in tests of data-parallel training, and a way to start the ranks."""

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

from hamjepa_audit.data.store import Store, load_manifest, verify_store
from hamjepa_audit.data.streaming import BatchImages, batches
from hamjepa_audit.data.views import random_views
from hamjepa_audit.errors import UserError
from hamjepa_audit.layout import Layout
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
"""Result of `capture`."""


@dataclass
class Step:
    """Measured values of one step, and the state after it."""

    columns: Tensor
    after: State


class DoubleTrainer(Trainer):
    """A trainer whose encoder, objective and optimiser use float64; views are float32 as usual."""

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
    """A new trainer on random images, enough for STEPS steps per epoch."""
    shape = (STEPS * BATCH, 3, run.data.image_size, run.data.image_size)
    source = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=source)
    model = build_model(run).moved_to(torch.device("cpu"))
    if kind is DoubleTrainer:
        for part in (model.encoder, model.objective):
            part.double()
    trainer = kind(run, model, images, "test", ranks)
    trainer.model.encoder.train()
    return trainer


def train(trainer: Trainer, states: Sequence[State] = ()) -> list[Step]:
    """The steps of an epoch, each starting from the previous state: its own, or one of `states`."""
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
    """A copy of a state that later steps don't change."""
    content, tensors = state
    return content, {name: value.clone() for name, value in tensors.items()}


def run_ranks(task: str, folder: Path, gpus: str = "") -> list[Any]:
    """Runs a task in RANKS processes together; returns their results in order of ranks.

    GPUs are only names: if PyTorch finds none, it computes on the CPU.
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
    """Ten consecutive steps in float64, by arm."""
    return {
        arm: train(trainer_of(run_of(folder / "params", arm), DoubleTrainer, ranks)) for arm in ARMS
    }


def as_trained(folder: Path, ranks: Ranks) -> dict[str, list[Step]]:
    """Steps in training's precision, each from the state of a single process before that step."""
    states = torch.load(folder / "states.pt", weights_only=False)
    return {
        arm: train(trainer_of(run_of(folder / "params", arm), ranks=ranks), states[arm])
        for arm in ARMS
    }


def states_at(folder: Path, name: str, conditions: str) -> States:
    """States of a run that are saved and resumed under the given conditions."""
    code = {"commit": "", "uncommitted_changes": False}
    return States(folder / name, {"torch": conditions}, code, datetime.now(UTC), 0.0, 0.0)


def resume(folder: Path, ranks: Ranks) -> dict[str, Any]:
    """Restores the states of two runs; returns the number of steps and the weights of each.

    The conditions of one run's states are the first rank's; those of the other's, the second's.
    """
    found = {}
    for name, its in (("first", 0), ("second", 1)):
        trainer = trainer_of(run_of(folder / "params", "hamjepa"), ranks=ranks)
        here = "here" if ranks.rank == its else "elsewhere"
        states_at(folder, name, here).restore(trainer)
        found[name] = trainer.steps_done, trainer.model.weights()
    return found


def fail(folder: Path, ranks: Ranks) -> list[str]:
    """What a rank receives if the first one succeeds, and if it fails."""

    def work() -> str:
        raise UserError(f"rank {ranks.rank} can't")

    told = [ranks.from_first(lambda: f"rank {ranks.rank}")]
    try:
        ranks.from_first(work)
    except UserError as error:
        told.append(str(error))
    return told


def lease(folder: Path, ranks: Ranks) -> str:
    """The GPU assigned to a rank."""
    return os.environ["CUDA_VISIBLE_DEVICES"]


def wait(folder: Path, ranks: Ranks) -> float:
    """The run's waiting time after an epoch in which each rank waited for as long as its number."""
    trainer = trainer_of(run_of(folder / "params", "sigreg"), ranks=ranks)
    trainer.position.waited = float(ranks.rank)
    trainer.train_epoch(1, TrainingProgress("test", EPOCHS, STEPS, quiet=True))
    return trainer.position.waited


def verify(folder: Path, ranks: Ranks) -> list[Any]:
    """How often a rank hashed a valid store, its number of images, and a damaged store's error."""
    hashed: list[Path] = []

    def counted(store: Path, digest: str | None) -> Store:
        hashed.append(store)
        return verify_store(store, digest)

    session.verify_store = counted
    run, cpu = run_of(folder / "params", "sigreg"), torch.device("cpu")
    digest = load_manifest(folder / "data" / STUDY).digest
    images = session.training_images(Layout(data=folder / "data"), run, digest, cpu, ranks)
    found: list[Any] = [len(hashed), len(images)]
    try:
        session.training_images(Layout(data=folder / "damaged"), run, digest, cpu, ranks)
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
    """Runs a task in one rank, and writes its result to a file."""
    make_deterministic(threads=1)
    with joined_ranks("auto", 2) as (ranks, _):
        found = cast(Any, TASKS[task])(folder, ranks)
        torch.save(found, folder / f"{task}{ranks.rank}.pt")
