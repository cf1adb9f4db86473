"""Progress display of a run: a bar in a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Mapping
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class TrainingProgress:
    """Prints loss terms, views per second and time left after every epoch; a bar shows steps."""

    def __init__(
        self, title: str, epochs: int, steps_per_epoch: int, done: int = 0, quiet: bool = False
    ) -> None:
        self._epochs = epochs
        self._steps = epochs * steps_per_epoch
        self._done = self._done_before = done
        self._started = time.monotonic()
        self._console = Console(file=sys.stderr, quiet=quiet)
        self._bar: Progress | None = None
        if self._console.is_terminal and not quiet:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._bar.add_task(title, total=epochs * steps_per_epoch, completed=done)
            self._bar.start()
        self.say(f"{title}: {epochs} epochs of {steps_per_epoch} steps")

    def step(self) -> None:
        """Counts one finished optimiser step."""
        self._done += 1
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0])

    def epoch(self, epoch: int, means: Mapping[str, float], views_per_second: float) -> None:
        """Prints the summary of a finished epoch (from 1)."""
        elapsed = time.monotonic() - self._started
        pace = elapsed / (self._done - self._done_before)
        left = timedelta(seconds=round(pace * (self._steps - self._done)))
        terms = "  ".join(f"{name} {value:.4g}" for name, value in means.items())
        width = len(str(self._epochs))
        self.say(
            f"epoch {epoch:{width}}/{self._epochs}  {terms}  "
            f"{views_per_second:,.0f} views/s  {left} left"
        )

    def say(self, line: str) -> None:
        """Prints one line, above the bar if there is one."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.stop()
