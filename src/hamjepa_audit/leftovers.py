"""Temporary names that say whose they are, so that what a killed process left can be deleted."""

import glob
import os
import re
import shutil
import socket
from pathlib import Path

_OWNER = re.compile(r"(?P<host>.+)\.(?P<process>\d+)\.[^.]+")


def temporary_prefix(target: Path) -> str:
    """What the hidden temporary name of a file or folder begins with: its name, host, process."""
    return f".{target.name}.{socket.gethostname()}.{os.getpid()}."


def remove_leftovers(target: Path) -> None:
    """Deletes what processes of this host that are no more meant to move to `target`.

    Raises:
        OSError: it can't be deleted.
    """
    beginning = f".{target.name}."
    for path in target.parent.glob(f"{glob.escape(beginning)}*"):
        owner = _OWNER.fullmatch(path.name.removeprefix(beginning))
        if owner is None or owner["host"] != socket.gethostname() or _lives(int(owner["process"])):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
