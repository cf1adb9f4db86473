"""hamjepa-audit audit: the paper's claims against any metrics, without the workflow."""

from pathlib import Path
from typing import Annotated

import typer

from hamjepa_audit.cli.options import layout_of


def audit(
    context: typer.Context,
    metrics: Annotated[
        list[Path], typer.Option(help="Parquet of metrics; more may follow it.", metavar="FILE...")
    ],
    claims: Annotated[Path, typer.Option(help="The paper's claims.", metavar="FILE")],
    out: Annotated[Path, typer.Option(help="Folder of the tables.", metavar="DIR")],
    more: Annotated[
        list[Path] | None, typer.Argument(help="More metrics.", metavar="FILE", hidden=True)
    ] = None,
) -> None:
    """Test the paper's claims on metrics: verdicts, and the paper against itself."""
    import pandas as pd

    from hamjepa_audit.files import read_parquet
    from hamjepa_audit.metrics import METRICS_SCHEMA
    from hamjepa_audit.params.audit import load_audit
    from hamjepa_audit.params.claims import load_claims
    from hamjepa_audit.reporting.audit_tables import audit_tables
    from hamjepa_audit.statistics.audit import audit, without_claims

    params = load_audit(layout_of(context).params)
    claimed = load_claims(claims)
    files = [*metrics, *(more or ())]
    measured = pd.concat(
        [read_parquet(file, METRICS_SCHEMA).to_pandas() for file in files], ignore_index=True
    )
    for study in without_claims(measured, claimed, params):
        typer.echo(
            f"no claim is tested on the study '{study}'; say in statistics.yaml, under "
            f"stands_for, which of the paper's studies it is like",
            err=True,
        )
    audit_tables(audit(measured, claimed, params), out)
    typer.echo(out)


COMMANDS = (audit,)
