"""The Makefile runs one command on the graph at a time; the tests build and train nothing."""

import fcntl
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

COMMANDS = {
    "tables": ["results/tables"],
    "figures": ["results/figures"],
    "report": ["results/report", "--report results/report/workflow.html results/report"],
}
"""Snakemake's arguments for each target."""

SETTINGS = (
    "BIN=bin", f"PYTHON={sys.executable}", "CORES=1", "PACKAGES_STAND=true", "PROJECT_STANDS=true",
)  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the Makefile, and a fake Snakemake that records its calls."""
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    (tmp_path / "tools").mkdir()
    shutil.copy(REPOSITORY / "tools/alone.py", tmp_path / "tools")
    snakemake = tmp_path / "bin" / "snakemake"
    snakemake.parent.mkdir()
    # It also records if the lock isn't held while it runs, and refuses to report on marked files.
    snakemake.write_text(
        "#!/bin/sh\nflock --nonblock .snakemake.lock true && echo alone-not >> calls\n"
        'echo "$@" >> calls\n'
        'case "$*" in *--report*) [ -z "$(ls -A .snakemake/incomplete)" ];; esac\n'
    )
    snakemake.chmod(0o755)
    return tmp_path


def calls(place: Path) -> list[str]:
    path = place / "calls"
    return path.read_text().splitlines() if path.exists() else []


def test_studies_are_named_after_the_target(place: Path) -> None:
    command = ["make", "tables", "STUDIES=digits,mine", "SNAKEMAKE_ARGS=-n", *SETTINGS]
    subprocess.run(command, cwd=place, check=True, capture_output=True)
    assert calls(place) == ["--cores 1 results/tables --config studies=[digits,mine] -n"]


@pytest.mark.parametrize("target", COMMANDS)
def test_the_graph_is_run_by_one_command_at_a_time(place: Path, target: str) -> None:
    held = os.open(place / ".snakemake.lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)
    make = subprocess.Popen(
        ["make", target, *SETTINGS], cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    assert make.stdout is not None
    lines = []
    while "waiting for it to finish" not in (lines[-1] if lines else ""):
        lines.append(make.stdout.readline())
        assert lines[-1], lines
    time.sleep(0.2)
    assert calls(place) == [] and make.poll() is None
    os.close(held)
    assert make.wait() == 0
    assert calls(place) == [f"--cores 1 {command}" for command in COMMANDS[target]]


def test_marks_of_a_killed_snakemake_do_not_stop_the_report(place: Path) -> None:
    """Only after the page is made: until then, Snakemake itself decides what they mean."""
    marks = place / ".snakemake" / "incomplete"
    marks.mkdir(parents=True)
    (marks / "cmVzdWx0cw==").touch()
    (place / ".snakemake" / "metadata").mkdir()
    subprocess.run(["make", "report", *SETTINGS], cwd=place, check=True, capture_output=True)
    assert calls(place) == [f"--cores 1 {command}" for command in COMMANDS["report"]]
    assert (place / ".snakemake" / "metadata").is_dir()
