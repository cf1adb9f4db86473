"""A run in two processes on the CPU, started by torchrun, as the workflow does on two GPUs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from hamjepa_audit.bookkeeping.states import saved_states
from hamjepa_audit.bookkeeping.verification import verify_results
from hamjepa_audit.layout import Layout
from tests.tiny import STUDY, copy_params, edit

pytestmark = [pytest.mark.workflow, pytest.mark.timeout(600)]
EPOCHS, STEPS, RANKS = 6, 4, 2
BIN = Path(sys.executable).parent
COMMAND = (
    str(BIN / "torchrun"), "--standalone", "--nproc-per-node", str(RANKS), "--no-python",
    str(BIN / "hamjepa-audit"), "pretrain", "--study", STUDY, "--arm", "hamjepa",
    "--epochs", str(EPOCHS), "--seed", "0", "--device", "cpu", "--threads", "1",
)  # fmt: skip


def start(folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        COMMAND, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(folder: Path) -> str:
    """Trains or resumes the run; returns the output."""
    process = start(folder)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def record_of(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("results/runs/*/run.json")
    record: dict[str, Any] = json.loads(path.read_text())
    return record


def results_of(folder: Path) -> dict[str, bytes]:
    files = folder.glob("results/runs/*/*")
    return {path.name: path.read_bytes() for path in files if path.name != "run.json"}


def kill(process: "subprocess.Popen[str]", rank: int) -> None:
    """Kills one of the processes that torchrun started."""
    (child,) = (
        child
        for child in psutil.Process(process.pid).children()
        if child.environ().get("RANK") == str(rank)
    )
    child.send_signal(signal.SIGKILL)


def steps_kept(folder: Path) -> int:
    """Number of steps in the last saved state."""
    folders = list((folder / "results/state").glob("*/"))
    return max((state.step for place in folders for state in saved_states(place)), default=0)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with parameters and data of a very small study that saves a state at every step."""
    folder = tmp_path_factory.mktemp("prepared")
    study = copy_params(folder / "params") / "studies" / f"{STUDY}.yaml"
    for key, value in {
        "optimisation.batch_size": 16,
        "data.test_fraction": 0.96,
        "evaluation.knn.neighbours": [1, 20],
        "data.digest": None,
        "epochs": [EPOCHS],
        "checkpoints.every_epochs": 4,
        "resumption.state_every_minutes": 1e-9,
    }.items():
        edit(study, key, value)
    subprocess.run([BIN / "hamjepa-audit", "prepare", "--study", STUDY], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def whole(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = Path(shutil.copytree(prepared, tmp_path_factory.mktemp("whole") / "place"))
    output = finish(folder)
    assert output.count("run.json") == 1 and output.count(f"epoch {EPOCHS}") == 1, output
    return folder


def test_two_processes_train_one_run(whole: Path) -> None:
    record = record_of(whole)
    assert record["determinism"]["processes"] == RANKS and record["resumed"] == []
    names = {"checkpoint_e0004.safetensors", "checkpoint.safetensors", "history.parquet"}
    assert set(record["files"]) == set(results_of(whole)) == names
    assert not list(whole.glob("results/state/*"))
    layout = Layout(data=whole / "data", results=whole / "results")
    assert verify_results(layout).problems == []


@pytest.mark.faults
@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_run_of_which_a_rank_was_killed_ends_byte_identical(
    prepared: Path, whole: Path, tmp_path: Path, rank: int
) -> None:
    folder = Path(shutil.copytree(prepared, tmp_path / "place"))
    process = start(folder)
    while steps_kept(folder) < STEPS + 2:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    kill(process, rank)
    output, _ = process.communicate()
    assert process.returncode != 0 and not list(folder.glob("results/runs/*/run.json")), output
    kept = steps_kept(folder)
    assert 0 < kept < EPOCHS * STEPS
    output = finish(folder)
    assert output.count(f"resumes after step {kept}") == 1, output
    assert [resumption["step"] for resumption in record_of(folder)["resumed"]] == [kept]
    assert results_of(folder) == results_of(whole)
