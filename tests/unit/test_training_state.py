"""States of unfinished runs: when they are saved, their content, and when they aren't used."""

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from hamjepa_audit.bookkeeping.states import saved_states
from hamjepa_audit.model import build_model
from hamjepa_audit.training import state
from hamjepa_audit.training.loop import Trainer
from hamjepa_audit.training.state import CODE, States, conditions
from tests.tiny import copy_params
from tests.unit.ranks import run_of

pytestmark = pytest.mark.faults


@pytest.mark.parametrize(
    ("epoch_length", "epoch_end_after", "expected"),
    [
        (1000, 0, [0, 0, 3, 3, 3, 6, 6, 6, 9, 9]),
        (2, 0, [0, 2, 2, 4, 4, 6, 6, 8, 8, 10]),
        (1, 0, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (1, 150, [0, 2, 2, 4, 4, 6, 6, 8, 8, 10]),  # not after each of the epochs of 100 seconds
        (4, 150, [0, 0, 3, 3, 3, 6, 6, 8, 8, 8]),
        (1, 1e9, [0, 0, 3, 3, 3, 6, 6, 6, 9, 9]),
    ],
)
def test_at_most_the_set_minutes_are_lost(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    epoch_length: int,
    epoch_end_after: float,
    expected: list[int],
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(state.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(state, "capture", lambda trainer: ({"step": trainer.steps_done}, {}))
    code = dict.fromkeys(CODE)
    folder = tmp_path / "a-run"
    states = States(folder, {}, code, datetime.now(UTC), 300, epoch_end_after)
    kept = []
    for step in range(1, 11):
        clock[0] += 100
        position = SimpleNamespace(index=step % epoch_length)
        states.keep(cast(Trainer, SimpleNamespace(steps_done=step, position=position)), {})
        kept.append(max((saved.step for saved in saved_states(folder)), default=0))
    assert kept == expected


def test_a_run_that_went_on_twice_says_when_it_began_and_what_trained_it(tmp_path: Path) -> None:
    run_params = run_of(copy_params(tmp_path / "params"), "sigreg")
    images = torch.zeros(4 * run_params.optimisation.batch_size, 3, 16, 16, dtype=torch.uint8)
    seconds = 0.0

    def go_on(number: int) -> States:
        nonlocal seconds
        code = {"commit": f"commit {number}", "uncommitted_changes": False}
        began = datetime(2026, 1, number, tzinfo=UTC)
        states = States(tmp_path / "a-run", {"torch": "2"}, code, began, 0.0, 0.0)
        trainer = Trainer(run_params, build_model(run_params), images, "a-run")
        states.restore(trainer)
        assert trainer.steps_done == number - 1 and trainer.position.seconds == seconds
        trainer.position.seconds += 100.0
        samples = torch.arange(run_params.optimisation.batch_size)
        trainer._pending.append(trainer.step(samples, images[samples], 1, number - 1))
        trainer.position.index += 1
        seconds = trainer.position.seconds
        states.keep(trainer, {})
        return states

    for number in (1, 2, 3):
        states = go_on(number)
        assert states.started == "2026-01-01T00:00:00+00:00"
    told = [(resumption["step"], resumption["commit"]) for resumption in states.resumed]
    assert told == [(1, "commit 1"), (2, "commit 2")]


def test_other_machines_and_settings_are_other_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    described = {"type": "cuda", "name": "NVIDIA H100", "cuda": "13.0", "cudnn": "9"}
    found = []
    for other in ({}, {"name": "NVIDIA H200"}, {"cuda": "12.8"}, {"cudnn": "8"}):
        monkeypatch.setattr(state, "describe_device", lambda _, x=other: described | x)
        found += [conditions(torch.device("cpu"), {"threads": threads}) for threads in (1, 2)]
    assert all(one not in found[:place] for place, one in enumerate(found))
