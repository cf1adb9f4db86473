"""The Slurm profile: what it asks for, and a real Slurm of one node that runs the graph."""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from tests.cluster import one_node_slurm
from tests.cluster.one_node_slurm import audit_on, jobs_of, missing_programs
from tests.conftest import REPOSITORY
from tests.tiny import STUDY, edit
from tests.workflow.conftest import checkout, snakemake

pytestmark = pytest.mark.workflow
PROFILES = REPOSITORY / "workflow" / "profiles"
GPU_RULES = {"pretrain", "extract", "knn", "probe"}
ON_SLURM = ("--workflow-profile", "workflow/profiles/slurm")
needs_slurm = pytest.mark.skipif(
    bool(missing_programs()), reason=f"not installed: {', '.join(missing_programs())}"
)


def gpus_by_rule(output: str) -> dict[str, str]:
    """What a dry run announces each rule's jobs to ask for; "0" where it names no GPU."""
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
    output = snakemake(folder, "-n", *options, "results/tables", "--config", f"device={device}")
    asked = gpus_by_rule(output)
    assert {"prepare", "geometry", "collect", "metrics", "tables"} <= asked.keys()
    assert asked == {rule: gpus if rule in GPU_RULES else "0" for rule in asked}
    assert asked.keys() >= GPU_RULES
    for limit in ("mem_mb", "runtime"):
        assert len(re.findall(rf"\b{limit}=\d+", output)) == output.count("    jobid: ")


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
    # In this order: what follows --config and --resources is taken for one of theirs.
    output = snakemake(folder, f"data/{STUDY}/manifest.json", *options)
    assert re.search(rf"Provided resources: gpu=\D*{places}\b", output), output


GPU_FREE = """#!/bin/bash
# Notes which GPU a job was given and computes on the CPU, as there is none.
echo "$1 ${{CUDA_VISIBLE_DEVICES-none}}" >> {log}
exec {command} "${{@/#%cuda/cpu}}"
"""


@pytest.mark.slow
@needs_slurm
@pytest.mark.timeout(1800)
def test_slurm_gives_gpu_jobs_a_gpu_and_the_results_are_those_without_it(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, finished: Path
) -> None:
    folder = checkout(tmp_path_factory.mktemp("slurm_checkout"))
    edit(folder / f"params/studies/{STUDY}.yaml", "arms", ["sigreg", "hamjepa"])
    log = tmp_path / "gpus.txt"
    wrapper = tmp_path / "bin" / "hamjepa-audit"
    wrapper.parent.mkdir()
    real = Path(sys.executable).with_name("hamjepa-audit")
    wrapper.write_text(GPU_FREE.format(log=log, command=real))
    wrapper.chmod(0o755)
    with one_node_slurm.one_node_slurm(tmp_path / "slurm", cpus=2, gpus=2) as environment:
        path = f"{wrapper.parent}:{environment['PATH']}"
        audit_on(environment | {"PATH": path}, folder, "--config", "device=cuda")
        jobs = jobs_of(environment)

    assert {job.state for job in jobs} == {"COMPLETED"}
    assert {job.rule for job in jobs} >= GPU_RULES | {"geometry", "collect", "tables"}
    assert all(job.gpus == (1 if job.rule in GPU_RULES else 0) for job in jobs)
    given = [line.split() for line in log.read_text().splitlines()]
    assert Counter(command for command, _ in given)["pretrain"] == 4
    assert all(
        gpu in ("0", "1") if command in GPU_RULES else gpu == "none" for command, gpu in given
    )
    assert same_files(folder, finished, "results/runs/*/*.safetensors") == 4
    assert same_files(folder, finished, "results/runs/*/*.parquet") == 4
    assert same_files(folder, finished, "results/evaluation/*/*.parquet") == 8


def same_files(some: Path, all_: Path, pattern: str) -> int:
    """Compares files of `some` byte by byte with those of `all_`; their number."""
    paths = [path.relative_to(some) for path in some.glob(pattern)]
    for path in paths:
        assert (some / path).read_bytes() == (all_ / path).read_bytes(), path
    return len(paths)


@pytest.mark.slow
@needs_slurm
@pytest.mark.timeout(3600)
def test_the_script_completes_the_embedded_study_and_leaves_nothing_running(tmp_path: Path) -> None:
    script = Path(one_node_slurm.__file__)
    output = subprocess.run(
        [sys.executable, str(script), "--keep", str(tmp_path / "kept")],
        capture_output=True, text=True, check=False,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert output.returncode == 0, output.stdout + output.stderr
    assert " 20 x pretrain         COMPLETED" in output.stdout and "FAILED" not in output.stdout
    tables = tmp_path / "kept" / "checkout" / "results" / "tables" / STUDY
    assert all(arm in (tables / "overview.md").read_text() for arm in ("sigreg", "hamjepa", "mlp"))
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert str(tmp_path) not in processes.stdout
