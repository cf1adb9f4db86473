"""Leases of GPUs that jobs share: one GPU for a process, or several for a job of several processes.

Snakemake starts as many GPU jobs as its resource `gpu` allows, but all of them use the first GPU.
So each process leases a slot on a GPU: a file lock, which the system frees when the process ends.
A job of several processes leases all its GPUs at once or none: two such jobs that each held some
while they wait for more would deadlock.
"""

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from filelock import FileLock, Timeout

from hamjepa_audit.errors import UserError, explained

POLL_SECONDS = 1.0


@contextlib.contextmanager
def leased_gpus(
    gpus: Sequence[str], runs_per_gpu: int, folder: Path | None = None, count: int = 1
) -> Iterator[list[str]]:
    """Holds a slot on the GPU with the most free slots; with `count` > 1, all slots of each GPU.

    While there are too few, it prints that it waits, and holds none.

    Args:
        gpus: names to choose from, at least `count`; the same name means the same GPU.
        runs_per_gpu: slots on each GPU, at least 1.
        folder: folder of the locks; None for one shared by all processes of this user on this
            machine or, in a Slurm job, by those of the job, because jobs get different GPUs.
        count: GPUs wanted, at least 1.

    Yields:
        The names of `count` GPUs.

    Raises:
        UserError: the locks can't be written.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if folder is None and job and len(gpus) == 1:
        yield list(gpus)  # the only GPU of the Slurm job
        return
    folder = folder or _shared_folder(job)
    places = _take_places(gpus, runs_per_gpu, folder, count)
    if not places:
        print(_waiting(gpus, runs_per_gpu, count), file=sys.stderr, flush=True)
    while not places:
        time.sleep(POLL_SECONDS)
        places = _take_places(gpus, runs_per_gpu, folder, count)
    try:
        yield list(places)
    finally:
        for lock in (lock for locks in places.values() for lock in locks):
            lock.release()


def _waiting(gpus: Sequence[str], runs_per_gpu: int, count: int) -> str:
    if count > 1:
        return f"waiting for {count} GPUs of {', '.join(gpus)} on which nothing runs"
    return (
        f"waiting for a GPU: {runs_per_gpu} run(s) on each of {', '.join(gpus)} already; "
        f"--runs-per-gpu lets more of them share one"
    )


def _take_places(
    gpus: Sequence[str], runs_per_gpu: int, folder: Path, count: int
) -> dict[str, list[FileLock]]:
    """By GPU, a slot on the emptiest, or all slots of several; empty if too few are free.

    Raises:
        UserError: a lock can't be written.
    """
    with (
        _writing_locks(folder),
        FileLock(folder / "choosing.lock"),
        contextlib.ExitStack() as not_wanted,
    ):
        free = {
            gpu: [
                lock
                for place in range(runs_per_gpu)
                if _try(lock := FileLock(folder / f"{quote(gpu, safe='')}.{place}.lock"))
            ]
            for gpu in gpus
        }
        wanted = runs_per_gpu if count > 1 else 1
        emptiest = sorted(gpus, key=lambda gpu: -len(free[gpu]))[:count]
        enough = all(len(free[gpu]) >= wanted for gpu in emptiest)
        taken = {gpu: [free[gpu].pop(0) for _ in range(wanted)] for gpu in emptiest if enough}
        for locks in free.values():
            for lock in locks:
                not_wanted.callback(lock.release)
        return taken


def _try(lock: FileLock) -> bool:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    return True


@contextlib.contextmanager
def _writing_locks(folder: Path) -> Iterator[None]:
    """Turns an OSError into a UserError that names the lock that can't be written."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"can't write {error.filename or folder}, a lock of GPU leases: "
            f"{error.strerror or error}; make it writable, free disk space, or set TMPDIR to "
            f"another folder"
        ) from error


def _shared_folder(job: str | None) -> Path:
    """The user's folder of locks; one per Slurm job, because each numbers its GPUs from 0."""
    name = f"hamjepa-audit-gpus-{os.getuid()}" + (f"-slurm-{job}" if job else "")
    folder = Path(tempfile.gettempdir()) / name
    remedy = "free its name, or name another folder in TMPDIR"
    with explained(f"create {folder}, the folder of GPU leases", remedy):
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder
