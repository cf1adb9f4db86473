"""Mutual exclusion of processes by a file lock, which ends with the process that holds it."""

import contextlib
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from hamjepa_audit.errors import UserError, explained


@contextlib.contextmanager
def sole_process(lock: Path, task: str) -> Iterator[None]:
    """Holds a lock while the block runs. The system frees it however the process ends.

    Args:
        lock: the lock's file; its content names the holder.
        task: what the block does, for the message.

    Raises:
        UserError: another process holds the lock, or its file can't be created.
    """
    with _locking(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            held = FileLock(lock, blocking=False).acquire()
        except Timeout as error:
            raise UserError(
                f"{task}: {_holder(lock)} is working on it; wait until that ends, or stop it"
            ) from error
    with held:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with _locking(lock):
            lock.write_text(f"process {os.getpid()} on {socket.gethostname()}, since {now}\n")
        try:
            yield
        finally:
            # Deleted while it is held: other processes don't accept a lock on an unlinked file.
            lock.unlink(missing_ok=True)


def _locking(lock: Path) -> contextlib.AbstractContextManager[None]:
    return explained(f"lock {lock}", "check the folder's permissions and the free disk space")


def _holder(lock: Path) -> str:
    """The holder of a lock; its file is empty at first, and gone once the holder has ended."""
    try:
        return lock.read_text().strip() or "another process"
    except FileNotFoundError:
        return "another process"
