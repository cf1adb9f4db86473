"""DVC on top of the graph: reproduce, push, clone, pull, restore; and what a change reruns."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.tiny import STUDY, edit
from tests.workflow.conftest import checkout, snakemake
from tests.workflow.test_graph import NOTHING

pytestmark = pytest.mark.workflow

ARMS, SEEDS = ("sigreg", "mlp"), (0,)
BIN = Path(sys.executable).parent
UP_TO_DATE = "Data and pipelines are up to date"


def run(folder: Path, *command: str) -> str:
    """Runs a command in a folder with the environment's programs; returns its output."""
    identity = {
        f"GIT_{role}_{field}": "test@localhost"
        for role in ("AUTHOR", "COMMITTER")
        for field in ("NAME", "EMAIL")
    }
    settings = {"PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    place = {"DVC_SITE_CACHE_DIR": str(folder.parent / "site_cache")}
    result = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | identity | settings | place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository with results from `dvc repro`, committed, and pushed to a DVC remote."""
    folder = checkout(tmp_path_factory.mktemp("dvc") / "project")
    edit(folder / f"params/studies/{STUDY}.yaml", "arms", list(ARMS))
    edit(folder / f"params/studies/{STUDY}.yaml", "seeds", list(SEEDS))
    for name in ("dvc.yaml", ".dvcignore", ".gitignore", "Makefile"):
        shutil.copy(REPOSITORY / name, folder)
    (folder / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copy(REPOSITORY / ".dvc" / name, folder / ".dvc")
    shutil.copytree(
        REPOSITORY / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg*")
    )
    run(folder, "git", "init", "--quiet")
    run(folder, "dvc", "remote", "add", "--default", "folder", str(folder.parent / "remote"))
    run(folder, "dvc", "repro")
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message", "results")
    run(folder, "dvc", "push")
    return folder


@pytest.fixture(scope="module")
def clone(project: Path) -> Path:
    """A clone after `dvc pull` and `make restore`."""
    folder = project.parent / "clone"
    run(project, "git", "clone", "--quiet", ".", str(folder))
    assert not (folder / "results" / "runs").exists()
    run(folder, "dvc", "pull")
    environment_stands = ("PACKAGES_STAND=true", "PROJECT_STANDS=true", f"BIN={BIN}")
    run(folder, "make", "restore", *environment_stands)
    return folder


def test_repro_makes_what_the_workflow_makes(project: Path) -> None:
    assert NOTHING in snakemake(project, "-n", "results/tables")
    assert UP_TO_DATE in run(project, "dvc", "repro")
    assert len(list(project.glob("results/runs/*/checkpoint.safetensors"))) == len(ARMS) * len(
        SEEDS
    )
    assert run(project, "git", "status", "--porcelain") == ""


@pytest.mark.parametrize("where", ["project", "clone"])
def test_an_edited_comment_in_the_code_runs_nothing(
    request: pytest.FixtureRequest, where: str, tmp_path: Path
) -> None:
    source = request.getfixturevalue(where)
    folder = Path(shutil.copytree(source, tmp_path / "copy", symlinks=True))
    # A clone has no metadata of Snakemake.
    assert (folder / ".snakemake").exists() == (where == "project")
    for path in (folder / "src").rglob("*.py"):
        path.write_text(path.read_text() + "# a comment\n")
    assert NOTHING in snakemake(folder, "-n", "results/tables")


def test_tables_are_in_git_and_what_is_large_is_not(project: Path) -> None:
    files = run(project, "git", "ls-files", "results", "data").split()
    assert f"results/tables/{STUDY}/overview.md" in files and "results/metrics.json" in files
    assert not any(path.startswith(("results/runs", "results/figures", "data")) for path in files)
    assert "results/metrics.parquet" not in files


def test_a_restored_clone_has_nothing_to_do(clone: Path) -> None:
    assert not (clone / ".snakemake").exists()
    assert NOTHING in snakemake(clone, "-n", "results/tables")
    assert UP_TO_DATE in run(clone, "dvc", "status")
    assert run(clone, "git", "status", "--porcelain") == ""
    run(clone, "hamjepa-audit", "verify")


@pytest.mark.parametrize(
    ("where", "engine_remembers"), [("project", True), ("project", False), ("clone", False)]
)
def test_a_changed_learning_rate_runs_exactly_that_arm(
    request: pytest.FixtureRequest, where: str, engine_remembers: bool, tmp_path: Path
) -> None:
    source = request.getfixturevalue(where)
    folder = Path(shutil.copytree(source, tmp_path / "copy", symlinks=True))
    if not engine_remembers:
        shutil.rmtree(folder / ".snakemake", ignore_errors=True)
    edit(folder / "params/arms/mlp.yaml", "predictor_learning_rate", 1e-4)
    output = snakemake(folder, "-n", "results/tables")
    jobs = Counter(re.findall(r"^(?:local)?(?:rule|checkpoint) (\w+):$", output, re.MULTILINE))
    assert jobs == {
        "pretrain": len(SEEDS), "extract": 1, "knn": 1, "probe": 1, "geometry": 1, "dynamics": 1,
        "collect": 1, "metrics": 1, "tables": 1, "provenance": 1, "audit_provenance": 1,
        f"figures_{STUDY}": 1,
        "audit": 1, f"audit_figures_{STUDY}": 1,
    }  # fmt: skip
    trained = re.findall(r"output: results/runs/(\S+)/checkpoint", output)
    assert len(trained) == len(SEEDS)
    assert all(name.startswith(f"{STUDY}-mlp-") for name in trained)


def test_metrics_params_and_plots_show_what_they_say(project: Path, tmp_path: Path) -> None:
    shown = run(project, "dvc", "metrics", "show", "--md")
    assert f"{STUDY}.sigreg-e2.all.knn_top1@20" in shown
    page = run(project, "dvc", "plots", "show", "--out", str(tmp_path / "plots"))
    assert "failed" not in page
    assert f"{STUDY} mlp-e2 qp" in (tmp_path / "plots" / "index.html").read_text()
    folder = Path(shutil.copytree(project, tmp_path / "copy", symlinks=True))
    edit(folder / "params/arms/mlp.yaml", "predictor_learning_rate", 1e-4)
    difference = run(folder, "dvc", "params", "diff")
    assert "params/arms/mlp.yaml" in difference and "predictor_learning_rate" in difference
