"""hamjepa-audit extract, knn, probe, geometry, trajectory, dynamics: what is measured on runs.

Each takes all seeds of one arm at once: starting Python and PyTorch costs more than measuring a
small run.
"""

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
    from hamjepa_audit.training.device import leased_device, make_deterministic

    make_deterministic(threads)
    batch = batch_of(context, study, arm, epochs)
    where = context.with_resource(leased_device(device, runs_per_gpu))
    typer.echo(extract(batch, where))


def knn(
    context: typer.Context,
    study: Study,
    arm: Arm,
    epochs: Epochs,
    device: Device = "auto",
    runs_per_gpu: RunsPerGpu = 1,
    threads: Threads = None,
) -> None:
    """Classify test features by their nearest training features, for a sweep of k."""
    from hamjepa_audit.evaluation.steps import measure_knn
    from hamjepa_audit.training.device import leased_device, make_deterministic

    make_deterministic(threads)
    batch = batch_of(context, study, arm, epochs)
    where = context.with_resource(leased_device(device, runs_per_gpu))
    typer.echo(measure_knn(batch, where))


def probe(
    context: typer.Context,
    study: Study,
    arm: Arm,
    epochs: Epochs,
    device: Device = "auto",
    runs_per_gpu: RunsPerGpu = 1,
    threads: Threads = None,
) -> None:
    """Train a linear classifier on features."""
    from hamjepa_audit.evaluation.steps import measure_probe
    from hamjepa_audit.training.device import leased_device, make_deterministic

    make_deterministic(threads)
    batch = batch_of(context, study, arm, epochs)
    where = context.with_resource(leased_device(device, runs_per_gpu))
    typer.echo(measure_probe(batch, where))


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
    """Measure all of this on the checkpoints along training; features aren't kept."""
    from hamjepa_audit.evaluation.trajectory import measure_trajectory
    from hamjepa_audit.training.device import leased_device, make_deterministic

    make_deterministic(threads)
    batch = batch_of(context, study, arm, epochs)
    where = context.with_resource(leased_device(device, runs_per_gpu))
    typer.echo(measure_trajectory(batch, where))


def dynamics(
    context: typer.Context,
    study: Study,
    arm: Arm,
    epochs: Epochs,
    device: Device = "auto",
    runs_per_gpu: RunsPerGpu = 1,
    threads: Threads = None,
) -> None:
    """Measure what trained predictors do: symplecticity, energy, reversal, prediction error."""
    from hamjepa_audit.errors import UserError
    from hamjepa_audit.evaluation.steps import measure_predictors
    from hamjepa_audit.plan import DYNAMICS
    from hamjepa_audit.theory.dynamics import dynamics_measurements
    from hamjepa_audit.training.device import leased_device, make_deterministic

    make_deterministic(threads)
    batch = batch_of(context, study, arm, epochs)
    if DYNAMICS not in batch.steps:
        raise UserError(f"arm '{arm}' of study '{study}' has no predictor; name another arm")
    where = context.with_resource(leased_device(device, runs_per_gpu))
    typer.echo(measure_predictors(batch, where, dynamics_measurements))


COMMANDS = (extract, knn, probe, geometry, trajectory, dynamics)
