"""hamjepa-audit prepare, pretrain: data and runs."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from hamjepa_audit.cli.options import (
    Arm,
    Device,
    Epochs,
    Seed,
    Study,
    Threads,
    layout_of,
)


def prepare(context: typer.Context, study: Study, threads: Threads = None) -> None:
    """Turn a study's images into one immutable store of bytes with a manifest."""
    from hamjepa_audit.data.preparation import prepare
    from hamjepa_audit.params import load_study

    layout = layout_of(context)
    source = load_study(layout.params, study).data
    typer.echo(prepare(source, layout.raw, layout.data, threads=threads or 1))


def pretrain(
    context: typer.Context,
    study: Study,
    arm: Arm,
    epochs: Epochs,
    seed: Seed,
    device: Device = "auto",
    threads: Threads = None,
    trial_steps: Annotated[
        int | None, typer.Option(min=1, help="Only try this many steps; writes nothing.")
    ] = None,
) -> None:
    """Train one run: writes checkpoint, history and record."""
    import numpy as np
    import torch

    from hamjepa_audit.data.store import verify_store
    from hamjepa_audit.identity import run_id
    from hamjepa_audit.params import load_study, resolve_run
    from hamjepa_audit.plan import data_digest
    from hamjepa_audit.training.device import choose_device, make_deterministic
    from hamjepa_audit.training.loop import pretrain
    from hamjepa_audit.training.record import write_run

    started = datetime.now(UTC)
    layout = layout_of(context)
    params = load_study(layout.params, study)
    run = resolve_run(params, arm, epochs, seed)
    digest = data_digest(layout, params)
    where = choose_device(device)
    determinism = make_deterministic(threads)
    store = verify_store(layout.store(run.data.name))
    images = torch.from_numpy(np.array(store.train.images)).to(where)
    result = pretrain(run, images, where, run_id(run, digest), trial_steps)
    if trial_steps is None:
        typer.echo(write_run(layout, run, digest, result, where, started, determinism))


COMMANDS = (prepare, pretrain)
