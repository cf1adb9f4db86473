"""Commands in processes of their own, forked off a warm one, that can be killed at any moment."""

import json
import multiprocessing
import os
import signal
import sys
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import FrameType
from typing import Any

from hamjepa_audit.cli.main import main

PHASES = {"train_epoch": "training", "keep": "state", "write_run": "writing", "remove": "removing"}
"""Functions in whose calls a moment may lie."""

Moments = dict[str, list[tuple[int, int]]]
"""By phase, the first and the last event of each of its calls."""


def warm() -> ForkServerContext:
    """A context whose processes start with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "hamjepa_audit.training.session",
            "hamjepa_audit.evaluation.steps",
            "torch._dynamo",
            "pandas",
            "tests.killing",
        ]
    )
    return context


def run(
    context: ForkServerContext, folder: Path, *arguments: str, kill_at: int = 0
) -> tuple[int, str]:
    """Runs hamjepa-audit in a folder; exit status (-9: killed) and what it printed.

    Args:
        context: of `warm`.
        folder: which it works in.
        arguments: of the command.
        kill_at: which event of the interpreter (calls and returns, of built-ins, too) kills it.
    """
    log = folder / "printed.txt"
    process = context.Process(target=_work, args=(folder, arguments, log, kill_at, None))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode, log.read_text()


def moments_of(context: ForkServerContext, folder: Path, *arguments: str) -> Moments:
    """Runs a command whole; when each phase happened, `all` being the whole command."""
    report = folder / "moments.json"
    process = context.Process(
        target=_work, args=(folder, arguments, folder / "printed.txt", 0, report)
    )
    process.start()
    process.join()
    assert process.exitcode == 0, (folder / "printed.txt").read_text()
    moments: Moments = json.loads(report.read_text())
    return moments


class _Events:
    """Counts the interpreter's events; kills the process at one of them."""

    def __init__(self, kill_at: int) -> None:
        self.kill_at = kill_at
        self.count = 0
        self.calls: dict[str, list[list[int]]] = {phase: [] for phase in PHASES.values()}

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        self.count += 1
        if self.count == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        phase = PHASES.get(frame.f_code.co_name)
        if phase is not None and event == "call":
            self.calls[phase].append([self.count, self.count])
        elif phase is not None and event == "return":
            self.calls[phase][-1][1] = self.count


def _work(
    folder: Path, arguments: tuple[str, ...], log: Path, kill_at: int, report: Path | None
) -> None:
    os.chdir(folder)
    sys.argv = ["hamjepa-audit", *arguments]
    sys.stdout = sys.stderr = log.open("w", buffering=1)
    events = _Events(kill_at)
    sys.setprofile(events)
    try:
        main()
    finally:
        sys.setprofile(None)
        if report is not None:
            calls = events.calls | {"all": [[1, events.count]]}
            report.write_text(json.dumps(calls))
