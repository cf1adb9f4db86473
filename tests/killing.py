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
from typing import Any

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
}
"""Functions of our own in whose calls a moment may lie: name, file, phase."""

KILLED_IN = "killed_in.txt"
"""Says in which phases, from the outermost, a process got its signal."""

Moments = dict[str, list[tuple[int, int]]]
"""By phase, the first and the last event of each of its calls; `all` is the whole command."""


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
    end_at: int = 0,
    by: signal.Signals = signal.SIGKILL,
    largest_file: int | None = None,
) -> tuple[int, str]:
    """Runs hamjepa-audit in a folder; exit status (-9: killed) and what it printed.

    Args:
        context: of `warm`.
        folder: which it works in.
        arguments: of the command.
        end_at: at which event of the interpreter (calls and returns, of built-ins, too) the
            process gets a signal, and KILLED_IN says where; 0: never.
        by: the signal.
        largest_file: bytes beyond which the system refuses to write a file.
    """

    return _finish(context, folder, arguments, _Events(end_at, by), largest_file)


def moments_of(context: ForkServerContext, folder: Path, *arguments: str) -> Moments:
    """Runs a command whole; when each phase happened."""
    report = folder / "moments.json"
    status, printed = _finish(context, folder, arguments, _Events(report=report))
    assert status == 0, printed
    moments: Moments = json.loads(report.read_text())
    return moments


class _Events:
    """Counts the interpreter's events; sends the process a signal at one of them."""

    def __init__(
        self, end_at: int = 0, by: signal.Signals = signal.SIGKILL, report: Path | None = None
    ) -> None:
        self.end_at = end_at
        self.by = by
        self.report = report
        self.count = 0
        self.calls: dict[str, list[list[int]]] = {phase: [] for _, phase in PHASES.values()}
        self.inside: list[str] = []

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        self.count += 1
        file, phase = PHASES.get(frame.f_code.co_name, ("", ""))
        ours = bool(phase) and frame.f_code.co_filename.endswith(file)
        if ours and event == "call":
            self.calls[phase].append([self.count, self.count])
            self.inside.append(phase)
        if self.count == self.end_at:
            Path(KILLED_IN).write_text(" ".join(self.inside))
            os.kill(os.getpid(), self.by)
        if ours and event == "return":
            self.calls[phase][-1][1] = self.count
            self.inside.pop()

    def write(self) -> None:
        if self.report is not None:
            self.report.write_text(json.dumps(self.calls | {"all": [[1, self.count]]}))


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
