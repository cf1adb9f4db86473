"""hamjepa-audit collect, metrics, tables, provenance, figures, gain: report measurements."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from hamjepa_audit.cli.options import Studies, Study, layout_of, plan_of
from hamjepa_audit.errors import UserError
from hamjepa_audit.layout import Layout

if TYPE_CHECKING:
    from hamjepa_audit.params import StudyParams


def collect(context: typer.Context, study: Study) -> None:
    """Collect a study's measurements and histories into its long tables."""
    from hamjepa_audit.bookkeeping.records import require_one_kind_of_device
    from hamjepa_audit.reporting.collect import collect_study

    plan = plan_of(context, study)
    require_one_kind_of_device(plan.layout, plan.runs)
    plan.write_selection()
    for target in collect_study(plan):
        typer.echo(target)


def metrics(context: typer.Context, study: Studies) -> None:
    """Join the metrics of studies into metrics.parquet, and write the main means (JSON, CSV)."""
    from hamjepa_audit.files import write_if_changed, write_json, write_text
    from hamjepa_audit.metrics import METRICS_SCHEMA
    from hamjepa_audit.parquet import read_parquet
    from hamjepa_audit.reporting.collect import collect
    from hamjepa_audit.reporting.headlines import accuracies, headlines

    layout = layout_of(context)
    files = [layout.study_table(name, "metrics") for name in study]
    collect(files, METRICS_SCHEMA, layout.metrics())
    write_if_changed(layout.studies_selection(), sorted(study))
    joined = read_parquet(layout.metrics(), METRICS_SCHEMA).to_pandas()
    means = headlines(joined)
    write_json(layout.headlines(), means)
    table = accuracies(means).to_csv(index=False, lineterminator="\n")
    write_text(layout.accuracies(), table)
    for path in (layout.metrics(), layout.headlines(), layout.accuracies()):
        typer.echo(path)


def tables(context: typer.Context, study: Study) -> None:
    """Write a study's tables: every seed, summaries, paired differences and an overview."""
    from hamjepa_audit.metrics import METRICS_SCHEMA
    from hamjepa_audit.params import load_study
    from hamjepa_audit.parquet import read_parquet
    from hamjepa_audit.reporting.tables import study_tables

    layout = layout_of(context)
    params = load_study(layout.params, study)
    source = read_parquet(layout.study_table(study, "metrics"), METRICS_SCHEMA).to_pandas()
    arms, folder = params.arm_names, layout.tables(study)
    study_tables(source, arms, params.statistics.confidence, folder, _origin(layout, params))
    typer.echo(folder)


def _origin(layout: Layout, params: "StudyParams") -> str:
    """The line that says which selection a study's tables are made from."""
    from hamjepa_audit.bookkeeping.table_provenance import origin_of

    return origin_of(layout.selection(params.name), _selection(layout, params))


def _selection(layout: Layout, params: "StudyParams") -> Any:
    """The selection that a study's long tables were collected for.

    Raises:
        UserError: it has other arms than the study has now.
    """
    from hamjepa_audit.files import read_json

    path = layout.selection(params.name)
    selection = read_json(path)
    collected = [name for name, _ in selection["arms"]]
    if sorted(collected) != sorted(params.arm_names):
        raise UserError(
            f"{path} lists the arms {', '.join(collected)}, but study '{params.name}' now has "
            f"{', '.join(params.arm_names)}; run: hamjepa-audit collect --study {params.name}"
        )
    return selection


def provenance(
    context: typer.Context,
    study: Studies,
    verdicts: Annotated[
        bool,
        typer.Option("--verdicts", help="For the joint tables of claims, not each study's."),
    ] = False,
) -> None:
    """Write the provenance of tables: code, machines, parameters, runs and their times.

    Deletes tables and figures that the parameters of a study no longer ask for.
    """
    from hamjepa_audit.bookkeeping.table_provenance import (
        write_audit_provenance,
        write_study_provenance,
    )
    from hamjepa_audit.plans.audit import AuditPlan

    audit = AuditPlan.load(layout_of(context))
    plans = [plan_of(context, name) for name in study]
    if verdicts:
        typer.echo(write_audit_provenance(audit, plans))
    else:
        for plan in plans:
            typer.echo(write_study_provenance(plan, audit))


def figures(context: typer.Context, study: Study) -> None:
    """Draw a study's figures: kNN sweep, spectra, histograms, training curves, trajectories."""
    from hamjepa_audit.metrics import LONG_TABLES
    from hamjepa_audit.params import load_study
    from hamjepa_audit.params.audit import load_audit
    from hamjepa_audit.parquet import read_parquet
    from hamjepa_audit.plans.figures import has_trajectories
    from hamjepa_audit.reporting.drawing import Arms
    from hamjepa_audit.reporting.figures import study_figures
    from hamjepa_audit.reporting.trajectory_figures import trajectory_figures

    layout = layout_of(context)
    params = load_study(layout.params, study)
    _selection(layout, params)
    frames = {
        kind: read_parquet(layout.study_table(study, kind), schema).to_pandas()
        for kind, schema in LONG_TABLES.items()
    }
    arms = Arms.of(params.drawn_arms, params.arm_titles)
    frames = {kind: frame[frame["arm"].isin(arms.order)] for kind, frame in frames.items()}
    folder, confidence = layout.figures(study), params.statistics.confidence
    study_figures(**frames, arms=arms, folder=folder, confidence=confidence)
    if has_trajectories(params):
        # The verdict on rank and accuracy uses the same metric.
        rank = load_audit(layout.params).our_metric("effective_rank")
        trajectory_figures(frames["metrics"], arms, folder, confidence, rank)
    typer.echo(folder)


def gain(context: typer.Context, study: Study) -> None:
    """Compare every arm with baseline and method (SIGReg and HamJEPA): table and figures."""
    from hamjepa_audit.metrics import METRICS_SCHEMA
    from hamjepa_audit.params import load_study
    from hamjepa_audit.params.audit import load_audit
    from hamjepa_audit.parquet import read_parquet
    from hamjepa_audit.plans.gain import has_gain
    from hamjepa_audit.reporting.gain_figures import write_gain_figures
    from hamjepa_audit.reporting.gain_tables import write_gain_table
    from hamjepa_audit.statistics.gain import Equivalence, gain as gain_of

    layout = layout_of(context)
    params = load_study(layout.params, study)
    sides = params.statistics.gain
    if not has_gain(params):
        raise UserError(
            f"study '{study}' lacks the arms for a gain: '{sides.baseline}', '{sides.method}' and "
            f"at least one other; name another study"
        )
    origin = _origin(layout, params)
    metrics = read_parquet(layout.study_table(study, "metrics"), METRICS_SCHEMA).to_pandas()
    arms, titles = params.arm_names, params.arm_titles
    audit = load_audit(layout.params)
    margins = {metric: audit.absolute_margin(metric) for metric in sides.accuracies}
    equivalence = Equivalence(margins, audit.minimum_seeds)
    table = gain_of(metrics, arms, sides, params.statistics.confidence, equivalence)
    write_gain_figures(metrics, table, params, margins, layout.figures(study))
    write_gain_table(table, titles, sides, layout.tables(study), origin)
    typer.echo(layout.tables(study))


COMMANDS = (collect, metrics, tables, provenance, figures, gain)
