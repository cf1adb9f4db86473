"""hamjepa-audit extract, knn, probe, geometry, trajectory, dynamics: measure runs.

Each command measures all seeds of one arm, because starting Python and PyTorch takes longer than
measuring a small run.
"""

from collections.abc import Callable
from importlib import import_module

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


def _on_device(name: str, measure: str, description: str) -> Callable[..., None]:
    """A command that measures a batch of runs on a device.

    Args:
        name: the command's name.
        measure: MODULE.FUNCTION below `evaluation`, which takes the batch and the device and
            returns what it made; imported only when the command runs, because it needs PyTorch.
        description: the command's help.
    """
    module, function = measure.split(".")

    def command(
        context: typer.Context,
        study: Study,
        arm: Arm,
        epochs: Epochs,
        device: Device = "auto",
        runs_per_gpu: RunsPerGpu = 1,
        threads: Threads = 1,
    ) -> None:
        from hamjepa_audit.training.device import leased_device, make_deterministic

        batch = batch_of(context, study, arm, epochs)
        work = getattr(import_module(f"hamjepa_audit.evaluation.{module}"), function)
        make_deterministic(threads)
        batch.require(name)
        typer.echo(work(batch, context.with_resource(leased_device(device, runs_per_gpu))))

    command.__name__, command.__doc__ = name, description
    return command


def geometry(
    context: typer.Context, study: Study, arm: Arm, epochs: Epochs, threads: Threads = 1
) -> None:
    """Measure spectra, cosines, norms, alignment and uniformity of features."""
    from hamjepa_audit.evaluation.steps import measure_geometry
    from hamjepa_audit.training.device import make_deterministic

    make_deterministic(threads)
    for path in measure_geometry(batch_of(context, study, arm, epochs)):
        typer.echo(path)


COMMANDS = (
    _on_device(
        "extract",
        "steps.extract",
        "Encode training and test images with the frozen encoders of an arm's runs.",
    ),
    _on_device(
        "knn",
        "steps.measure_knn",
        "Classify test features by their k nearest training features, for several k.",
    ),
    _on_device(
        "probe",
        "steps.measure_probe",
        "Train and test a linear classifier on features.",
    ),
    geometry,
    _on_device(
        "trajectory",
        "trajectory.measure_trajectory",
        "Measure kNN, probe and geometry on intermediate checkpoints; keep no features.",
    ),
    _on_device(
        "dynamics",
        "steps.measure_predictors",
        "Measure trained predictors: symplecticity, energy, reversibility and prediction error.",
    ),
)
