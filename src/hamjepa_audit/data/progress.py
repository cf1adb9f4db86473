"""Displays the progress of a long step on stderr."""

import sys
import time
from datetime import timedelta
from typing import Self, TextIO

SOON = 5.0
"""Seconds before the remaining time is shown."""


class Progress:
    """Counts rows: one line that is rewritten in a terminal, or a line per 10 % in a log."""

    def __init__(
        self, title: str, total: int, stream: TextIO | None = None, unit: str = "rows"
    ) -> None:
        self._title = title
        self._total = total
        self._unit = unit
        self._stream = sys.stderr if stream is None else stream
        self._step = 1 if self._stream.isatty() else 10
        self._done = 0
        self._shown = 0
        self._line_is_open = False
        self._started = time.monotonic()
        self._before = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._line_is_open:
            self._stream.write("\n")

    def start_at(self, rows: int) -> None:
        """Counts rows that were done earlier, which do not count towards the speed."""
        self._done = self._before = rows

    def advance(self, rows: int) -> None:
        """Counts `rows` more rows."""
        self._done += rows
        percent = 100 * self._done // self._total
        if percent // self._step > self._shown // self._step:
            self._shown = percent
            self._show(percent)

    def _show(self, percent: int) -> None:
        line = f"{self._title}: {self._done:,} of {self._total:,} {self._unit} ({percent} %)"
        line += self._time_left()
        self._line_is_open = self._stream.isatty()
        self._stream.write(f"\r{line}" if self._line_is_open else f"{line}\n")
        self._stream.flush()

    def _time_left(self) -> str:
        """The estimated remaining time as text; empty at first and when all rows are done."""
        elapsed = time.monotonic() - self._started
        if elapsed < SOON or self._done == self._total:
            return ""
        pace = elapsed / (self._done - self._before)
        return f", {timedelta(seconds=round(pace * (self._total - self._done)))} left"
