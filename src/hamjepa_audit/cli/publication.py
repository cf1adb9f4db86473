"""hamjepa-audit publish, adopt: results without weights, from one place to another."""

from pathlib import Path
from typing import Annotated

import typer

from hamjepa_audit.cli.options import Study, layout_of, plan_of


def publish(
    context: typer.Context,
    study: Study,
    out: Annotated[Path | None, typer.Option(help="Default: RESULTS/published/STUDY.")] = None,
) -> None:
    """Copy a study's results without checkpoints: records, measurements, tables, figures."""
    from hamjepa_audit.bookkeeping.publication import publish

    plan = plan_of(context, study)
    typer.echo(publish(plan, out or layout_of(context).results / "published" / study))


def adopt(
    context: typer.Context,
    study: Study,
    source: Annotated[
        Path | None, typer.Option("--from", help="Default: RESULTS/published/STUDY.")
    ] = None,
) -> None:
    """Take over published runs and measurements that the parameters ask for, as done."""
    from hamjepa_audit.bookkeeping.publication import adopt

    plan = plan_of(context, study)
    taken = adopt(plan, source or layout_of(context).results / "published" / study)
    typer.echo(f"took over {taken} of {len(plan.runs)} runs", err=True)


COMMANDS = (publish, adopt)
