"""Trains a run from its data to its files: one process at a time, resuming after interruptions."""

import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hamjepa_audit.bookkeeping.provenance import code_and_environment
from hamjepa_audit.bookkeeping.records import is_complete
from hamjepa_audit.bookkeeping.states import remove_states
from hamjepa_audit.data.store import open_store, verify_store
from hamjepa_audit.data.streaming import StreamedImages, open_images
from hamjepa_audit.layout import Layout
from hamjepa_audit.locking import sole_process
from hamjepa_audit.params.studies import RunParams, StudyParams
from hamjepa_audit.plans.identity import run_id
from hamjepa_audit.training.checkpoints_along import CheckpointsAlong
from hamjepa_audit.training.compilation import COMPILED
from hamjepa_audit.training.distributed import ALONE, Ranks
from hamjepa_audit.training.loop import Trainer, pretrain
from hamjepa_audit.training.record import write_run
from hamjepa_audit.training.state import States, conditions


def train_run(
    layout: Layout,
    study: StudyParams,
    run: RunParams,
    digest: str,
    device: torch.device,
    determinism: dict[str, Any],
    ranks: Ranks = ALONE,
    runs_per_gpu: int = 1,
) -> Path:
    """Trains a run, resuming from its last saved state if there is one; returns its record's path.

    A run that exists already is left as it is. If several processes train a run together, each
    calls this, and only the first chooses the state and writes files. `determinism` and
    `runs_per_gpu` are for the record; the encoder is compiled if `determinism` says so.

    Raises:
        UserError: another process is training it, the data are damaged, a file can't be written, or
            a loss is not finite.
    """
    started, code, name = datetime.now(UTC), code_and_environment(), run_id(run, digest)
    with ExitStack() as lock:
        ranks.from_first(lambda: lock.enter_context(sole_process(layout.run_lock(name), name)))
        if ranks.from_first(lambda: is_complete(layout, name)):
            ranks.from_first(lambda: _leave(layout, name))
            return layout.record(name)
        states = States(
            folder=layout.state(name),
            conditions=conditions(device, determinism),
            code=code,
            started=started,
            every_seconds=60 * study.resumption.state_every_minutes,
            epoch_end_after_seconds=study.resumption.epoch_end_after_seconds,
        )
        images = training_images(layout, run, digest, device, ranks)
        along = CheckpointsAlong(layout, name, study.checkpoints.epochs_before(run.epochs))

        def restore(trainer: Trainer) -> None:
            kept = states.restore(trainer)
            ranks.from_first(lambda: along.require(trainer, kept))

        def keep(trainer: Trainer) -> None:
            # Checkpoints come first: a state records those of the epochs before it.
            along.save_ended_epoch(trainer)
            states.keep(trainer, along.digests)

        hooks = [keep] if ranks.first else []
        compile_encoder = determinism.get(COMPILED, False)
        result = pretrain(run, images, device, name, None, restore, hooks, ranks, compile_encoder)
        if ranks.first:
            warn_of_waiting(name, result.data_wait_share, study.streaming.largest_wait_share)
            circumstances = {
                **code,
                "determinism": determinism,
                "runs_per_gpu": runs_per_gpu if device.type == "cuda" else None,
                "started": states.started,
                "resumed": states.resumed,
            }
            write_run(layout, run, digest, result, device, circumstances, along.publish())
            states.remove()
    return layout.record(name)


def _leave(layout: Layout, name: str) -> None:
    """Says that a run exists, and deletes states that a process killed at its end has left."""
    remove_states(layout.state(name))
    again = f"to train it again, delete {layout.run(name)}"
    print(f"{name} exists already and is left as it is; {again}", file=sys.stderr)


def warn_of_waiting(name: str, share: float | None, largest: float) -> None:
    """Prints a warning if the device waited for images for more than the share `largest`."""
    if share is not None and share > largest:
        print(
            f"warning: {name}: the device waited for images {share:.1%} of the time, more than "
            f"streaming.largest_wait_share ({largest:.1%}): put the prepared data on a faster "
            f"disk, or let fewer runs read from it at a time; the run's results are not affected",
            file=sys.stderr,
        )


def training_images(
    layout: Layout, run: RunParams, digest: str, device: torch.device, ranks: Ranks = ALONE
) -> Tensor | StreamedImages:
    """The training images of the data `digest`: a uint8 tensor on the device, or streamed to it.

    If there are several processes, only the first reads and hashes the whole store.

    Raises:
        UserError: they are missing, changed, damaged or other data.
    """
    folder = layout.store(run.data.name)
    # Only the small digest is returned, because the result is sent to every process.
    ranks.from_first(lambda: verify_store(folder, digest).manifest.digest)
    return open_images(open_store(folder).train, device)
