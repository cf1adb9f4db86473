"""A temporary one-node Slurm with its own folder, keys and ports; needs neither systemd nor root.

    python tests/cluster/one_node_slurm.py [--cpus N] [--checkout FOLDER]

starts it, audits the embedded study on it with workflow/profiles/slurm, reports the state of every
Slurm job, and stops it. It requires Debian's slurmctld, slurmd, slurm-client and munge, and the
project's environment.
"""

import argparse
import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
PROFILE = "workflow/profiles/slurm"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "sinfo")
SECONDS_TO_START = 60


def missing_programs() -> list[str]:
    """Required programs that this machine lacks."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


@contextlib.contextmanager
def one_node_slurm(folder: Path, cpus: int, gpus: int = 0) -> Iterator[dict[str, str]]:
    """Starts Slurm in a new `folder`; stops it, with all of its jobs, at the end of the block.

    Args:
        folder: created for configuration, state and logs; the paths of sockets must be short.
        cpus: number of CPUs that the node is configured with.
        gpus: number of fake GPUs: Slurm assigns them and sets CUDA_VISIBLE_DEVICES, but no job can
            use them.

    Yields:
        The environment variables with which Slurm's commands find it.

    Raises:
        RuntimeError: the node was not ready in time; the message has the ends of the logs.
    """
    folder.mkdir(parents=True)
    _configure(folder, cpus, gpus)
    environment = {
        **os.environ,
        "SLURM_CONF": str(folder / "slurm.conf"),
        # The jobs' commands are those of the environment that runs this.
        "PATH": f"{_srun_that_finds_it(folder)}:{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    with contextlib.ExitStack() as daemons:
        for command in (
            ["munged", "--foreground", "--force", f"--key-file={folder}/munge.key",
             f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid",
             f"--log-file={folder}/munged.log", f"--seed-file={folder}/munge.seed"],
            ["slurmctld", "-D", "-c"],
            ["slurmd", "-D"],
        ):  # fmt: skip
            daemons.enter_context(_daemon(command, folder, environment))
        _wait_until_idle(folder, environment)
        try:
            yield environment
        finally:
            _cancel_all(environment)
            # Without cgroups, it loses sight of a process whose parent ends first.
            for process in processes_of(folder, only_jobs=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


def processes_of(folder: Path, only_jobs: bool = False) -> list[psutil.Process]:
    """Daemons and jobs of a Slurm whose configuration is below a folder; `info` has names."""
    found = []
    for process in psutil.process_iter(["name", "environ"]):
        variables = process.info["environ"] or {}
        ours = variables.get("SLURM_CONF", "").startswith(f"{folder}/")
        if ours and (not only_jobs or "SLURM_JOB_ID" in variables):
            found.append(process)
    return found


def _configure(folder: Path, cpus: int, gpus: int) -> None:
    host = socket.gethostname().partition(".")[0]
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    for name in ("state", "spool"):
        (folder / name).mkdir()
    devices = [folder / f"gpu{index}" for index in range(gpus)]
    for device in devices:
        device.symlink_to("/dev/null")  # Slurm asks for a device file
    (folder / "gres.conf").write_text("".join(f"Name=gpu File={device}\n" for device in devices))
    controller_port, node_port = _free_ports(2)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    (folder / "slurm.conf").write_text(
        f"""ClusterName=one_node
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
MinJobAge=100000
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:{gpus}
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
    )


def _srun_that_finds_it(folder: Path) -> Path:
    """Makes a folder with an srun for use in jobs, where the executor plugin unsets SLURM_CONF."""
    script = folder / "bin" / "srun"
    script.parent.mkdir()
    script.write_text(
        f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n'
    )
    script.chmod(0o755)
    return script.parent


def _free_ports(count: int) -> list[int]:
    """Ports that are currently free."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def _daemon(command: list[str], folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    with (folder / f"{command[0]}.out").open("wb") as output:
        # In its own session: Ctrl-C stops only the test, which then stops the daemons in order.
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_idle(folder: Path, environment: Mapping[str, str]) -> None:
    end = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < end:
        state = slurm(environment, "sinfo", "--noheader", "--format=%T", check=False)
        if state.strip() == "idle":
            return
        time.sleep(0.5)
    logs = [
        f"{log.name}:\n{log.read_text()[-2000:]}"
        for log in folder.iterdir()
        if log.suffix == ".log"
    ]
    raise RuntimeError("Slurm did not start\n" + "\n".join(logs))


def _cancel_all(environment: Mapping[str, str]) -> None:
    """Cancels the jobs that still run, and waits for their end."""
    jobs = slurm(environment, "squeue", "--noheader", "--format=%i", check=False).split()
    if not jobs:
        return
    slurm(environment, "scancel", *jobs, check=False)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if not slurm(environment, "squeue", "--noheader", check=False).strip():
            return
        time.sleep(0.5)


def slurm(environment: Mapping[str, str], *command: str, check: bool = True) -> str:
    """Output of one of Slurm's commands."""
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=check, timeout=60
    ).stdout


class Job(NamedTuple):
    """A job as Slurm reports it."""

    rule: str
    state: str
    gpus: int
    """Number of requested GPUs."""


def audit_on(environment: Mapping[str, str], checkout: Path, *arguments: str) -> str:
    """Runs Snakemake with the Slurm profile in a checkout; returns its output.

    Raises:
        RuntimeError: Snakemake failed.
    """
    result = subprocess.run(
        [sys.executable, "-m", "snakemake", "--workflow-profile", PROFILE,
         "--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "2",
         "--seconds-between-status-checks", "2", "results/tables", *arguments],
        cwd=checkout, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False,
    )  # fmt: skip
    if result.returncode:
        raise RuntimeError(f"the audit on Slurm failed\n{result.stdout}")
    return result.stdout


def jobs_of(environment: Mapping[str, str]) -> list[Job]:
    """All jobs that Slurm has seen."""
    lines = slurm(
        environment, "squeue", "--states=all", "--noheader", "--sort=i",
        "--Format=comment:200,state:20,tres-per-job:40",
    ).splitlines()  # fmt: skip
    columns = [(line[:200].strip(), line[200:220].strip(), line[220:].strip()) for line in lines]
    return [
        Job(
            comment.removeprefix("rule_").partition("_wildcards_")[0],
            state,
            sum(map(int, re.findall(r"gpu[:=](\d+)", resources))),
        )
        for comment, state, resources in columns
    ]


def copy_checkout(folder: Path) -> Path:
    """Copies the workflow and its parameters to a new folder without results."""
    for name in ("params", "workflow"):
        shutil.copytree(REPOSITORY / name, folder / name)
    for name in ("Snakefile", "environment.lock.yml"):
        shutil.copy(REPOSITORY / name, folder)
    return folder


def main() -> None:
    """Audits the embedded study on a Slurm of this machine."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--cpus", type=int, default=os.cpu_count(), help="of the node")
    parser.add_argument("--checkout", type=Path, help="a new folder to audit in, which is kept")
    options = parser.parse_args()
    # As for Ctrl-C, running processes are stopped before the exit.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if missing := missing_programs():
        sys.exit(f"not installed: {', '.join(missing)}; install slurmctld, slurmd and munge")
    with tempfile.TemporaryDirectory() as temporary:
        checkout = copy_checkout(options.checkout or Path(temporary) / "checkout")
        with one_node_slurm(Path(temporary) / "slurm", options.cpus) as environment:
            started = time.monotonic()
            audit_on(environment, checkout, "--config", "device=cpu")
            seconds = time.monotonic() - started
            jobs = jobs_of(environment)
        for job, count in sorted(Counter(jobs).items()):
            print(f"{count:3d} x {job.rule:16} {job.state:10} GPUs: {job.gpus}")
        print(f"{len(jobs)} Slurm jobs, {seconds:.0f} s on {options.cpus} CPUs")
        print((checkout / "results/tables/digits/overview.md").read_text())


if __name__ == "__main__":
    main()
