"""One GPU for one process, where several share several GPUs.

Snakemake starts as many GPU jobs as its resource `gpu` allows, but leaves all of them on the first
GPU. So each process leases a place on a GPU: a file lock, which ends with the process whatever
happens to it.
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

from hamjepa_audit.errors import UserError

POLL_SECONDS = 1.0


@contextlib.contextmanager
def leased_gpu(gpus: Sequence[str], runs_per_gpu: int, folder: Path | None = None) -> Iterator[str]:
    """Holds a place on the GPU with the most places free; waits, and says so, while there is none.

    Args:
        gpus: names to choose from, at least one; the same name means the same GPU.
        runs_per_gpu: places on each GPU, at least 1.
        folder: of the locks; None for one that all processes of this user on this machine share,
            or, in a Slurm job, those of the job: what one job was given no other has.

    Yields:
        The GPU's name.

    Raises:
        UserError: the locks can't be written.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if folder is None and job and len(gpus) == 1:
        yield gpus[0]  # the job's own
        return
    folder = folder or _shared_folder(job)
    place = _take_place(gpus, runs_per_gpu, folder)
    if place is None:
        print(
            f"waiting for a GPU: {runs_per_gpu} run(s) on each of {', '.join(gpus)} already; "
            "--runs-per-gpu lets more of them share one",
            file=sys.stderr,
            flush=True,
        )
    while place is None:
        time.sleep(POLL_SECONDS)
        place = _take_place(gpus, runs_per_gpu, folder)
    gpu, lock = place
    try:
        yield gpu
    finally:
        lock.release()


def _take_place(
    gpus: Sequence[str], runs_per_gpu: int, folder: Path
) -> tuple[str, FileLock] | None:
    """A place on the emptiest GPU, the first of several; None if all places are taken."""
    with FileLock(folder / "choosing.lock"), contextlib.ExitStack() as not_wanted:
        free = {
            gpu: [
                lock
                for place in range(runs_per_gpu)
                if _try(lock := FileLock(folder / f"{quote(gpu, safe='')}.{place}.lock"))
            ]
            for gpu in gpus
        }
        best = max(gpus, key=lambda gpu: len(free[gpu]))
        taken = free[best].pop(0) if free[best] else None
        for locks in free.values():
            for lock in locks:
                not_wanted.callback(lock.release)
        return (best, taken) if taken else None


def _try(lock: FileLock) -> bool:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    return True


def _shared_folder(job: str | None) -> Path:
    """The user's folder of locks; each Slurm job has its own, for in it GPUs count from 0 again."""
    name = f"hamjepa-audit-gpus-{os.getuid()}" + (f"-slurm-{job}" if job else "")
    folder = Path(tempfile.gettempdir()) / name
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"can't create {folder}, the folder of GPU leases: {error.strerror}; "
            "free its name, or name another folder in TMPDIR"
        ) from error
    return folder
