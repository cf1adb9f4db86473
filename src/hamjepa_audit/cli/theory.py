"""hamjepa-audit theory, theory-report: the theorems that the paper rests on, checked."""

from pathlib import Path
from typing import Annotated

import typer

from hamjepa_audit.cli.options import Threads, layout_of
from hamjepa_audit.errors import CheckFailedError

ClaimsFile = Annotated[
    Path | None,
    typer.Option("--claims", help="The paper's claims; default: paper/claims.yaml of the params."),
]


def theory(context: typer.Context, claims: ClaimsFile = None, threads: Threads = None) -> None:
    """Check the theorems on random instances, and try the paper's toy experiment.

    Ends with status 1 if a check fails, when all numbers are written.
    """
    from hamjepa_audit.files import write_parquet
    from hamjepa_audit.plans.theory import TheoryPlan
    from hamjepa_audit.theory.numbers import theory_numbers
    from hamjepa_audit.training.device import make_deterministic

    layout = layout_of(context)
    make_deterministic(threads)
    plan = TheoryPlan.load(layout, claims)
    plan.write_selection()
    tables = theory_numbers(plan.params, plan.claim, lambda line: typer.echo(line, err=True))
    for name, table in tables.items():
        write_parquet(layout.theory_numbers(name), table)
        typer.echo(layout.theory_numbers(name))
    checks = tables["checks"].to_pylist()
    failing = [row["check"] for row in checks if not row["holds"]]
    if failing:
        raise CheckFailedError(
            f"{len(failing)} of {len(checks)} theorems' checks fail: {', '.join(failing)}; "
            f"theory-report makes their table"
        )


def theory_report(context: typer.Context, claims: ClaimsFile = None) -> None:
    """Write the tables and figures of what `theory` found, and what they were made of and with."""
    from hamjepa_audit.bookkeeping.table_provenance import write_theory_provenance
    from hamjepa_audit.bookkeeping.theory_numbers import NUMBERS
    from hamjepa_audit.files import read_parquet
    from hamjepa_audit.plans.theory import TheoryPlan
    from hamjepa_audit.reporting.theory_figures import theory_figures
    from hamjepa_audit.reporting.theory_tables import theory_tables

    layout = layout_of(context)
    plan = TheoryPlan.load(layout, claims)
    numbers = {
        name: read_parquet(layout.theory_numbers(name), schema).to_pandas()
        for name, schema in NUMBERS.items()
    }
    theory_tables(numbers, plan.claim, plan.params.toy_transport, layout.theory())
    theory_figures(numbers, plan.claim, layout.theory())
    write_theory_provenance(plan)
    typer.echo(layout.theory())


COMMANDS = (theory, theory_report)
