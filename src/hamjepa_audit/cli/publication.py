"""hamjepa-audit publish, adopt: copy results without weights out of and into results/."""

from pathlib import Path
from typing import Annotated

import typer

from hamjepa_audit.cli.options import Study, layout_of, plan_of


def publish(
    context: typer.Context,
    study: Study,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; default: RESULTS/published/STUDY.")
    ] = None,
) -> None:
    """Copy a study's results without checkpoints: records, measurements, tables, figures."""
    from hamjepa_audit.bookkeeping.publication import publish

    plan = plan_of(context, study)
    typer.echo(publish(plan, out or layout_of(context).results / "published" / study))


def adopt(
    context: typer.Context,
    study: Study,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="A published copy; default: RESULTS/published/STUDY."),
    ] = None,
) -> None:
    """Copy published runs and measurements into RESULTS, if the parameters ask for them."""
    from hamjepa_audit.bookkeeping.publication import adopt, require_publication

    layout = layout_of(context)
    folder = source or layout.results / "published" / study
    require_publication(layout, folder, study)  # before asking for data, which may be missing
    plan = plan_of(context, study)
    before = sum(len(batch.run_ids) for batch in plan.batches.values() if batch.adopted)
    taken = adopt(plan, folder)
    earlier = f"; {before} had been adopted before" if before else ""
    typer.echo(f"adopted {taken.runs} of {len(plan.runs)} runs{earlier}", err=True)
    for line in taken.lacking:
        typer.echo(f"not published: {line}", err=True)


COMMANDS = (publish, adopt)
