"""Several processes train as one process with the joint batch does, step by step."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hamjepa_audit.errors import UserError
from hamjepa_audit.training.device import make_deterministic
from hamjepa_audit.training.distributed import Ranks, processes_here
from tests.conftest import REPOSITORY
from tests.tiny import copy_params
from tests.unit.ranks import ARMS, DTYPES, STEPS, Trained, run_of, train

RANKS = 2
TOLERANCE = 1e-5

Ended = dict[tuple[str, torch.dtype], Trained]
"""What a rank ends with, by arm and precision."""


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_params(tmp_path_factory.mktemp("tiny") / "params")


@pytest.fixture(scope="module")
def together(params: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Ended]:
    """What each of the ranks ends with."""
    out = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "WORLD_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.unit.ranks", str(params), str(out)],
            cwd=REPOSITORY,
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(RANKS)
    ]
    assert [process.wait(timeout=240) for process in processes] == [0] * RANKS
    return [torch.load(out / f"rank{rank}.pt") for rank in range(RANKS)]


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Relative, in the norm of the whole tensor."""
    ours, theirs = ours.double(), theirs.double()
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-30))


@pytest.mark.parametrize("arm", ARMS)
def test_two_ranks_equal_one_process_step_by_step(
    params: Path, together: list[Ended], arm: str
) -> None:
    """In float64, where ten steps don't amplify rounding to more than the tolerance.

    In float32 they do: with the batch of one process in another order the losses differ by as much.
    """
    make_deterministic(threads=1)
    alone = train(run_of(params, arm), torch.float64)
    ours = together[0][arm, torch.float64]
    assert ours["columns"].shape[0] == STEPS
    torch.testing.assert_close(ours["columns"], alone["columns"], rtol=TOLERANCE, atol=1e-12)
    for name, weights in alone.items():
        assert difference(ours[name], weights) < TOLERANCE, name
    assert len(set(alone["columns"][:, -2].tolist())) == STEPS


@pytest.mark.parametrize("arm", ARMS)
def test_in_float32_they_differ_by_rounding(params: Path, together: list[Ended], arm: str) -> None:
    """The total, which nothing amplifies at the first step, and little in ten."""
    make_deterministic(threads=1)
    alone = train(run_of(params, arm), torch.float32)["columns"][:, -2]
    ours = together[0][arm, torch.float32]["columns"][:, -2]
    torch.testing.assert_close(ours[0], alone[0], rtol=TOLERANCE, atol=0)
    torch.testing.assert_close(ours, alone, rtol=1e-3, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("arm", ARMS)
def test_all_ranks_end_with_the_same_bytes(
    together: list[Ended], arm: str, dtype: torch.dtype
) -> None:
    first, second = (rank[arm, dtype] for rank in together)
    assert first.keys() == second.keys()
    for name, weights in first.items():
        assert torch.equal(weights, second[name]), name


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
