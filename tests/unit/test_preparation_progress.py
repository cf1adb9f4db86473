"""Progress display of a preparation, in a log and on a terminal."""

import io
from itertools import count

import pytest

from hamjepa_audit.data import progress as module
from hamjepa_audit.data.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_in_a_log_is_a_line_every_tenth() -> None:
    stream = io.StringIO()
    with Progress("preparing pets", 1000, stream) as progress:
        for _ in range(1000):
            progress.advance(1)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0] == "preparing pets: 100 of 1,000 rows (10 %)"


def test_progress_on_a_terminal_is_one_line_even_when_interrupted() -> None:
    stream = Terminal()
    with pytest.raises(KeyboardInterrupt), Progress("preparing pets", 10, stream) as progress:
        progress.advance(5)
        raise KeyboardInterrupt
    assert stream.getvalue() == "\rpreparing pets: 5 of 10 rows (50 %)\n"


def test_the_time_left_is_at_the_pace_of_what_was_done_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = count(step=10)
    monkeypatch.setattr(module.time, "monotonic", lambda: next(seconds))
    stream = io.StringIO()
    with Progress("preparing pets", 1000, stream) as progress:
        progress.start_at(500)
        progress.advance(100)  # in 10 seconds
    assert stream.getvalue().endswith("600 of 1,000 rows (60 %), 0:00:40 left\n")
