"""A run from its data to its files: trained by one process at a time, gone on with if one died."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hamjepa_audit.data.store import verify_store
from hamjepa_audit.identity import run_id
from hamjepa_audit.layout import Layout
from hamjepa_audit.locking import sole_process
from hamjepa_audit.params.studies import ResumptionParams, RunParams
from hamjepa_audit.provenance import code_and_environment
from hamjepa_audit.training.loop import pretrain
from hamjepa_audit.training.record import Circumstances, write_run
from hamjepa_audit.training.state import States, conditions


def train_run(
    layout: Layout,
    run: RunParams,
    digest: str,
    device: torch.device,
    determinism: dict[str, Any],
    resumption: ResumptionParams,
) -> Path:
    """Trains a run, from its last state if an earlier process left one, and writes it.

    Args:
        layout: where.
        run: its parameters.
        digest: of the prepared data.
        device: where to compute.
        determinism: settings that make it repeat itself.
        resumption: how often to keep a state.

    Returns:
        The record's path.

    Raises:
        UserError: another process trains it, the data are damaged, a file can't be written, or a
            loss is not finite.
    """
    started, code, name = datetime.now(UTC), code_and_environment(), run_id(run, digest)
    with sole_process(layout.run_lock(name), name):
        states = States(
            folder=layout.state(name),
            conditions=conditions(device, determinism),
            code=code,
            started=started,
            every_seconds=60 * resumption.state_every_minutes,
        )
        images = training_images(layout, run, device)
        result = pretrain(
            run, images, device, name, restore=states.restore, after_step=[states.keep]
        )
        how = Circumstances(code, device, determinism, states.started, states.resumed)
        record = write_run(layout, run, digest, result, how)
        states.remove()
    return record


def training_images(layout: Layout, run: RunParams, device: torch.device) -> Tensor:
    """The training images of a run, (N, 3, H, W) uint8 on a device, as they were prepared.

    Raises:
        UserError: they are missing, changed or damaged.
    """
    store = verify_store(layout.store(run.data.name))
    return torch.from_numpy(np.array(store.train.images)).to(device)
