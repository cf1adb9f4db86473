"""A run from its data to its files: trained by one process at a time, resumed if it died."""

import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hamjepa_audit.bookkeeping.provenance import code_and_environment
from hamjepa_audit.data.store import open_store, verify_store
from hamjepa_audit.data.streaming import StreamedImages, open_images
from hamjepa_audit.layout import Layout
from hamjepa_audit.locking import sole_process
from hamjepa_audit.params.studies import RunParams, StudyParams
from hamjepa_audit.plans.identity import run_id
from hamjepa_audit.training.checkpoints_along import CheckpointsAlong
from hamjepa_audit.training.distributed import ALONE, Ranks
from hamjepa_audit.training.loop import Trainer, pretrain
from hamjepa_audit.training.record import Circumstances, write_run
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
    """Trains a run, from its last state if an earlier process left one, and writes it.

    Of several processes that train it together the first one chooses the state, keeps states and
    writes.

    Args:
        layout: where.
        study: how often to keep a state, which epochs' checkpoints, how long to wait for images.
        run: its parameters.
        digest: of the prepared data.
        device: where to compute.
        determinism: settings that make it repeat itself.
        ranks: the processes that train it together, each of which calls this.
        runs_per_gpu: how many runs may share the GPU, if it is one; goes into the record.

    Returns:
        The record's path.

    Raises:
        UserError: another process trains it, the data are damaged, a file can't be written, or a
            loss is not finite.
    """
    started, code, name = datetime.now(UTC), code_and_environment(), run_id(run, digest)
    with ExitStack() as lock:
        ranks.from_first(lambda: lock.enter_context(sole_process(layout.run_lock(name), name)))
        states = States(
            folder=layout.state(name),
            conditions=conditions(device, determinism),
            code=code,
            started=started,
            every_seconds=60 * study.resumption.state_every_minutes,
        )
        images = training_images(layout, run, device, ranks)
        along = CheckpointsAlong(layout, name, study.checkpoints.epochs_before(run.epochs))

        def restore(trainer: Trainer) -> None:
            kept = states.restore(trainer)
            ranks.from_first(lambda: along.require(trainer, kept))

        def keep(trainer: Trainer) -> None:
            # Checkpoints come first: a state says that those of its epochs are there.
            along.save_ended_epoch(trainer)
            states.keep(trainer, along.digests)

        hooks = [keep] if ranks.first else []
        result = pretrain(run, images, device, name, None, restore, hooks, ranks)
        if ranks.first:
            warn_of_waiting(name, result.data_wait_share, study.streaming.largest_wait_share)
            shared = runs_per_gpu if device.type == "cuda" else None
            how = Circumstances(code, device, determinism, shared, states.started, states.resumed)
            write_run(layout, run, digest, result, how, along.publish())
            states.remove()
    return layout.record(name)


def warn_of_waiting(name: str, share: float | None, largest: float) -> None:
    """Says so if the device waited for images for more than this share of a run's time."""
    if share is not None and share > largest:
        print(
            f"warning: {name}: the device waited for images {share:.1%} of the time, more than "
            f"streaming.largest_wait_share ({largest:.1%}): put the prepared data on a faster "
            f"disk, or let fewer runs read from it at a time; the run's numbers are not touched",
            file=sys.stderr,
        )


def training_images(
    layout: Layout, run: RunParams, device: torch.device, ranks: Ranks = ALONE
) -> Tensor | StreamedImages:
    """The training images of a run as they were prepared: uint8 on a device, or streamed to it.

    Of several processes the first one alone reads and hashes the whole store.

    Raises:
        UserError: they are missing, changed or damaged.
    """
    folder = layout.store(run.data.name)
    # The digest is small to tell; the store itself would be sent to every process.
    ranks.from_first(lambda: verify_store(folder).manifest.digest)
    return open_images(open_store(folder).train, device)
