"""How far a long step has come, on stderr."""

import sys
from typing import Self, TextIO


class Progress:
    """Counts rows: one line that is rewritten on a terminal, a line every tenth in a log."""

    def __init__(self, title: str, total: int, stream: TextIO | None = None) -> None:
        self._title = title
        self._total = total
        self._stream = sys.stderr if stream is None else stream
        self._step = 1 if self._stream.isatty() else 10
        self._done = 0
        self._shown = 0
        self._line_is_open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._line_is_open:
            self._stream.write("\n")

    def advance(self, rows: int) -> None:
        """Counts `rows` more rows."""
        self._done += rows
        percent = 100 * self._done // self._total
        if percent // self._step > self._shown // self._step:
            self._shown = percent
            self._show(percent)

    def _show(self, percent: int) -> None:
        line = f"{self._title}: {self._done:,} of {self._total:,} rows ({percent} %)"
        self._line_is_open = self._stream.isatty()
        self._stream.write(f"\r{line}" if self._line_is_open else f"{line}\n")
        self._stream.flush()
