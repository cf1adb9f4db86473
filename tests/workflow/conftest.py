"""A checkout with a tiny study, in which Snakemake runs for real."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.tiny import copy_params

Snakemake = Callable[..., str]


def checkout(folder: Path) -> Path:
    """Copies the workflow and the tiny study's parameters into a folder."""
    copy_params(folder / "params")
    for name in ("Snakefile", "environment.lock.yml"):
        shutil.copy(REPOSITORY / name, folder)
    shutil.copytree(REPOSITORY / "workflow", folder / "workflow")
    (folder / "profiles").symlink_to("workflow/profiles")
    return folder


def snakemake(folder: Path, *arguments: str, succeeds: bool = True) -> str:
    """Runs Snakemake in a folder; returns its output."""
    bin_folder = Path(sys.executable).parent
    result = subprocess.run(
        [str(bin_folder / "snakemake"), "--cores", "2", *arguments],
        cwd=folder,
        env=os.environ | {"PATH": f"{bin_folder}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    output = result.stdout + result.stderr
    assert (result.returncode == 0) == succeeds, output
    return output


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with an audited tiny study; tests must not change it."""
    folder = checkout(tmp_path_factory.mktemp("checkout"))
    snakemake(folder, "results/tables")
    return folder


@pytest.fixture
def copy_of_finished(finished: Path, tmp_path: Path) -> Path:
    """A copy of `finished`, with modification times kept, that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))
