"""The Slurm profile: requested resources, and the graph on a real one-node Slurm."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from tests.cluster import one_node_slurm
from tests.cluster.one_node_slurm import audit_on, jobs_of, missing_programs, processes_of
from tests.conftest import REPOSITORY
from tests.tiny import STUDY, edit
from tests.workflow.conftest import checkout, snakemake

pytestmark = pytest.mark.workflow
PROFILES = REPOSITORY / "workflow" / "profiles"
GPU_RULES = {"pretrain", "extract", "knn", "probe", "trajectory", "dynamics"}
ON_SLURM = ("--workflow-profile", "workflow/profiles/slurm")
needs_slurm = pytest.mark.skipif(
    bool(missing_programs()), reason=f"not installed: {', '.join(missing_programs())}"
)


def gpus_by_rule(output: str) -> dict[str, str]:
    """GPUs that each rule's jobs request according to a dry run; "0" if it shows none."""
    jobs = re.findall(r"^(?:rule|checkpoint) (\w+):\n((?:    .*\n)+)", output, re.MULTILINE)
    found = {name: re.search(r"\bgpu=(\w+)", text) for name, text in jobs}
    return {name: match[1] if match else "0" for name, match in found.items()}


def test_the_slurm_profile_keeps_the_default_profiles_settings() -> None:
    default, on_slurm = (
        yaml.safe_load((PROFILES / name / "config.yaml").read_text())
        for name in ("default", "slurm")
    )
    assert default and default.items() <= on_slurm.items()


@pytest.mark.parametrize(
    ("options", "device", "gpus"),
    [(ON_SLURM, "cuda", "1"), (("--profile", ON_SLURM[1]), "cuda", "1"), (ON_SLURM, "cpu", "0")],
)
def test_jobs_that_compute_on_a_gpu_ask_for_one_and_no_other_does(
    tmp_path: Path, options: tuple[str, ...], device: str, gpus: str
) -> None:
    folder = checkout(tmp_path)
    edit(folder / f"params/studies/{STUDY}.yaml", "checkpoints.every_epochs", 1)
    output = snakemake(folder, "-n", *options, "results/tables", "--config", f"device={device}")
    asked = gpus_by_rule(output)
    assert {"prepare", "geometry", "collect", "metrics", "tables"} <= asked.keys()
    assert asked == {rule: gpus if rule in GPU_RULES else "0" for rule in asked}
    assert asked.keys() >= GPU_RULES
    # The job that measures all checkpoints of all seeds has the time limit of training.
    assert re.search(
        r"^rule trajectory:\n(?:    .*\n)*?    resources: .*runtime=1440", output, re.M
    )
    for limit in ("mem_mb", "runtime"):
        assert len(re.findall(rf"\b{limit}=\d+", output)) == output.count("    jobid: ")


@pytest.mark.parametrize(
    ("options", "runs_per_gpu", "asked"), [((), 1, "2"), ((), 3, "6"), (ON_SLURM, 3, "2")]
)
def test_a_run_of_two_gpus_is_two_processes_and_asks_for_two_whole_gpus(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    runs_per_gpu: int,
    asked: str,
) -> None:
    """Locally it requests all places on them, since GPU jobs count places; Slurm counts GPUs."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    folder = checkout(tmp_path)
    edit(folder / f"params/studies/{STUDY}.yaml", "gpus", 2)
    output = snakemake(
        folder, "-n", "-p", *options, "results/tables",
        "--config", "device=cuda", f"runs_per_gpu={runs_per_gpu}",
    )  # fmt: skip
    found = gpus_by_rule(output)
    assert found["pretrain"] == asked and found["extract"] == found["knn"] == "1"
    command = "torchrun --standalone --nproc-per-node 2 --no-python hamjepa-audit pretrain"
    assert output.count(command) == len(re.findall("^rule pretrain:", output, re.MULTILINE)) > 0
    assert output.count("torchrun") == output.count(command)


def test_a_finished_study_has_nothing_to_do_on_slurm_either(copy_of_finished: Path) -> None:
    for path in (copy_of_finished / "results").rglob("*.parquet"):
        path.touch()
    output = snakemake(
        copy_of_finished, "-n", *ON_SLURM, "results/tables", "--config", "device=cuda"
    )
    assert "Nothing to be done" in output


def test_a_submitting_machine_without_gpu_says_that_none_is_asked_for(tmp_path: Path) -> None:
    folder = checkout(tmp_path)
    assert "`--config device=cuda`" in snakemake(folder, "-n", *ON_SLURM, "results/tables")


@pytest.mark.parametrize(
    ("gpus", "options", "places"),
    [
        ("GPU-a,GPU-b", ("--config", "runs_per_gpu=3"), 6),
        ("0,1", ("--resources", "gpu=5"), 5),
        ("", (), 1),
    ],
)
def test_gpu_jobs_at_a_time_follow_the_gpus_unless_told_otherwise(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gpus: str,
    options: tuple[str, ...],
    places: int,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    folder = checkout(tmp_path)
    # The target comes first: after --config or --resources it would be taken for one of theirs.
    output = snakemake(folder, f"data/{STUDY}/manifest.json", *options)
    assert re.search(rf"Provided resources: gpu=\D*{places}\b", output), output


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for sockets in it."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


GPU_FREE = """#!/bin/bash
# Notes which GPU a job was given and computes on the CPU, as there is none.
echo "$1 ${{CUDA_VISIBLE_DEVICES-none}}" >> {log}
exec {command} "${{@/#cuda/cpu}}"
"""


@pytest.mark.slow
@needs_slurm
@pytest.mark.timeout(1800)
def test_slurm_gives_gpu_jobs_a_gpu_and_the_results_are_those_without_it(
    tmp_path: Path,
    short_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    finished: Path,
) -> None:
    folder = checkout(tmp_path_factory.mktemp("slurm_checkout"))
    edit(folder / f"params/studies/{STUDY}.yaml", "arms", ["sigreg", "hamjepa"])
    log = tmp_path / "gpus.txt"
    wrapper = tmp_path / "on_cpu"
    real = Path(sys.executable).with_name("hamjepa-audit")
    wrapper.write_text(GPU_FREE.format(log=log, command=real))
    wrapper.chmod(0o755)
    for rules in (folder / "workflow/rules").glob("*.smk"):
        rules.write_text(rules.read_text().replace("hamjepa-audit ", f"{wrapper} "))
    with one_node_slurm.one_node_slurm(short_folder / "slurm", cpus=2, gpus=2) as environment:
        audit_on(environment, folder, "--config", "device=cuda")
        jobs = jobs_of(environment)

    assert {job.state for job in jobs} == {"COMPLETED"}
    measured = GPU_RULES - {"trajectory"}  # the tiny study keeps no intermediate checkpoints
    assert {job.rule for job in jobs} >= measured | {"geometry", "collect", "tables"}
    assert all(job.gpus == (1 if job.rule in GPU_RULES else 0) for job in jobs)
    given = [line.split() for line in log.read_text().splitlines()]
    assert Counter(command for command, _ in given)["pretrain"] == 4
    assert all(
        gpu in ("0", "1") if command in GPU_RULES else gpu == "none" for command, gpu in given
    )
    assert same_files(folder, finished, "results/runs/*/*.safetensors") == 4
    assert same_files(folder, finished, "results/runs/*/*.parquet") == 4
    assert same_files(folder, finished, "results/evaluation/*/*.parquet") >= 8


def same_files(some: Path, all_: Path, pattern: str) -> int:
    """Compares the files in `some` with those in `all_` byte by byte; returns their number."""
    paths = [path.relative_to(some) for path in some.glob(pattern)]
    for path in paths:
        assert (some / path).read_bytes() == (all_ / path).read_bytes(), path
    return len(paths)


def names(processes: list[psutil.Process]) -> list[str]:
    return [process.info["name"] for process in processes]


@pytest.mark.slow
@needs_slurm
@pytest.mark.timeout(120)
def test_what_slurm_loses_sight_of_is_stopped(short_folder: Path) -> None:
    """A process that ignores SIGTERM, and whose parent has ended."""
    folder = short_folder / "slurm"
    with one_node_slurm.one_node_slurm(folder, cpus=1) as environment:
        command = "(trap '' TERM; exec sleep 600) & (trap '' TERM; exec sleep 600)"
        submit = ("sbatch", "--output=/dev/null", f"--wrap={command}")
        one_node_slurm.slurm(environment, *submit)
        while names(jobs := processes_of(folder, only_jobs=True)).count("sleep") < 2:
            time.sleep(0.1)
        parent = next(job for job in jobs if job.info["name"] == "sleep").parent()
        assert parent is not None
        parent.kill()
    assert names(processes_of(folder)) == []


def start_script(checkout: Path, slurm: Path) -> "subprocess.Popen[str]":
    """Starts the script that audits the embedded study on its own Slurm."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.Popen(
        [sys.executable, str(one_node_slurm.__file__), "--checkout", str(checkout)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"PATH": path, "TMPDIR": str(slurm)},
    )  # fmt: skip


@pytest.mark.slow
@needs_slurm
@pytest.mark.timeout(3600)
def test_the_script_completes_the_embedded_study_and_leaves_nothing_running(
    tmp_path: Path, short_folder: Path
) -> None:
    script = start_script(tmp_path / "checkout", short_folder)
    output, _ = script.communicate()
    assert script.returncode == 0, output
    jobs = re.findall(r"^ *(\d+) x (\w+) +(\w+) +GPUs: 0$", output, re.MULTILINE)
    assert {state for *_, state in jobs} == {"COMPLETED"}
    results = tmp_path / "checkout" / "results"
    trained = next(int(count) for count, rule, _ in jobs if rule == "pretrain")
    assert trained == len(list(results.glob("runs/*/run.json"))) >= 20
    assert "hamjepa" in (results / "tables" / STUDY / "overview.md").read_text()
    assert not names(processes_of(short_folder))


@pytest.mark.slow
@needs_slurm
@pytest.mark.timeout(300)
def test_a_terminated_script_leaves_nothing_running(tmp_path: Path, short_folder: Path) -> None:
    script = start_script(tmp_path / "checkout", short_folder)
    while "hamjepa-audit" not in (running := names(processes_of(short_folder))):
        assert script.poll() is None, script.communicate()
        time.sleep(0.1)
    assert {"munged", "slurmctld", "slurmd"} <= set(running)
    script.terminate()
    script.communicate()
    assert script.returncode == 128 + signal.SIGTERM
    assert not names(processes_of(short_folder))
