"""Options that several commands share, and helpers that turn them into plans."""

from typing import Annotated

import typer

from hamjepa_audit.layout import Layout
from hamjepa_audit.machine import DeviceName
from hamjepa_audit.params import load_study
from hamjepa_audit.plans.study import Batch, StudyPlan, plan_study

MOST_THREADS = 1024
"""More than any machine's cores; far more would take the memory that the data need."""

Study = Annotated[str, typer.Option(help="Name of a study: a file in PARAMS/studies.")]
Studies = Annotated[list[str], typer.Option("--study", help="Name of a study; may be repeated.")]
Arm = Annotated[str, typer.Option(help="One of the study's arms.")]
Epochs = Annotated[int, typer.Option(help="Number of epochs; must be one of the study's.")]
Seed = Annotated[int, typer.Option(help="Seed of the run, 0 or more.")]
Device = Annotated[
    DeviceName,
    typer.Option(help="Where to compute; auto takes a GPU if there is one."),
]
RunsPerGpu = Annotated[int, typer.Option(min=1, help="How many processes may share a GPU.")]
Threads = Annotated[
    int,
    typer.Option(
        min=1,
        max=MOST_THREADS,
        help="CPU threads; the workflow uses 1. More may change results by rounding.",
    ),
]


def layout_of(context: typer.Context) -> Layout:
    """The folders that the options before the command set."""
    layout: Layout = context.obj
    return layout


def plan_of(context: typer.Context, study: str) -> StudyPlan:
    """The plan of a study, whose data must be prepared or pinned."""
    layout = layout_of(context)
    return plan_study(layout, load_study(layout.params, study))


def batch_of(context: typer.Context, study: str, arm: str, epochs: int) -> Batch:
    """The batch of all seeds of an arm and number of epochs of a study."""
    return plan_of(context, study).batch(arm, epochs)
