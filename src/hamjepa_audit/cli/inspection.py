"""hamjepa-audit runs, verify, restore: list and compare runs, and check that results are intact."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hamjepa_audit.cli.options import layout_of
from hamjepa_audit.errors import UserError, nearest

if TYPE_CHECKING:
    from hamjepa_audit.bookkeeping.inventory import Entry

app = typer.Typer(help="List, show, compare and delete runs.", no_args_is_help=True)

AnyStudies = Annotated[
    list[str] | None, typer.Option("--study", help="Only this study; may be repeated.")
]
Run = Annotated[
    str, typer.Argument(help="Name of a folder below results/runs, or a unique prefix of it.")
]


@app.command("list")
def list_runs(context: typer.Context, study: AnyStudies = None) -> None:
    """List runs and their measurements, with their state.

    The state is one of: "current" (the parameters ask for it), "left over" (they don't),
    "incomplete", "unknown study" (no parameter file), "unknown data" (not prepared yet).
    """
    from hamjepa_audit.bookkeeping.inventory import take_inventory

    _require_results(context)
    _print_entries(take_inventory(layout_of(context), study or None))


@app.command()
def show(context: typer.Context, run: Run) -> None:
    """Print the record of a run."""
    import yaml

    record = _record(context, run)
    first = ("run_id", "study", "dataset", "arm", "epochs", "seed", "started", "ended")
    ordered = {key: record[key] for key in (*first, *(key for key in record if key not in first))}
    typer.echo(yaml.safe_dump(ordered, sort_keys=False).rstrip())


@app.command()
def diff(context: typer.Context, first: Run, second: Run) -> None:
    """Print the differences between the records of two runs: parameters, code, machine."""
    from hamjepa_audit.bookkeeping.records import differences, shown

    found = differences(_record(context, first), _record(context, second))
    if not found:
        typer.echo("nothing differs", err=True)
        return
    rows = [(key, shown(one), shown(other)) for key, one, other in found]
    _print_table(("what", first, second), rows)


@app.command()
def prune(
    context: typer.Context,
    study: AnyStudies = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Delete; otherwise only list what would be deleted.")
    ] = False,
) -> None:
    """Delete runs and measurements that the parameters do not ask for.

    Results of a study without a parameter file are deleted, with its tables and figures, only if
    --study names it.
    """
    from hamjepa_audit.bookkeeping.inventory import delete, prunable, take_inventory

    entries = take_inventory(layout_of(context), study or None)
    unwanted = prunable(entries, study or ())
    _print_entries(unwanted)
    kept = sorted({entry.study for entry in entries if entry.standing == "unknown study"})
    if kept and not study:
        typer.echo(
            f"kept runs and measurements of {', '.join(kept)}, without a parameter file in "
            f"{layout_of(context).params / 'studies'}; to delete them, add --study {kept[0]}",
            err=True,
        )
    if yes:
        for entry in unwanted:
            delete(entry)
        typer.echo(f"deleted {len(unwanted)}", err=True)
    else:
        typer.echo(f"would delete {len(unwanted)}; add --yes to delete them", err=True)


def verify(context: typer.Context, study: AnyStudies = None) -> None:
    """Recompute every digest of prepared data and results, and print mismatches."""
    from hamjepa_audit.bookkeeping.verification import verify_results

    _require_results(context)
    verified = verify_results(layout_of(context), study or None)
    for line in verified.problems:
        typer.echo(line)
    counts = ", ".join(f"{count} {name}" for name, count in verified.checked.items())
    typer.echo(f"checked {counts or 'nothing'}", err=True)
    for line in verified.unchecked:
        typer.echo(f"not checked: {line}", err=True)
    if verified.problems:
        raise UserError(
            f"mismatches below {layout_of(context).results}: {len(verified.problems)}; fetch or "
            f"remake the files listed above"
        )
    if study and not verified.checked:
        raise UserError(
            f"nothing was made of {', '.join(study)}: run snakemake --cores all results/tables "
            f"--config studies='[{','.join(study)}]'"
        )


def restore(context: typer.Context) -> None:
    """Set the modification times of fetched results in the order of the workflow."""
    from hamjepa_audit.bookkeeping.restoration import restore_times

    typer.echo(f"set the times of {restore_times(layout_of(context))} files", err=True)


COMMANDS = (verify, restore)


def _record(context: typer.Context, run: str) -> dict[str, Any]:
    from hamjepa_audit.bookkeeping.records import read_record
    from hamjepa_audit.files import require_listable

    layout = layout_of(context)
    folder, name = layout.runs(), Path(run).name
    require_listable(folder)
    there = sorted(path.name for path in folder.glob("*")) if folder.is_dir() else []
    meant = [name] if name in there else [full for full in there if full.startswith(name)]
    if len(meant) > 1:
        raise UserError(
            f"'{run}' is a prefix of {len(meant)} runs: {', '.join(meant)}; give a longer one"
        )
    if not meant:
        hint = nearest(name, there) if there else "there are none yet"
        raise UserError(f"no run '{run}' in {folder}: {hint}")
    return read_record(layout, meant[0])


def _require_results(context: typer.Context) -> None:
    """Refuses a results folder that does not exist, probably because its path is mistyped.

    Also refuses folders of results and of prepared data that can't be listed: their content would
    be overlooked.
    """
    from hamjepa_audit.files import require_listable

    layout = layout_of(context)
    folder = layout.results
    if not folder.is_dir():
        raise UserError(
            f"there are no results in {folder.absolute()}: make some, correct --results, or run "
            f"this in the audit's folder"
        )
    require_listable(folder)
    require_listable(layout.data, besides=layout.raw)


def _print_entries(entries: Sequence["Entry"]) -> None:
    rows = [(entry.state, entry.kind, str(entry.path)) for entry in entries]
    _print_table(("state", "kind", "path"), rows)


def _print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table in a terminal, and tab-separated lines elsewhere."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        for row in (headings, *rows):
            typer.echo("\t".join(row))
        return
    table = Table(box=None)
    for position, heading in enumerate(headings):
        table.add_column(Text(heading), overflow="fold", no_wrap=position == 0)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)
