"""Runs that were killed at any moment end as those that were not, to the last byte."""

import random
import re
import shutil
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from hamjepa_audit.files import read_sealed_json
from hamjepa_audit.layout import Layout
from hamjepa_audit.states import saved_states
from hamjepa_audit.verification import verify_results
from tests.killing import Moments, moments_of, run, warm
from tests.tiny import STUDY, copy_params, edit, files_below

pytestmark = pytest.mark.faults

EPOCHS, STEPS = 3, 4
PRETRAIN = (
    "pretrain", "--study", STUDY, "--arm", "hamjepa", "--epochs", str(EPOCHS), "--seed", "0",
    "--threads", "1",
)  # fmt: skip
EVALUATE = ("--study", STUDY, "--arm", "hamjepa", "--epochs", str(EPOCHS), "--threads", "1")
KILLS = {"training": 8, "state": 6, "writing": 4, "removing": 2}
OTHER_TIMES = {"started", "ended", "epoch_seconds", "peak_memory", "resumed"}


@pytest.fixture(scope="module")
def context() -> ForkServerContext:
    return warm()


@pytest.fixture(scope="module")
def place(context: ForkServerContext, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a very small study's parameters and data; its states are of every step."""
    folder = tmp_path_factory.mktemp("place")
    study = copy_params(folder / "params") / "studies" / f"{STUDY}.yaml"
    for key, value in {
        "encoder.width": 8,
        "optimisation.batch_size": 16,
        "data.test_fraction": 0.96,
        "data.digest": None,
        "epochs": [EPOCHS],
        "seeds": [0],
        "arms": ["hamjepa"],
        "resumption.state_every_minutes": 1e-9,
    }.items():
        edit(study, key, value)
    assert run(context, folder, "prepare", "--study", STUDY)[0] == 0
    return folder


@pytest.fixture(scope="module")
def moments(context: ForkServerContext, place: Path) -> Moments:
    """When each phase of a run that nothing disturbs happens; the run stays in `place`."""
    found = moments_of(context, place, *PRETRAIN)
    assert len(found["state"]) == EPOCHS * STEPS and len(found["writing"]) == 1
    return found


def copy_without_runs(place: Path, target: Path) -> Path:
    return Path(shutil.copytree(place, target, ignore=shutil.ignore_patterns("results")))


def drawn(moments: Moments) -> list[tuple[str, int]]:
    """Random moments, spread over the phases."""
    chance = random.Random(0)
    chosen = [(phase, moments[phase]) for phase, count in KILLS.items() for _ in range(count)]
    return [(phase, chance.randint(*chance.choice(calls))) for phase, calls in chosen]


def results_of(folder: Path) -> dict[str, bytes]:
    """The bytes of a run's checkpoint and history."""
    (run_folder,) = (folder / "results" / "runs").glob("*")
    return {
        name: (run_folder / name).read_bytes()
        for name in ("checkpoint.safetensors", "history.parquet")
        if (run_folder / name).exists()
    }


def record_of(folder: Path) -> dict[str, object]:
    (path,) = (folder / "results" / "runs").glob("*/run.json")
    return read_sealed_json(path)


@pytest.mark.parametrize("number", range(sum(KILLS.values())))
def test_a_killed_run_ends_byte_identical(
    context: ForkServerContext, place: Path, moments: Moments, tmp_path: Path, number: int
) -> None:
    whole = results_of(place)
    phase, moment = drawn(moments)[number]
    folder = copy_without_runs(place, tmp_path / "place")
    status, printed = run(context, folder, *PRETRAIN, kill_at=moment)
    assert status == -9, printed
    # What is there under a final name is whole.
    if phase in ("writing", "removing"):
        found = results_of(folder)
        assert all(whole[name] == content for name, content in found.items())
    folders = (folder / "results" / "state").glob("*/")
    kept = [state.step for states in folders for state in saved_states(states)]
    finished_epochs = len(re.findall(r"^epoch ", printed, re.MULTILINE))

    status, printed = run(context, folder, *PRETRAIN)
    assert status == 0, printed
    assert results_of(folder) == whole
    before, after = record_of(place), record_of(folder)
    assert {key: before[key] for key in before if key not in OTHER_TIMES} == {
        key: after[key] for key in after if key not in OTHER_TIMES
    }
    resumed = [resumption["step"] for resumption in after["resumed"]]
    assert resumed == kept[:1] and all(step >= STEPS * (finished_epochs - 1) for step in resumed)
    assert files_below(folder / "results") == files_below(place / "results")
    assert verify_results(Layout(data=folder / "data", results=folder / "results")).problems == []
