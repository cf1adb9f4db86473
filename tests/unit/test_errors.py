"""The wording of errors."""

import pytest

from hamjepa_audit.errors import first_line


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
