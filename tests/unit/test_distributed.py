"""Several processes train like one process with the joint batch, step by step."""

import os
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from hamjepa_audit.data.preparation import prepare
from hamjepa_audit.data.store import array_file
from hamjepa_audit.errors import UserError
from hamjepa_audit.gpu_lease import leased_gpus
from hamjepa_audit.training.device import make_deterministic
from hamjepa_audit.training.distributed import Ranks, processes_here
from hamjepa_audit.training.loop import Trainer
from hamjepa_audit.training.state import capture
from tests.tiny import STUDY, copy_params, files_below
from tests.unit.fabricated import flip_bit
from tests.unit.ranks import (
    ARMS,
    RANKS,
    STEPS,
    DoubleTrainer,
    State,
    Step,
    run_of,
    run_ranks,
    states_at,
    train,
    trainer_of,
)

TOLERANCE = 1e-5
TOTAL = -2
"""Index of the total in the columns of a step."""

KINDS = ("json", "safetensors")

Trained = dict[str, list[Step]]
"""Training steps by arm."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny study's parameters."""
    place = tmp_path_factory.mktemp("ranks")
    copy_params(place / "params")
    return place


def alone(folder: Path, kind: type[Trainer]) -> Trained:
    """The steps of one process."""
    make_deterministic(threads=1)
    return {arm: train(trainer_of(run_of(folder / "params", arm), kind)) for arm in ARMS}


@pytest.fixture(scope="module")
def in_doubles(folder: Path) -> tuple[Trained, list[Trained]]:
    """Consecutive steps in float64: of one process, and of the ranks."""
    return alone(folder, DoubleTrainer), run_ranks("in_doubles", folder)


@pytest.fixture(scope="module")
def as_trained(folder: Path) -> tuple[Trained, list[Trained]]:
    """Steps in training's precision: of one process, and of the ranks from its states."""
    one = alone(folder, Trainer)
    torch.save({arm: [step.after for step in steps] for arm, steps in one.items()},
               folder / "states.pt")  # fmt: skip
    return one, run_ranks("as_trained", folder)


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Relative difference in the norm of the whole tensor."""
    ours, theirs = ours.double(), theirs.double()
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-30))


def joined(state: State) -> torch.Tensor:
    """All weights and BatchNorm statistics of a state, concatenated."""
    weights = [v for name, v in state[1].items() if name.startswith("model.")]
    return torch.cat([v.flatten() for v in weights if v.is_floating_point()])


@pytest.mark.parametrize("arm", ARMS)
def test_two_ranks_equal_one_process_step_by_step(
    in_doubles: tuple[Trained, list[Trained]], arm: str
) -> None:
    """Ten consecutive steps in float64, in which rounding errors stay below the tolerance."""
    one, ours = in_doubles[0][arm], in_doubles[1][0][arm]
    assert len(one) == len(ours) == STEPS
    for mine, theirs in zip(ours, one, strict=True):
        torch.testing.assert_close(mine.columns, theirs.columns, rtol=TOLERANCE, atol=1e-12)
    for name, weights in one[-1].after[1].items():
        assert difference(ours[-1].after[1][name], weights) < TOLERANCE, name
    assert len({float(step.columns[TOTAL]) for step in one}) == STEPS


@pytest.mark.parametrize("arm", ARMS)
def test_in_float32_every_step_from_equal_weights_is_that_of_one_process(
    as_trained: tuple[Trained, list[Trained]], arm: str
) -> None:
    """Compares terms, total and all weights together after each of ten steps.

    Terms that are negligible beside the total are compared on its scale. Gradients can't be
    compared: the side of a ReLU on which a rounded zero falls changes them by up to 1e-2, just as
    in a single process with the batch in another order. Adam's first steps depend on little more
    than the signs of gradients, so a bias that starts at zero has those errors, and rounding is
    small only relative to all weights together. A step changes these by 3e-4 to 3e-3, so a wrong
    step is noticed.
    """
    one, ours = as_trained[0][arm], as_trained[1][0][arm]
    assert len(one) == len(ours) == STEPS
    for mine, theirs in zip(ours, one, strict=True):
        *expected, total, _ = theirs.columns.tolist()
        *found, our_total, _ = mine.columns.tolist()
        assert our_total == pytest.approx(total, rel=TOLERANCE)
        assert found == pytest.approx(expected, rel=TOLERANCE, abs=1e-7 * total)
        assert difference(joined(mine.after), joined(theirs.after)) < TOLERANCE
    moved = [difference(joined(b.after), joined(a.after)) for a, b in pairwise(one)]
    assert min(moved) > 20 * TOLERANCE


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("precision", ["in_doubles", "as_trained"])
def test_all_ranks_end_with_the_same_bytes(
    request: pytest.FixtureRequest, precision: str, arm: str
) -> None:
    first, second = (rank[arm][-1].after for rank in request.getfixturevalue(precision)[1])
    assert first[0]["step"] == second[0]["step"] and first[1].keys() == second[1].keys()
    for name, weights in first[1].items():
        assert torch.equal(weights, second[1][name]), name


def test_the_first_rank_alone_chooses_the_state_that_all_go_on_from(folder: Path) -> None:
    """If the second has other conditions, it resumes, too; if the first has, neither resumes."""
    trainer = trainer_of(run_of(folder / "params", "hamjepa"))
    train(trainer)
    trainer.position.epoch = 2
    for name in ("first", "second"):
        states_at(folder, name, "here").keep(trainer, {})
    one, other = run_ranks("resume", folder)
    for name, steps in (("first", STEPS), ("second", 0)):
        assert one[name][0] == other[name][0] == steps
        assert one[name][1].keys() == other[name][1].keys()
        for weight, value in one[name][1].items():
            assert torch.equal(value, other[name][1][weight])
    assert torch.equal(joined(({}, prefixed(one["first"][1]))), joined(capture(trainer)))
    assert files_below(folder / "first") == {f"step-{STEPS:010d}.{x}" for x in KINDS}
    assert files_below(folder / "second") == {f"unused-step-{STEPS:010d}.{x}" for x in KINDS}


def prefixed(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights with their names in a state."""
    return {f"model.{name}": value for name, value in weights.items()}


def test_what_the_first_rank_can_not_do_all_ranks_raise(folder: Path) -> None:
    assert run_ranks("fail", folder) == [["rank 0", "rank 0 can't"]] * RANKS


def test_the_first_rank_alone_hashes_the_images_and_all_refuse_damaged_ones(folder: Path) -> None:
    prepare(run_of(folder / "params", "sigreg").data, folder / "raw", folder / "data")
    shutil.copytree(folder / "data", folder / "damaged")
    flip_bit(folder / "damaged" / STUDY / array_file("train", "images"), -1, 0)
    first, second = run_ranks("verify", folder)
    assert (first[0], second[0]) == (1, 0) and first[1] == second[1] > 0
    assert first[2] == second[2] and "the train split in" in first[2]


def test_the_longest_waiting_of_the_ranks_counts(folder: Path) -> None:
    assert run_ranks("wait", folder) == [RANKS - 1.0] * RANKS


def test_ranks_are_given_the_gpus_that_the_first_leases_for_all(folder: Path) -> None:
    with leased_gpus(["a", "b", "c"], 2, folder / f"hamjepa-audit-gpus-{os.getuid()}"):
        assert run_ranks("lease", folder, gpus="a,b,c") == ["b", "c"]


def test_a_batch_that_can_not_be_shared_is_refused() -> None:
    with pytest.raises(UserError, match="batch_size is 10: 3 processes can't share it"):
        Ranks(0, 3).share(torch.arange(10))
    assert [Ranks(r, 2).share(torch.arange(4)).tolist() for r in (0, 1)] == [[0, 1], [2, 3]]


def test_each_process_wants_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(UserError, match="3 processes train on 2 GPUs"):
        processes_here("auto")
    assert processes_here("cpu") == 3
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert processes_here("cuda") == 1
