"""Options that several commands share, and what every command does first."""

from typing import Annotated, Literal

import typer

from hamjepa_audit.layout import Layout
from hamjepa_audit.params import load_study
from hamjepa_audit.plans.study import Batch, StudyPlan, plan_study

Study = Annotated[str, typer.Option(help="Name of a study below params/studies.")]
Studies = Annotated[list[str], typer.Option("--study", help="A study; give it once for each.")]
Arm = Annotated[str, typer.Option(help="One of the study's arms.")]
Epochs = Annotated[int, typer.Option(help="One of the study's numbers of epochs.")]
Seed = Annotated[int, typer.Option(help="Seed of the run, 0 or more.")]
Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute; auto: a GPU if any.")
]
RunsPerGpu = Annotated[int, typer.Option(min=1, help="Processes that may share a GPU.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads; another number may round differently.")
]


def layout_of(context: typer.Context) -> Layout:
    """Where things lie, as the options before the command said."""
    layout: Layout = context.obj
    return layout


def plan_of(context: typer.Context, study: str) -> StudyPlan:
    """The plan of a study whose data are prepared, or pinned."""
    layout = layout_of(context)
    return plan_study(layout, load_study(layout.params, study))


def batch_of(context: typer.Context, study: str, arm: str, epochs: int) -> Batch:
    """All seeds of an arm and number of epochs of a study."""
    return plan_of(context, study).batch(arm, epochs)
