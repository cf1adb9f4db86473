"""Temporary names that identify their process, so that leftovers of killed ones can be deleted."""

import glob
import os
import re
import shutil
import socket
from pathlib import Path

_OWNER = re.compile(r"(?P<host>.+)\.(?P<process>\d+)\.[^.]+")


def temporary_prefix(target: Path) -> str:
    """The prefix of temporary names for a file or folder: hidden; its name, host, process."""
    return f".{target.name}.{socket.gethostname()}.{os.getpid()}."


def remove_leftovers(target: Path) -> None:
    """Deletes temporary files and folders for `target` of processes of this host that have ended.

    Raises:
        OSError: one can't be deleted.
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
