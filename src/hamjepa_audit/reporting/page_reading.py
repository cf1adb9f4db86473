"""Reads the content of the page: tables, figures, run records, titles and captions."""

from collections.abc import Mapping, Sequence

import pandas as pd

from hamjepa_audit.bookkeeping.records import read_record
from hamjepa_audit.errors import UserError
from hamjepa_audit.layout import Layout
from hamjepa_audit.metrics import METRICS_SCHEMA
from hamjepa_audit.params import StudyParams, load_study
from hamjepa_audit.parquet import read_parquet
from hamjepa_audit.plans.audit import AuditPlan
from hamjepa_audit.plans.figures import figures
from hamjepa_audit.plans.gain import has_gain
from hamjepa_audit.plans.page import CAPTIONS, page_selection
from hamjepa_audit.plans.study import GAIN
from hamjepa_audit.reporting.page import PageContent
from hamjepa_audit.reporting.page_claims import Titles
from hamjepa_audit.reporting.page_studies import FigureFile, StudyTables
from hamjepa_audit.statistics.audit import Audit


def read_page_content(layout: Layout, studies: Sequence[str]) -> PageContent:
    """Reads the content of the page of some studies, in the order in which they are shown.

    Raises:
        UserError: there is no such study; the joint metrics or the verdicts are of other studies; a
            table, figure or caption is missing; or a file was changed or damaged.
    """
    plan = AuditPlan.load(layout)
    audited = [load_study(layout.params, name) for name in studies]
    shown = page_selection(layout)
    metrics = read_parquet(layout.metrics(), METRICS_SCHEMA).to_pandas()
    held = sorted(set(metrics["study"]))
    if held != sorted(set(studies)):
        raise UserError(
            f"{layout.metrics()} contains the studies {held}, but --study names "
            f"{sorted(set(studies))}; name the former, or make results/tables for the latter"
        )
    tables = Audit(*(read_parquet(layout.audit_table(t)).to_pandas() for t in Audit._fields))
    verdicts = pd.concat(tables[:3])
    if others := set(verdicts.loc[verdicts["n"] > 0, "study"]) - set(held):
        raise UserError(
            f"the verdicts in {layout.audit_tables()} rest on runs of {sorted(others)}, but "
            f"{layout.metrics()} contains the studies {held}; make results/tables again"
        )
    runs = sorted(set(metrics["run_id"]))
    arms: dict[str, str] = {}
    for name in (*shown["arms"], *studies):  # where titles differ, those of the audited studies
        arms |= shown["arms"][name]
    return PageContent(
        plan=plan,
        tables=tables,
        metrics=metrics,
        studies=[_study(plan, params, shown["captions"]) for params in audited],
        records={run: read_record(layout, run) for run in runs if layout.record(run).exists()},
        titles=Titles(studies=shown["studies"], arms=arms),
    )


def _study(plan: AuditPlan, params: StudyParams, captions: Mapping[str, str]) -> StudyTables:
    folder = plan.layout.tables(params.name)

    def table(name: str) -> pd.DataFrame:
        return read_parquet(folder / f"{name}.parquet").to_pandas()

    return StudyTables(
        params=params,
        overview=table("overview"),
        summary=table("summary"),
        differences=table("differences"),
        gain=table(GAIN) if has_gain(params) else None,
        figures=tuple(
            _figure(plan.layout, params.name, name, epochs, captions)
            for epochs in params.epochs
            for name in figures(params, epochs, plan)
        ),
    )


def _figure(
    layout: Layout, study: str, name: str, epochs: int, captions: Mapping[str, str]
) -> FigureFile:
    path = layout.figures(study) / f"{name}_e{epochs}.png"
    for file in (path, CAPTIONS / f"{name}.rst"):
        if not file.is_file():
            raise UserError(
                f"missing file {file}; make the figures, or run this in the audit's folder"
            )
    return FigureFile(name, epochs, path, captions[name])
