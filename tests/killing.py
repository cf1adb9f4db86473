"""Runs commands in processes forked from a preloaded one; they can be killed at a chosen moment."""

import json
import multiprocessing
import os
import resource
import signal
import sys
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from hamjepa_audit.cli.main import main

PHASES = {
    "train_epoch": ("training/loop.py", "training"),
    "keep": ("training/state.py", "state"),
    "write_run": ("training/record.py", "writing"),
    "remove": ("training/state.py", "removing"),
    "extract_features": ("evaluation/features.py", "extract"),
    "knn_measurements": ("evaluation/knn.py", "knn"),
    "probe_measurements": ("evaluation/probe.py", "probe"),
    "measure_geometry": ("evaluation/geometry.py", "geometry"),
    "move_store": ("data/store_writing.py", "moving"),
}
"""Functions of the package during which a process can be signalled: name, file, phase."""

SIGNALLED = "signalled.json"
"""File with the phases, outermost first, in which a process got its signal, and finished calls."""

Calls = dict[str, list[int]]
"""Per phase, the number of profiling events in each of its calls, including those of built-ins."""


class Moment(NamedTuple):
    """A profiling event within a call, counted from the call's start; at the latest the call's end.

    Counts from the start of the command wouldn't be reproducible, because the display of progress
    depends on the clock.
    """

    phase: str
    call: int
    event: int


class Signalled(NamedTuple):
    """Content of SIGNALLED."""

    inside: list[str]
    finished: dict[str, int]
    """Number of finished calls per phase."""


def warm() -> ForkServerContext:
    """A multiprocessing context whose processes start with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "hamjepa_audit.training.session",
            "hamjepa_audit.evaluation.steps",
            "pandas",
            "sklearn.datasets",
            "tests.killing",
        ]
    )
    return context


def run(
    context: ForkServerContext,
    folder: Path,
    *arguments: str,
    end_at: Moment | None = None,
    by: signal.Signals = signal.SIGKILL,
    largest_file: int | None = None,
) -> tuple[int, str]:
    """Runs hamjepa-audit in a folder; returns exit status (-9: killed) and output.

    Args:
        context: from `warm`.
        folder: the working directory.
        arguments: of the command.
        end_at: moment at which the process gets a signal.
        by: the signal.
        largest_file: limit in bytes on the size of written files.
    """

    return _finish(context, folder, arguments, _Events(end_at, by), largest_file)


def signalled(folder: Path) -> Signalled:
    """Where a process got its signal; `folder` is its working directory."""
    return Signalled(*json.loads((folder / SIGNALLED).read_text()))


def calls_of(context: ForkServerContext, folder: Path, *arguments: str) -> Calls:
    """Runs a command to its end; returns the length of each call of each phase, in events."""
    report = folder / "calls.json"
    status, printed = _finish(context, folder, arguments, _Events(report=report))
    assert status == 0, printed
    calls: Calls = json.loads(report.read_text())
    return calls


class _Events:
    """Profiling function that counts events, and sends the process a signal at one of them."""

    def __init__(
        self,
        end_at: Moment | None = None,
        by: signal.Signals = signal.SIGKILL,
        report: Path | None = None,
    ) -> None:
        self.end_at = end_at
        self.by = by
        self.report = report
        self.count = 0
        self.calls: Calls = {phase: [] for _, phase in PHASES.values()}
        self.inside: list[tuple[str, int]] = []

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        self.count += 1
        file, phase = PHASES.get(frame.f_code.co_name, ("", ""))
        ours = bool(phase) and frame.f_code.co_filename.endswith(file)
        if ours and event == "call":
            self.inside.append((phase, self.count))
        self._signal(returning=phase if ours and event == "return" else None)
        if ours and event == "return":
            _, start = self.inside.pop()
            self.calls[phase].append(self.count - start)

    def _signal(self, returning: str | None) -> None:
        """Sends the signal if this is the chosen moment."""
        if self.end_at is None:
            return
        phase, call, event = self.end_at
        start = dict(self.inside).get(phase)
        if start is None or len(self.calls[phase]) != call:
            return
        if self.count - start >= event or returning == phase:
            self.end_at = None
            finished = {phase: len(calls) for phase, calls in self.calls.items()}
            content = [[phase for phase, _ in self.inside], finished]
            Path(SIGNALLED).write_text(json.dumps(content))
            os.kill(os.getpid(), self.by)

    def write(self) -> None:
        if self.report is not None:
            self.report.write_text(json.dumps(self.calls))


def _finish(
    context: ForkServerContext,
    folder: Path,
    arguments: tuple[str, ...],
    events: _Events,
    largest_file: int | None = None,
) -> tuple[int, str]:
    log = folder / "printed.txt"
    process = context.Process(target=_work, args=(folder, arguments, log, events, largest_file))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode, log.read_text()


def _work(
    folder: Path, arguments: tuple[str, ...], log: Path, events: _Events, largest_file: int | None
) -> None:
    # A process started in the background by a script ignores SIGINT, and so do all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    sys.argv = ["hamjepa-audit", *arguments]
    sys.stdout = sys.stderr = log.open("w", buffering=1)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    sys.setprofile(events)
    try:
        main()
    finally:
        sys.setprofile(None)
        events.write()
