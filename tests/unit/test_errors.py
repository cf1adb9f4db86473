"""The wording of errors."""

from pathlib import Path

import pytest

from hamjepa_audit.errors import first_line, unreadable


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one line"), "one line"),
        (OSError("one\nand another"), "one"),
        (EOFError(), "EOFError"),
        (OSError(""), "OSError"),
    ],
)
def test_the_first_line_of_an_error(error: Exception, line: str) -> None:
    assert first_line(error) == line


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(12, "Cannot allocate memory"), "can't read a.npy: Cannot allocate memory; free"),
        (OSError("Cannot allocate memory (os error 12)"), "can't read a.npy: Cannot allocate mem"),
        (
            PermissionError(13, "Permission denied"),
            "can't read a.npy: Permission denied; check its",
        ),
        (OSError("no more data"), "a.npy is not a whole file (no more data); make it again"),
        (ValueError("too short"), "a.npy is not a whole file (too short); make it again"),
    ],
)
def test_a_file_is_not_called_damaged_if_the_system_can_not_read_it(
    error: Exception, told: str
) -> None:
    found = unreadable(Path("a.npy"), "a whole file", error, "make it again")
    assert str(found).startswith(told)
