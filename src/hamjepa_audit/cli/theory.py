"""hamjepa-audit theory, theory-report, theory-verdict: check the theorems of the paper."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hamjepa_audit.cli.options import Threads, layout_of
from hamjepa_audit.errors import CheckFailedError

if TYPE_CHECKING:
    import pyarrow as pa

ClaimsFile = Annotated[
    Path | None,
    typer.Option("--claims", help="The paper's claims; default: PARAMS/paper/claims.yaml."),
]


def theory(
    context: typer.Context,
    claims: ClaimsFile = None,
    threads: Threads = 1,
    verdict: Annotated[
        bool,
        typer.Option(help="Exit with status 1 if a check fails, or leave that to theory-verdict."),
    ] = True,
) -> None:
    """Check the theorems on random instances, and repeat the paper's toy experiment.

    If a check fails, this exits with status 1 after all numbers are written.
    """
    from hamjepa_audit.parquet import write_parquet
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
    if verdict:
        _require_that_all_hold(tables["checks"])


def theory_report(context: typer.Context, claims: ClaimsFile = None) -> None:
    """Write tables, figures and provenance from the numbers that `theory` wrote."""
    from hamjepa_audit.bookkeeping.table_provenance import write_theory_provenance
    from hamjepa_audit.parquet import read_parquet
    from hamjepa_audit.plans.theory import TheoryPlan
    from hamjepa_audit.reporting.theory_figures import theory_figures
    from hamjepa_audit.reporting.theory_tables import theory_tables
    from hamjepa_audit.theory_schemas import NUMBERS

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


def theory_verdict(context: typer.Context) -> None:
    """Report whether all checks of `theory` hold; otherwise name the failed ones, exit status 1."""
    from hamjepa_audit.parquet import read_parquet
    from hamjepa_audit.theory_schemas import CHECKS_SCHEMA

    checks = read_parquet(layout_of(context).theory_numbers("checks"), CHECKS_SCHEMA)
    _require_that_all_hold(checks)
    typer.echo(f"all {len(checks)} checks of theorems hold")


def _require_that_all_hold(checks: "pa.Table") -> None:
    rows = checks.to_pylist()
    failing = [row["check"] for row in rows if not row["holds"]]
    if failing:
        raise CheckFailedError(
            f"{len(failing)} of {len(rows)} checks of theorems fail: {', '.join(failing)}; "
            f"their errors are in the table that theory-report writes"
        )


COMMANDS = (theory, theory_report, theory_verdict)
