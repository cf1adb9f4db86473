"""hamjepa-audit extract, knn, probe, geometry, trajectory, dynamics: measure runs.

Each command measures all seeds of one arm, because starting Python and PyTorch takes longer than
measuring a small run.
"""

from typing import TYPE_CHECKING

import typer

from hamjepa_audit.cli.options import (
    Arm,
    Device,
    Epochs,
    RunsPerGpu,
    Study,
    Threads,
    batch_of,
)

if TYPE_CHECKING:
    import torch


def extract(
    context: typer.Context,
    study: Study,
    arm: Arm,
    epochs: Epochs,
    device: Device = "auto",
    runs_per_gpu: RunsPerGpu = 1,
    threads: Threads = None,
) -> None:
    """Encode training and test images with the frozen encoders of an arm's runs."""
    from hamjepa_audit.evaluation.steps import extract

    batch = batch_of(context, study, arm, epochs)
    typer.echo(extract(batch, _device(context, device, runs_per_gpu, threads)))


def knn(
    context: typer.Context,
    study: Study,
    arm: Arm,
    epochs: Epochs,
    device: Device = "auto",
    runs_per_gpu: RunsPerGpu = 1,
    threads: Threads = None,
) -> None:
    """Classify test features by their k nearest training features, for several k."""
    from hamjepa_audit.evaluation.steps import measure_knn

    batch = batch_of(context, study, arm, epochs)
    typer.echo(measure_knn(batch, _device(context, device, runs_per_gpu, threads)))


def probe(
    context: typer.Context,
    study: Study,
    arm: Arm,
    epochs: Epochs,
    device: Device = "auto",
    runs_per_gpu: RunsPerGpu = 1,
    threads: Threads = None,
) -> None:
    """Train and test a linear classifier on features."""
    from hamjepa_audit.evaluation.steps import measure_probe

    batch = batch_of(context, study, arm, epochs)
    typer.echo(measure_probe(batch, _device(context, device, runs_per_gpu, threads)))


def geometry(
    context: typer.Context, study: Study, arm: Arm, epochs: Epochs, threads: Threads = None
) -> None:
    """Measure spectra, cosines, norms, alignment and uniformity of features."""
    from hamjepa_audit.evaluation.steps import measure_geometry
    from hamjepa_audit.training.device import make_deterministic

    make_deterministic(threads)
    for path in measure_geometry(batch_of(context, study, arm, epochs)):
        typer.echo(path)


def trajectory(
    context: typer.Context,
    study: Study,
    arm: Arm,
    epochs: Epochs,
    device: Device = "auto",
    runs_per_gpu: RunsPerGpu = 1,
    threads: Threads = None,
) -> None:
    """Measure all of the above on intermediate checkpoints, without keeping their features."""
    from hamjepa_audit.evaluation.trajectory import measure_trajectory

    batch = batch_of(context, study, arm, epochs)
    typer.echo(measure_trajectory(batch, _device(context, device, runs_per_gpu, threads)))


def dynamics(
    context: typer.Context,
    study: Study,
    arm: Arm,
    epochs: Epochs,
    device: Device = "auto",
    runs_per_gpu: RunsPerGpu = 1,
    threads: Threads = None,
) -> None:
    """Measure trained predictors: symplecticity, energy, reversibility and prediction error."""
    from hamjepa_audit.errors import UserError
    from hamjepa_audit.evaluation.dynamics import dynamics_measurements
    from hamjepa_audit.evaluation.steps import measure_predictors
    from hamjepa_audit.plans.study import DYNAMICS

    batch = batch_of(context, study, arm, epochs)
    if DYNAMICS not in batch.steps:
        raise UserError(f"arm '{arm}' of study '{study}' has no predictor; name another arm")
    where = _device(context, device, runs_per_gpu, threads)
    typer.echo(measure_predictors(batch, where, dynamics_measurements))


def _device(
    context: typer.Context, device: Device, runs_per_gpu: int, threads: int | None
) -> "torch.device":
    """The device, leased until the command ends, after switching to deterministic computation."""
    from hamjepa_audit.training.device import leased_device, make_deterministic

    make_deterministic(threads)
    return context.with_resource(leased_device(device, runs_per_gpu))


COMMANDS = (extract, knn, probe, geometry, trajectory, dynamics)
