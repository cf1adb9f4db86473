"""Errors that a user can fix, and helpers to word their messages."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """An error that the user can fix; the command line prints it as one line and exits with 2.

    The message names the offending item, its value, what was allowed and what to do next.
    """


class TrainingDivergedError(UserError):
    """A loss term stopped being finite."""


class CheckFailedError(Exception):
    """A check that failed; the command line prints it as one line and exits with 1."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def nearest(word: object, allowed: Iterable[str]) -> str:
    """A hint for a mistyped `word`: the nearest allowed one, or all of them.

    Returns:
        "did you mean 'x'?" or "allowed: 'x', 'y'".
    """
    names = sorted(allowed)
    close = difflib.get_close_matches(str(word), names, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    return "allowed: " + ", ".join(f"'{name}'" for name in names)
