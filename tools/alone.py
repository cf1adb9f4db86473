"""`python tools/alone.py LOCK COMMAND...`: runs a command while holding a file lock.

The lock is released when the command ends, however it ends; a second caller prints a message and
waits. Needs only the standard library, because it also guards the build of the environment.
"""

import fcntl
import os
import sys


def run_alone(lock: str, command: list[str]) -> None:
    """Replaces this process by the command once the lock is free."""
    held = os.open(lock, os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"{lock} is held by another process; waiting for it to finish", flush=True)
        fcntl.flock(held, fcntl.LOCK_EX)
    os.set_inheritable(held, True)
    os.execvp(command[0], command)


if __name__ == "__main__":
    run_alone(sys.argv[1], sys.argv[2:])
