"""The graph when jobs are killed, and when two processes use one checkout."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from hamjepa_audit.metrics import TRAINING_SECONDS
from tests.conftest import REPOSITORY
from tests.tiny import STUDY, audit
from tests.workflow.conftest import snakemake

pytestmark = [pytest.mark.workflow, pytest.mark.faults]
BIN = Path(sys.executable).parent
WITH_TIMES = {
    **dict.fromkeys(("seeds", "summary", "differences"), ("metric", TRAINING_SECONDS)),
    "statements": ("statement", "same-wall-clock"),
}
"""Tables with training times, and the column and value that identify those rows."""
ENVIRONMENT = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def without_a_run(copy_of_finished: Path) -> Path:
    """A finished checkout from which one run was deleted."""
    (run,) = copy_of_finished.glob(f"results/runs/{STUDY}-sigreg-*-s0-*")
    shutil.rmtree(run)
    return copy_of_finished


def training(folder: Path) -> tuple["subprocess.Popen[str]", Path, int]:
    """Starts Snakemake, and waits until a run has a state.

    Returns:
        Snakemake's process, the run's lock and the number of the process that trains it.
    """
    working = subprocess.Popen(
        [str(BIN / "snakemake"), "--cores", "1", "results/tables"],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    states = folder / "results" / "state"
    while not list(states.glob("*/step-*.json")):
        assert working.poll() is None, working.communicate()[0]
        time.sleep(0.01)
    (lock,) = states.glob("*.lock")
    holder = re.match(r"process (\d+) ", lock.read_text())
    assert holder is not None
    return working, lock, int(holder[1])


def tables_of(folder: Path) -> dict[str, bytes | str]:
    """Content of the tables, apart from times independent of when and where they were made.

    Bytes; tables with training times, in all formats, without those rows.
    """
    files = (folder / "results/tables").rglob("*.*")
    tables = [path for path in files if path.name != "provenance.json"]
    return {path.name: without_times(path) for path in tables}


def without_times(path: Path) -> bytes | str:
    if path.stem not in WITH_TIMES:
        return path.read_bytes()
    key, name = WITH_TIMES[path.stem]
    if path.suffix in (".csv", ".parquet"):
        table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
        assert name in set(table[key])
        return str(table[table[key] != name].to_json())
    # The width of columns depends on their content; LaTeX escapes the underscore.
    lines = [re.sub(r"[\s-]+", " ", line) for line in path.read_text().splitlines()]
    shown = name.replace("_", r"\_") if path.suffix == ".tex" else name
    rest = [line for line in lines if re.sub(r"-", " ", shown) not in line]
    assert len(rest) < len(lines)
    return "\n".join(rest)


def test_two_simultaneous_make_tables(
    finished: Path,
    without_a_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copy(REPOSITORY / "Makefile", without_a_run)
    (without_a_run / "tools").mkdir()
    shutil.copy(REPOSITORY / "tools/alone.py", without_a_run / "tools")
    settings = (f"BIN={BIN}", f"PYTHON={sys.executable}", "CORES=1", "PACKAGES_STAND=true",
                "PROJECT_STANDS=true")  # fmt: skip
    makes = [
        subprocess.Popen(
            ["make", "tables", *settings],
            cwd=without_a_run,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    printed = [make.communicate()[0] for make in makes]
    assert [make.returncode for make in makes] == [0, 0], printed
    waited = ["waiting for it to finish" in text for text in printed]
    assert sorted(waited) == [False, True]
    assert "Nothing to be done" in printed[waited.index(True)]
    assert "rule pretrain" in printed[waited.index(False)]
    assert tables_of(without_a_run) == tables_of(finished)
    monkeypatch.chdir(without_a_run)
    assert audit(monkeypatch, capsys, "verify")[0] == 0


def test_a_second_call_in_the_same_folder_stops_and_changes_nothing(
    finished: Path, without_a_run: Path
) -> None:
    """A call for other studies would write selections that jobs of the first one depend on."""
    working, _, _ = training(without_a_run)
    selections = without_a_run / "results/studies"
    before = {path: path.read_bytes() for path in selections.rglob("*.json")}
    others = ("--config", f"studies=[{STUDY}_controls]")
    told = snakemake(without_a_run, "results/tables", *others, succeeds=False)
    assert "the workflow: process " in told and "wait until that ends, or stop it" in told
    assert {path: path.read_bytes() for path in selections.rglob("*.json")} == before
    snakemake(without_a_run, "-n", "results/tables")
    working.communicate()
    assert working.returncode == 0
    assert tables_of(without_a_run) == tables_of(finished)


def test_a_killed_job_is_named_and_the_next_call_goes_on(
    finished: Path, without_a_run: Path
) -> None:
    working, lock, job = training(without_a_run)
    os.kill(job, signal.SIGKILL)
    printed = working.communicate()[0]
    assert working.returncode == 1
    assert f"results/runs/{lock.stem}" in printed and "exit status 137" in printed
    assert "a run resumes from its last state" in printed
    snakemake(without_a_run, "results/tables")
    log = (without_a_run / f"results/logs/pretrain/{lock.stem}.log").read_text()
    assert re.search(r"resumes after step \d+", log)
    assert tables_of(without_a_run) == tables_of(finished)
    assert list((without_a_run / "results" / "state").iterdir()) == []


def test_what_jobs_finish_after_snakemake_was_killed_is_kept_and_used(
    finished: Path,
    without_a_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    working, lock, job = training(without_a_run)
    working.kill()
    working.communicate()
    record = without_a_run / "results/runs" / lock.stem / "run.json"
    alive = True
    while not record.exists() or (without_a_run / "results/state" / lock.stem).exists():
        assert alive, "the run's process ended before the run did"
        alive = psutil.pid_exists(job)
        time.sleep(0.01)
    trained = record.read_bytes()
    snakemake(without_a_run, "--unlock")
    snakemake(without_a_run, "results/tables")
    assert record.read_bytes() == trained
    assert tables_of(without_a_run) == tables_of(finished)
    monkeypatch.chdir(without_a_run)
    assert audit(monkeypatch, capsys, "verify")[0] == 0  # the run's new training time included
