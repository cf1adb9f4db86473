"""Entry point, options that all commands share, and how errors are told."""

import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from hamjepa_audit.cli import evaluation, parameters, reports, runs
from hamjepa_audit.errors import UserError
from hamjepa_audit.layout import Layout

USER_CAN_MEND = 2
INTERRUPTED = 130

app = typer.Typer(
    name="hamjepa-audit",
    help='Audit of "Beyond Isotropy in JEPAs": each command is one step of the workflow.',
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(parameters.app, name="params")
for command in (*runs.COMMANDS, *evaluation.COMMANDS, *reports.COMMANDS):
    app.command()(command)


@app.callback()
def locations(
    context: typer.Context,
    params: Annotated[Path, typer.Option(help="Folder of parameter files.")] = Layout.params,
    raw: Annotated[Path, typer.Option(help="Folder of raw data sets.")] = Layout.raw,
    data: Annotated[Path, typer.Option(help="Folder of prepared data sets.")] = Layout.data,
    results: Annotated[Path, typer.Option(help="Folder of results.")] = Layout.results,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Where things lie."""
    context.obj = Layout(params=params, raw=raw, data=data, results=results)


def main() -> None:
    """Runs a command; what the user can mend is one line on stderr and exit status 2."""
    debug = "--debug" in sys.argv[1:]
    try:
        sys.exit(app(standalone_mode=False))
    except (UserError, typer.TyperException) as error:
        message = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        _fail(message, USER_CAN_MEND, debug)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted; run the same command again to go on", INTERRUPTED, debug)


def _fail(message: str, status: int, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)
