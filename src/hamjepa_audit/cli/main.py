"""The entry point, the options before the command, and the reporting of errors."""

import atexit
import gc
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from hamjepa_audit.cli import (
    audit,
    benchmark,
    evaluation,
    inspection,
    parameters,
    publication,
    reports,
    runs,
    theory,
)
from hamjepa_audit.errors import CheckFailedError, UserError
from hamjepa_audit.layout import Layout

USER_CAN_FIX = 2
FAILED = 1
INTERRUPTED = 130
TERMINATED = 143
NEXT = "give the same command again: a run resumes from its last state, other steps start over"

app = typer.Typer(
    name="hamjepa-audit",
    help='Audit of "Beyond Isotropy in JEPAs": each command is one step of the workflow.',
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
LOOKING = "Inspecting parameters and results"
PANELS = {
    "Data and training": runs.COMMANDS,
    "Measuring": evaluation.COMMANDS,
    "Tables, figures, verdicts": (*reports.COMMANDS, *audit.COMMANDS),
    LOOKING: (*inspection.COMMANDS, *publication.COMMANDS),
    "Theory": theory.COMMANDS,
    "Benchmark": benchmark.COMMANDS,
}
"""The groups of commands in --help, in the order of the workflow."""

for panel, commands in PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(parameters.app, name="params", rich_help_panel=LOOKING)
app.add_typer(inspection.app, name="runs", rich_help_panel=LOOKING)


@app.callback()
def locations(
    context: typer.Context,
    params: Annotated[Path, typer.Option(help="Folder of parameter files.")] = Layout.params,
    raw: Annotated[Path, typer.Option(help="Folder of raw data sets.")] = Layout.raw,
    data: Annotated[Path, typer.Option(help="Folder of prepared data sets.")] = Layout.data,
    results: Annotated[Path, typer.Option(help="Folder of results.")] = Layout.results,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Sets the folders that all commands use."""
    context.obj = Layout(params=params, raw=raw, data=data, results=results)


class Terminated(BaseException):
    """The process got SIGTERM; not an Exception, so that no handler of failures catches it."""


def main() -> None:
    """Runs a command; an error that the user can fix gives one line on stderr and exit status 2.

    A check that fails also gives one line, with exit status 1.
    """
    debug = "--debug" in sys.argv[1:]
    _collect_garbage_rarely()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        status = app(standalone_mode=False)
        if status == INTERRUPTED:  # Typer catches KeyboardInterrupt, and returns this
            raise KeyboardInterrupt
        sys.exit(status)
    except (UserError, typer.TyperException) as error:
        message = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        _fail(message, USER_CAN_FIX, debug)
    except CheckFailedError as error:
        _fail(str(error), FAILED, debug)
    except (KeyboardInterrupt, typer.Abort):
        _fail(f"interrupted; {NEXT}", INTERRUPTED, debug)
    except Terminated:
        _fail(f"terminated (SIGTERM); {NEXT}", TERMINATED, debug)
    except OSError as error:
        reason = " ".join(filter(None, (error.strerror or str(error), error.filename)))
        _fail(
            f"{reason}; check the disk and the folder's permissions, then run the command again",
            FAILED,
            debug,
        )
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        reason = str(error).splitlines()[0] if str(error) else "no memory left"
        _fail(
            f"out of memory ({reason}); lower the batch size, or free memory; {NEXT}", FAILED, debug
        )


def out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """Whether the machine or a GPU ran out of memory; PyTorch raises RuntimeErrors."""
    named_so = type(error).__name__ == "OutOfMemoryError"  # a GPU's; without importing PyTorch
    return isinstance(error, MemoryError) or named_so or "can't allocate memory" in str(error)


def _collect_garbage_rarely() -> None:
    """Saves a fifth of the time for importing PyTorch and ending: a million objects that stay."""
    gc.set_threshold(20_000)
    atexit.register(gc.freeze)  # otherwise the interpreter searches them all again at its end


def _terminate(number: int, frame: FrameType | None) -> None:
    """Ends the process like Ctrl-C, so that temporary files are deleted; ignores repetitions."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated


def _fail(message: str, status: int, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    if message:  # empty if a command without arguments printed its help
        print(f"error: {message}", file=sys.stderr)
    sys.exit(status)
