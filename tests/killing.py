"""Commands in processes of their own, forked off a warm one, that can be killed at any moment."""

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
"""Functions of our own in whose calls a moment may lie: name, file, phase."""

SIGNALLED = "signalled.json"
"""Says in which phases, from the outermost, a process got its signal, and what it had done."""

Calls = dict[str, list[int]]
"""By phase, how many of the interpreter's events each of its calls took, of built-ins, too."""


class Moment(NamedTuple):
    """An event within a call, counted from its start; the call's end, should it come before.

    Counted from the start of the command it would be another one every time: progress is shown by
    the clock.
    """

    phase: str
    call: int
    event: int


class Signalled(NamedTuple):
    """What SIGNALLED says."""

    inside: list[str]
    finished: dict[str, int]
    """By phase, the calls that were over."""


def warm() -> ForkServerContext:
    """A context whose processes start with everything imported."""
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
    """Runs hamjepa-audit in a folder; exit status (-9: killed) and what it printed.

    Args:
        context: of `warm`.
        folder: which it works in.
        arguments: of the command.
        end_at: when the process gets a signal.
        by: the signal.
        largest_file: bytes beyond which the system refuses to write a file.
    """

    return _finish(context, folder, arguments, _Events(end_at, by), largest_file)


def signalled(folder: Path) -> Signalled:
    """Where a process that worked in a folder got its signal."""
    return Signalled(*json.loads((folder / SIGNALLED).read_text()))


def calls_of(context: ForkServerContext, folder: Path, *arguments: str) -> Calls:
    """Runs a command whole; how long each call of each phase took."""
    report = folder / "calls.json"
    status, printed = _finish(context, folder, arguments, _Events(report=report))
    assert status == 0, printed
    calls: Calls = json.loads(report.read_text())
    return calls


class _Events:
    """Counts the interpreter's events; sends the process a signal at one of them."""

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
        """Sends the signal if this is the moment."""
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
