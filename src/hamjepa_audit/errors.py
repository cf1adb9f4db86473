"""Errors that a user can fix, and helpers to word their messages."""

import contextlib
import difflib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path


class UserError(Exception):
    """An error that the user can fix; the command line prints it as one line and exits with 2.

    The message names the offending item, its value, what was allowed and what to do next.
    """


class TrainingDivergedError(UserError):
    """A loss term stopped being finite."""


class CheckFailedError(Exception):
    """A check that failed; the command line prints it as one line and exits with 1."""


@contextlib.contextmanager
def explained(attempt: str, remedy: str) -> Iterator[None]:
    """Turns an OSError of the block into a UserError.

    Args:
        attempt: what the block does, such as "read FILE".
        remedy: what to do if it fails.

    Raises:
        UserError: the block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"can't {attempt}: {error.strerror or error}; {remedy}") from error


def unreadable(path: Path, kind: str, error: Exception, remedy: str) -> UserError:
    """The error to raise where a file can't be read, for lack of memory or for what it contains.

    Args:
        path: the file.
        kind: what it should be, such as "a Parquet file".
        error: what was raised.
        remedy: what to do if the content is the reason.
    """
    no_memory = os.strerror(errno.ENOMEM)
    if no_memory in str(error):
        return UserError(f"can't read {path}: {no_memory}; free memory, or use fewer threads")
    if isinstance(error, OSError) and error.errno is not None:  # libraries raise some without
        reason = error.strerror or first_line(error)
        return UserError(f"can't read {path}: {reason}; check its permissions and the disk")
    return UserError(f"{path} is not {kind} ({first_line(error)}); {remedy}")


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
