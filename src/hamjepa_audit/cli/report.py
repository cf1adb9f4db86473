"""hamjepa-audit report: write the HTML page with the results of an audit."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hamjepa_audit.cli.options import Studies, layout_of
from hamjepa_audit.plans.page import CAPTIONS, caption_text

if TYPE_CHECKING:
    import pandas as pd

    from hamjepa_audit.params.studies import StudyParams
    from hamjepa_audit.plans.audit import AuditPlan
    from hamjepa_audit.reporting.page_studies import FigureFile, StudyTables


def report(
    context: typer.Context,
    study: Studies,
    captions: Annotated[
        Path, typer.Option(help="Folder of the figures' captions.", metavar="DIR")
    ] = CAPTIONS,
) -> None:
    """Write the HTML page of an audit: verdicts, claims, figures, method and runs."""
    from hamjepa_audit.bookkeeping.records import read_record
    from hamjepa_audit.errors import UserError
    from hamjepa_audit.files import read_parquet
    from hamjepa_audit.metrics import METRICS_SCHEMA
    from hamjepa_audit.params import load_study
    from hamjepa_audit.params.loading import study_names
    from hamjepa_audit.plans.audit import AuditPlan
    from hamjepa_audit.reporting.page import PageContent, write_page
    from hamjepa_audit.reporting.page_claims import Titles
    from hamjepa_audit.statistics.audit import Audit

    layout = layout_of(context)
    plan = AuditPlan.load(layout)
    known = {name: load_study(layout.params, name) for name in study_names(layout.params)}
    audited = [load_study(layout.params, name) for name in study]
    metrics = read_parquet(layout.metrics(), METRICS_SCHEMA).to_pandas()
    held = sorted(set(metrics["study"]))
    if held != sorted(set(study)):
        raise UserError(
            f"{layout.metrics()} contains the studies {held}, not {sorted(set(study))}; "
            f"give --study for those, or make results/tables for these first"
        )
    runs = sorted(set(metrics["run_id"]))
    content = PageContent(
        plan=plan,
        tables=Audit(*(read_parquet(layout.audit_table(t)).to_pandas() for t in Audit._fields)),
        metrics=metrics,
        studies=[_tables(plan, params, captions) for params in audited],
        records={run: read_record(layout, run) for run in runs if layout.record(run).exists()},
        titles=Titles(
            studies={name: params.title for name, params in known.items()},
            arms={a.name: a.title for params in (*known.values(), *audited) for a in params.arms},
        ),
    )
    typer.echo(write_page(content, layout.page()))


def _tables(plan: "AuditPlan", params: "StudyParams", captions: Path) -> "StudyTables":
    from hamjepa_audit.files import read_parquet
    from hamjepa_audit.plans.figures import figures
    from hamjepa_audit.reporting.page_studies import StudyTables

    folder = plan.layout.tables(params.name)

    def table(name: str) -> "pd.DataFrame":
        return read_parquet(folder / f"{name}.parquet").to_pandas()

    return StudyTables(
        params=params,
        overview=table("overview"),
        summary=table("summary"),
        differences=table("differences"),
        figures=tuple(
            _figure(plan, params.name, name, epochs, captions)
            for epochs in params.epochs
            for name in figures(params, epochs, plan)
        ),
    )


def _figure(plan: "AuditPlan", study: str, name: str, epochs: int, captions: Path) -> "FigureFile":
    from hamjepa_audit.errors import UserError
    from hamjepa_audit.reporting.page_studies import FigureFile

    path = plan.layout.figures(study) / f"{name}_e{epochs}.png"
    caption = captions / f"{name}.rst"
    for file in (path, caption):
        if not file.is_file():
            raise UserError(f"missing file {file}; make the figures, or correct --captions")
    return FigureFile(name, epochs, path, caption_text(caption))


COMMANDS = (report,)
