"""hamjepa-audit audit, consistency, audit-figures, report: verdicts on the paper's claims."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hamjepa_audit.cli.options import Studies, Study, layout_of
from hamjepa_audit.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


def audit(
    context: typer.Context,
    metrics: Annotated[
        list[Path], typer.Option(help="Parquet files of metrics.", metavar="FILE...")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the tables.", metavar="DIR")],
    claims: Annotated[
        Path | None,
        typer.Option(help="The paper's claims; default: PARAMS/paper/claims.yaml.", metavar="FILE"),
    ] = None,
    more: Annotated[
        list[Path] | None, typer.Argument(help="More metrics.", metavar="FILE", hidden=True)
    ] = None,
    with_consistency: Annotated[
        bool,
        typer.Option(
            "--with-consistency/--without-consistency",
            help="Also test whether the paper's numbers agree with each other.",
        ),
    ] = True,
) -> None:
    """Test the paper's claims on given metrics, and the paper's numbers for consistency.

    The metrics are a long table with one number per row and the columns study, dataset, arm,
    epochs, seed, checkpoint_epoch, readout, metric, value, unit and run_id, as in
    results/metrics.parquet.
    """
    import pandas as pd

    from hamjepa_audit.bookkeeping.table_provenance import origin_of
    from hamjepa_audit.metrics import METRICS_SCHEMA
    from hamjepa_audit.params.audit import load_audit
    from hamjepa_audit.params.claims import load_claims
    from hamjepa_audit.parquet import read_parquet
    from hamjepa_audit.plans.audit import AuditPlan
    from hamjepa_audit.reporting.audit_tables import audit_tables
    from hamjepa_audit.statistics.audit import Audit, audit
    from hamjepa_audit.statistics.metric_checks import hints

    layout = layout_of(context)
    params = load_audit(layout.params)
    claimed = load_claims(layout.claims() if claims is None else claims)
    files = [*metrics, *(more or ())]
    of_workflow = out.resolve() == layout.audit_tables().resolve()
    if of_workflow and [file.resolve() for file in files] != [layout.metrics().resolve()]:
        raise UserError(
            f"--out {out} is for verdicts on {layout.metrics()} alone, which the page and "
            f"the publication take them for; name another folder for those on "
            f"{', '.join(map(str, files))}"
        )
    measured = pd.concat(
        [read_parquet(file, METRICS_SCHEMA).to_pandas() for file in files], ignore_index=True
    )
    names = [name for name in Audit._fields if with_consistency or name != "paper_consistency"]
    tables = audit(measured, claimed, params)
    for hint in hints(tables[:3], measured, claimed, params):
        typer.echo(hint, err=True)
    plan = AuditPlan(layout, claimed, params)
    usual = claims is None or claims.resolve() == layout.claims().resolve()
    if usual and of_workflow:
        plan.write_selection()
    origin = origin_of(layout.claims_selection(), plan.selection())
    audit_tables(tables, out, names, origin)
    for name in names:
        typer.echo(f"{name}: {_counts(getattr(tables, name))}")
    typer.echo(out)


def _counts(table: "pd.DataFrame") -> str:
    """The number of claims with each verdict, as text."""
    if "by_construction" in table:  # rows that are no evidence about the paper
        table = table[~table["by_construction"]]
    counts = table["verdict"].value_counts()
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items()) or "none"


def consistency(
    context: typer.Context,
    claims: Annotated[Path, typer.Option(help="The paper's claims.", metavar="FILE")],
    out: Annotated[Path, typer.Option(help="Folder for the table.", metavar="DIR")],
) -> None:
    """Test whether the paper's numbers agree with each other; needs no runs."""
    from hamjepa_audit.bookkeeping.table_provenance import origin_of
    from hamjepa_audit.params.audit import load_audit
    from hamjepa_audit.params.claims import load_claims
    from hamjepa_audit.plans.audit import AuditPlan
    from hamjepa_audit.reporting.audit_tables import audit_table
    from hamjepa_audit.statistics.consistency import paper_consistency

    layout = layout_of(context)
    plan = AuditPlan(layout, load_claims(claims), load_audit(layout.params))
    table = paper_consistency(plan.claims, plan.params.confidence)
    origin = origin_of(layout.claims_selection(), plan.selection())
    audit_table("paper_consistency", table, out, origin)
    typer.echo(out)


def audit_figures(context: typer.Context, study: Study) -> None:
    """Draw the paper's claims against a study's numbers, and the power of its seeds."""
    import pandas as pd

    from hamjepa_audit.params import load_study
    from hamjepa_audit.parquet import read_parquet
    from hamjepa_audit.plans.audit import AuditPlan
    from hamjepa_audit.reporting.audit_figures import audit_figures
    from hamjepa_audit.reporting.drawing import Arms

    layout = layout_of(context)
    plan, params = AuditPlan.load(layout), load_study(layout.params, study)

    def of_study(path: Path) -> pd.DataFrame:
        table = read_parquet(path).to_pandas()
        return table[table["study"] == study]

    claims, compared = (of_study(layout.audit_table(t)) for t in ("claims", "claim_differences"))
    wanted = {epochs: plan.figures(study, epochs) for epochs in params.epochs}
    if compared.empty and any("claim_differences" in names for names in wanted.values()):
        raise UserError(
            f"{layout.audit_table('claim_differences')} has no rows of study '{study}': it is of "
            f"other studies; run: snakemake --cores all results/tables --config "
            f"studies='[{study}]'"
        )
    differences = of_study(layout.tables(study) / "differences.parquet")
    drawn = differences[["minuend_arm", "subtrahend_arm"]].isin(params.drawn_arms).all(axis=1)
    audit_figures(
        wanted=wanted,
        claims=claims,
        claim_differences=compared,
        differences=differences[drawn],
        arms=Arms.of(params.drawn_arms, params.arm_titles),
        params=plan.params,
        folder=layout.figures(study),
    )
    typer.echo(layout.figures(study))


def report(context: typer.Context, study: Studies) -> None:
    """Write the HTML page of an audit: verdicts, claims, figures, method and runs."""
    from hamjepa_audit.reporting.page import write_page
    from hamjepa_audit.reporting.page_reading import read_page_content

    layout = layout_of(context)
    typer.echo(write_page(read_page_content(layout, study), layout.page()))


COMMANDS = (audit, consistency, audit_figures, report)
