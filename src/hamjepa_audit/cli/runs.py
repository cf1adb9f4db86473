"""hamjepa-audit generate, prepare, pretrain: make data and train runs."""

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from hamjepa_audit.cli.options import (
    Arm,
    Device,
    Epochs,
    RunsPerGpu,
    Seed,
    Study,
    Threads,
    layout_of,
)


def generate(
    context: typer.Context,
    folder: Annotated[Path, typer.Option(help="Folder to write, such as RAW/imagenet_smoke.")],
) -> None:
    """Generate images to try out studies on image folders; settings in PARAMS/generated.yaml."""
    import numpy as np

    from hamjepa_audit.data.generated import write_image_folder
    from hamjepa_audit.params.generated import GeneratedParams
    from hamjepa_audit.params.loading import read_params

    params = read_params(GeneratedParams, layout_of(context).params / "generated.yaml")
    write_image_folder(folder, params, np.random.default_rng(params.seed))
    typer.echo(folder)


def prepare(
    context: typer.Context,
    study: Study,
    threads: Annotated[
        int, typer.Option(min=1, help="Threads that decode images; they don't affect results.")
    ] = 1,
) -> None:
    """Convert a study's images into an immutable store of arrays with a manifest."""
    from hamjepa_audit.data.preparation import prepare
    from hamjepa_audit.files import read_json, write_json
    from hamjepa_audit.params import load_study
    from hamjepa_audit.params.loading import require_own_data

    layout = layout_of(context)
    params = load_study(layout.params, study)
    require_own_data(layout.params, params)
    started, noted = time.time(), layout.source(params.data.name)
    manifest = prepare(params.data, layout.raw, layout.data, threads=threads)
    description = params.data.description()
    if not noted.exists() or read_json(noted) != description:
        write_json(noted, description)
        # Older than the data: otherwise the workflow would prepare them again.
        os.utime(noted, (started, started))
    typer.echo(manifest)


def pretrain(
    context: typer.Context,
    study: Study,
    arm: Arm,
    epochs: Epochs,
    seed: Seed,
    device: Device = "auto",
    runs_per_gpu: RunsPerGpu = 1,
    threads: Threads = 1,
    trial_steps: Annotated[
        int | None, typer.Option(min=1, help="Run only this many steps and write nothing.")
    ] = None,
) -> None:
    """Train one run, resuming it if it was interrupted; write checkpoint, history and record.

    Under torchrun, all processes train the run together.
    """
    from hamjepa_audit.params import load_study, resolve_run
    from hamjepa_audit.plans.identity import run_id
    from hamjepa_audit.plans.study import data_digest, require_described
    from hamjepa_audit.training.compilation import COMPILED, can_compile
    from hamjepa_audit.training.device import make_deterministic
    from hamjepa_audit.training.distributed import joined_ranks
    from hamjepa_audit.training.loop import pretrain
    from hamjepa_audit.training.session import train_run, training_images

    layout = layout_of(context)
    params = load_study(layout.params, study)
    run = resolve_run(params, arm, epochs, seed)
    digest = data_digest(layout, params)
    require_described(layout, params)
    ranks, where = context.with_resource(joined_ranks(device, runs_per_gpu))
    if ranks.first and seed not in params.seeds:
        typer.echo(
            f"seed {seed} is not among those of study '{study}': its tables won't contain this "
            f"run, and `runs prune` would delete it; add it to params/studies/{study}.yaml",
            err=True,
        )
    compile_encoder = params.compile_on_gpu and ranks.count == 1 and can_compile(where)
    determinism = make_deterministic(threads) | ranks.described()
    if compile_encoder:
        determinism |= {COMPILED: True}
    if trial_steps is None:
        record = train_run(layout, params, run, digest, where, determinism, ranks, runs_per_gpu)
        if ranks.first:
            typer.echo(record)
    else:
        images = training_images(layout, run, digest, where, ranks)
        pretrain(
            run, images, where, run_id(run, digest), trial_steps,
            ranks=ranks, compile_encoder=compile_encoder,
        )  # fmt: skip


COMMANDS = (generate, prepare, pretrain)
