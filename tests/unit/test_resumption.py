"""Runs that are killed at any moment and resumed end byte-identical to uninterrupted ones."""

import os
import random
import shutil
import signal
import socket
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from hamjepa_audit.bookkeeping.inventory import Entry, delete
from hamjepa_audit.bookkeeping.states import SavedState, saved_states
from hamjepa_audit.bookkeeping.verification import verify_results
from hamjepa_audit.errors import UserError
from hamjepa_audit.files import read_sealed_json, write_sealed_json
from hamjepa_audit.layout import Layout
from hamjepa_audit.locking import sole_process
from tests.killing import Calls, Moment, calls_of, run, signalled, warm
from tests.tiny import STUDY, copy_params, edit, files_below
from tests.unit.fabricated import flip_bit

pytestmark = pytest.mark.faults

EPOCHS, STEPS = 3, 4
LAST_STATE = EPOCHS * STEPS - 2
LAST_STATE_BUT_ONE = Moment("state", LAST_STATE, 0)
"""The start of the call that would write one more state than LAST_STATE."""
PRETRAIN = (
    "pretrain", "--study", STUDY, "--arm", "hamjepa", "--epochs", str(EPOCHS), "--seed", "0",
    "--threads", "1",
)  # fmt: skip
MEASURED = ("--study", STUDY, "--arm", "hamjepa", "--epochs", str(EPOCHS), "--threads", "1")
KILLS = {"training": 7, "state": 6, "writing": 4, "removing": 2}
MEASURING_STEPS = ("extract", "knn", "probe", "geometry")
MEASURING_KILLS = 2  # in each step
OTHER_TIMES = {"started", "ended", "epoch_seconds", "peak_memory", "resumed"}


@pytest.fixture(scope="module")
def context() -> ForkServerContext:
    return warm()


@pytest.fixture(scope="module")
def place(context: ForkServerContext, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with parameters and data of a very small study that saves a state at every step."""
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
        "evaluation.knn.neighbours": [1, 20, 50],
        "resumption.state_every_minutes": 1e-9,
        "checkpoints.every_epochs": 1,
    }.items():
        edit(study, key, value)
    assert run(context, folder, "prepare", "--study", STUDY)[0] == 0
    return folder


@pytest.fixture(scope="module")
def calls(context: ForkServerContext, place: Path) -> Calls:
    """The phases of an uninterrupted run; the run stays in `place`."""
    found = calls_of(context, place, *PRETRAIN)
    assert len(found["state"]) == EPOCHS * STEPS and len(found["writing"]) == 1
    return found


@pytest.fixture(scope="module")
def unfinished(
    context: ForkServerContext,
    place: Path,
    calls: Calls,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A run that was killed in the middle of its last epoch."""
    folder = copy_without_runs(place, tmp_path_factory.mktemp("unfinished") / "place")
    assert run(context, folder, *PRETRAIN, end_at=LAST_STATE_BUT_ONE)[0] == -9
    assert [state.step for state in states_of(folder)] == [LAST_STATE, LAST_STATE - 1]
    return folder


def copy_without_runs(place: Path, target: Path) -> Path:
    return Path(shutil.copytree(place, target, ignore=shutil.ignore_patterns("results")))


def states_of(folder: Path) -> list[SavedState]:
    folders = (folder / "results" / "state").glob("*/")
    return [state for states in folders for state in saved_states(states)]


def drawn(calls: Calls, phase: str, chance: random.Random) -> Moment:
    """A random moment in one of the calls of a phase."""
    call = chance.randrange(len(calls[phase]))
    return Moment(phase, call, chance.randint(0, calls[phase][call]))


def all_drawn(calls: Calls) -> list[Moment]:
    """Random moments, spread over the phases of training."""
    chance = random.Random(0)
    return [drawn(calls, phase, chance) for phase, count in KILLS.items() for _ in range(count)]


def hidden_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.parent.name != "raw"]


def results_of(folder: Path) -> dict[str, bytes]:
    """The bytes of a run's checkpoints and history."""
    files = (folder / "results" / "runs").glob("*/[!.]*")
    return {path.name: path.read_bytes() for path in files if path.name != "run.json"}


def record_of(folder: Path) -> dict[str, object]:
    (path,) = (folder / "results" / "runs").glob("*/run.json")
    return read_sealed_json(path)


@pytest.mark.parametrize("number", range(sum(KILLS.values())))
def test_a_killed_run_ends_byte_identical(
    context: ForkServerContext, place: Path, calls: Calls, tmp_path: Path, number: int
) -> None:
    whole = results_of(place)
    moment = all_drawn(calls)[number]
    folder = copy_without_runs(place, tmp_path / "place")
    status, printed = run(context, folder, *PRETRAIN, end_at=moment)
    assert status == -9, printed
    # Files with final names are complete.
    if moment.phase in ("writing", "removing"):
        found = results_of(folder)
        assert all(whole[name] == content for name, content in found.items())
    where = signalled(folder)
    assert moment.phase in where.inside
    kept = [state.step for state in states_of(folder)]
    # A state is saved after every step, so at most the last step is lost.
    finished = where.finished["state"]
    assert moment.phase == "removing" or finished <= max(kept, default=0) <= finished + 1

    status, printed = run(context, folder, *PRETRAIN)
    assert status == 0, printed
    assert results_of(folder) == whole
    before, after = record_of(place), record_of(folder)
    assert {key: before[key] for key in before if key not in OTHER_TIMES} == {
        key: after[key] for key in after if key not in OTHER_TIMES
    }
    resumed = [resumption["step"] for resumption in after["resumed"]]
    assert resumed == ([] if moment.phase == "removing" else kept[:1])
    assert files_below(folder / "results") == files_below(place / "results")
    assert verify_results(Layout(data=folder / "data", results=folder / "results")).problems == []


@pytest.mark.parametrize("adopted", [False, True])
def test_a_run_that_exists_is_not_trained_again(
    context: ForkServerContext, place: Path, calls: Calls, tmp_path: Path, adopted: bool
) -> None:
    folder = Path(shutil.copytree(place, tmp_path / "place"))
    (record,) = folder.glob("results/runs/*/run.json")
    if adopted:
        write_sealed_json(record.with_name("without_weights.json"), {"run_id": record.parent.name})
        record.with_name("checkpoint.safetensors").unlink()
    before = {path: path.read_bytes() for path in files_of(folder)}
    status, printed = run(context, folder, *PRETRAIN)
    assert status == 0 and f"{record.parent.name} exists already" in printed
    assert {path: path.read_bytes() for path in files_of(folder)} == before
    record.with_name("history.parquet").unlink()
    assert run(context, folder, *PRETRAIN)[0] == 0
    assert results_of(folder) == results_of(place)


def files_of(folder: Path) -> list[Path]:
    return [path for path in (folder / "results").rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def measured(
    context: ForkServerContext,
    place: Path,
    calls: Calls,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Calls]:
    """A run with features and measurements, and the lengths of the calls that made them."""
    folder = Path(shutil.copytree(place, tmp_path_factory.mktemp("measured") / "place"))
    work = {step: calls_of(context, folder, step, *MEASURED)[step] for step in MEASURING_STEPS}
    assert all(work.values())
    return folder, work


@pytest.mark.parametrize("number", range(MEASURING_KILLS))
@pytest.mark.parametrize("step", MEASURING_STEPS)
def test_a_killed_measurement_ends_byte_identical(
    context: ForkServerContext,
    measured: tuple[Path, Calls],
    tmp_path: Path,
    step: str,
    number: int,
) -> None:
    original, work = measured
    folder = Path(shutil.copytree(original, tmp_path / "place"))
    results = folder / "results"
    whole = {path: path.read_bytes() for path in results.rglob("*.*") if path.is_file()}
    outputs = {
        path
        for name in {"extract": ["features-*/*"], "geometry": ["geometry-*", "curves-*"]}.get(
            step, [f"{step}-*"]
        )
        for path in results.glob(f"evaluation/*/{name}")
    }
    assert outputs
    for path in outputs:
        path.unlink()
    moment = drawn(work, step, random.Random(f"{step} {number}"))
    assert run(context, folder, step, *MEASURED, end_at=moment)[0] == -9
    assert signalled(folder).inside == [step]
    left = {path: path.read_bytes() for path in results.rglob("[!.]*.*") if path.is_file()}
    assert left == {path: content for path, content in whole.items() if path not in outputs}
    assert run(context, folder, step, *MEASURED)[0] == 0
    after = {path: path.read_bytes() for path in results.rglob("*.*") if path.is_file()}
    assert after == whole


def test_at_most_an_epoch_is_lost_however_rarely_states_are_kept(
    context: ForkServerContext, place: Path, calls: Calls, tmp_path: Path
) -> None:
    folder = copy_without_runs(place, tmp_path / "place")
    study = folder / "params" / "studies" / f"{STUDY}.yaml"
    edit(study, "resumption.state_every_minutes", 1e9)
    assert run(context, folder, *PRETRAIN, end_at=LAST_STATE_BUT_ONE)[0] == -9
    ends = [STEPS * epoch for epoch in range(EPOCHS - 1, 0, -1)]
    assert [state.step for state in states_of(folder)] == ends
    assert run(context, folder, *PRETRAIN)[0] == 0
    assert [resumption["step"] for resumption in record_of(folder)["resumed"]] == ends[:1]
    assert results_of(folder) == results_of(place)


@pytest.mark.parametrize("damage", ["flip", "empty"])
def test_a_damaged_checkpoint_along_training_is_not_published(
    context: ForkServerContext, place: Path, unfinished: Path, tmp_path: Path, damage: str
) -> None:
    folder = Path(shutil.copytree(unfinished, tmp_path / "place"))
    (checkpoint,) = folder.glob("results/state/*/checkpoint_e0001.safetensors")
    if damage == "flip":
        flip_bit(checkpoint, checkpoint.stat().st_size // 2, 3)
    else:
        checkpoint.write_bytes(b"")
    status, printed = run(context, folder, *PRETRAIN)
    *_, line = printed.strip().splitlines()
    name = checkpoint.relative_to(folder)
    assert status == 2 and f"error: {name} has the SHA-256" in line
    assert f"delete {name.parent}, so that" in line
    shutil.rmtree(checkpoint.parent)
    assert run(context, folder, *PRETRAIN)[0] == 0
    assert results_of(folder) == results_of(place)


def corrupt(kind: str, state: SavedState, other: SavedState) -> None:
    match kind:
        case "flipped tensors":
            flip_bit(state.tensors, state.tensors.stat().st_size // 2, 3)
        case "flipped record":
            flip_bit(state.record, 300, 1)
        case "cut":
            state.tensors.write_bytes(state.tensors.read_bytes()[:-100])
        case "empty":
            state.record.write_bytes(b"")
        case "missing":
            state.tensors.unlink()
        case "swapped":
            state.tensors.write_bytes(other.tensors.read_bytes())
        case _:
            state.record.write_bytes(other.record.read_bytes())
            state.tensors.write_bytes(other.tensors.read_bytes())


@pytest.mark.parametrize(
    "kind",
    ["flipped tensors", "flipped record", "cut", "empty", "missing", "swapped", "another's"],
)
def test_a_damaged_state_is_set_aside_and_the_one_before_it_taken(
    context: ForkServerContext, place: Path, unfinished: Path, tmp_path: Path, kind: str
) -> None:
    folder = Path(shutil.copytree(unfinished, tmp_path / "place"))
    last, before = states_of(folder)
    corrupt(kind, last, before)
    status, printed = run(context, folder, *PRETRAIN)
    assert status == 0 and f"It was renamed to unused-{last.record.name}" in printed
    assert [resumption["step"] for resumption in record_of(folder)["resumed"]] == [before.step]
    assert results_of(folder) == results_of(place)
    assert "Traceback" not in printed


def test_without_a_whole_state_a_run_starts_over(
    context: ForkServerContext, place: Path, unfinished: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(unfinished, tmp_path / "place"))
    last, before = states_of(folder)
    for state in (last, before):
        corrupt("cut", state, before)
    status, printed = run(context, folder, *PRETRAIN)
    assert status == 0 and printed.count("It was renamed to unused-") == 2
    assert record_of(folder)["resumed"] == [] and results_of(folder) == results_of(place)


@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_a_state_of_other_conditions_is_not_gone_on_with(
    context: ForkServerContext, unfinished: Path, tmp_path: Path, library: str
) -> None:
    folder = Path(shutil.copytree(unfinished, tmp_path / "place"))
    for state in states_of(folder):
        content = read_sealed_json(state.record)
        here, content["conditions"][library] = content["conditions"][library], "2.0.0"
        write_sealed_json(state.record, content)
    status, printed = run(context, folder, *PRETRAIN)
    reason = f'change numbers: {library} "2.0.0", here "{here}". It'
    assert status == 0 and printed.count(reason) == 2
    assert record_of(folder)["resumed"] == []


def test_one_process_at_a_time_trains_a_run(
    context: ForkServerContext, place: Path, unfinished: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(unfinished, tmp_path / "place"))
    name = states_of(folder)[0].record.parent.name
    layout = Layout(results=folder / "results")
    before = files_below(folder / "results")
    with sole_process(layout.run_lock(name), name):
        status, printed = run(context, folder, *PRETRAIN)
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        assert status == 2 and f"error: {name}: {holder}, since" in printed
        entry = Entry("state", layout.state(name), STUDY, False, True)
        with pytest.raises(UserError, match="is working on it"):
            delete(entry)
    # The lock file is removed with its holder's end.
    assert files_below(folder / "results") == before - {f"state/{name}.lock"}
    assert run(context, folder, *PRETRAIN)[0] == 0
    assert results_of(folder) == results_of(place)


@pytest.mark.parametrize("phase", ["training", "state", "writing"])
def test_a_terminated_run_tidies_up_and_is_gone_on_with(
    context: ForkServerContext, place: Path, calls: Calls, tmp_path: Path, phase: str
) -> None:
    folder = copy_without_runs(place, tmp_path / "place")
    last = len(calls[phase]) - 1
    moment = Moment(phase, last, random.Random(phase).randint(0, calls[phase][last]))
    status, printed = run(context, folder, *PRETRAIN, end_at=moment, by=signal.SIGTERM)
    assert status == 143
    assert "error: terminated (SIGTERM); give the same command again: a run resumes" in printed
    assert "Traceback" not in printed and hidden_below(folder) == []
    assert not list(folder.glob("results/state/*.lock"))
    assert run(context, folder, *PRETRAIN)[0] == 0
    assert results_of(folder) == results_of(place) and record_of(folder)["resumed"]


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_ended_preparation_leaves_nothing_that_stays(
    context: ForkServerContext, place: Path, tmp_path: Path, by: signal.Signals
) -> None:
    shutil.copytree(place / "params", tmp_path / "params")
    command = ("prepare", "--study", STUDY)
    (moving,) = calls_of(context, tmp_path, *command)["moving"]
    whole = files_below(tmp_path / "data")
    shutil.rmtree(tmp_path / "data")
    moment = Moment("moving", 0, moving // 2)
    status, printed = run(context, tmp_path, *command, end_at=moment, by=by)
    assert status == {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}[by], printed
    if by != signal.SIGKILL:
        assert hidden_below(tmp_path) == []
        assert "error: " in printed and "; give the same command again: " in printed
    assert run(context, tmp_path, *command)[0] == 0
    assert files_below(tmp_path / "data") == whole and hidden_below(tmp_path) == []


def test_a_full_disk_is_said_and_the_next_run_goes_on(
    context: ForkServerContext, place: Path, unfinished: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(unfinished, tmp_path / "place"))
    before = files_below(folder / "results")
    status, printed = run(context, folder, *PRETRAIN, largest_file=100_000)
    *_, line = printed.strip().splitlines()
    assert status == 2 and line.startswith("error: can't write results/state/")
    assert "File too large; check the folder's permissions and the free disk space" in line
    locks = {path for path in before if path.endswith(".lock")}
    assert files_below(folder / "results") == before - locks
    assert run(context, folder, *PRETRAIN)[0] == 0
    assert results_of(folder) == results_of(place)


def test_features_that_do_not_fit_leave_nothing(
    context: ForkServerContext, place: Path, tmp_path: Path
) -> None:
    command = ("extract", *MEASURED)
    folder = Path(shutil.copytree(place, tmp_path / "place"))
    before = files_below(folder / "results")
    status, printed = run(context, folder, *command, largest_file=100_000)
    assert status == 2 and "error: can't write results/evaluation/" in printed
    assert files_below(folder / "results") == before
