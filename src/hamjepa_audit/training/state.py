"""A training's state, captured between two steps and restored: resumption to the last bit."""

import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from hamjepa_audit.bookkeeping.states import (
    SavedState,
    read_state,
    remove_states,
    saved_states,
    set_aside,
    write_state,
)
from hamjepa_audit.errors import UserError
from hamjepa_audit.training.device import describe_device
from hamjepa_audit.training.loop import Trainer

CODE = ("commit", "uncommitted_changes")

MOMENTS = ("exp_avg", "exp_avg_sq", "step")
"""What AdamW knows of each parameter; `step` is a scalar."""


def conditions(device: torch.device, determinism: dict[str, Any]) -> dict[str, Any]:
    """What may change a run's last bits although its id is the same: machine and PyTorch."""
    described = describe_device(device)
    names = ("type", "name", "cuda", "cudnn")
    return {
        "device": {name: described[name] for name in names if name in described},
        "determinism": determinism,
        "torch": torch.__version__,
    }


class States:
    """Keeps the states of one run: `restore` before the first step, `keep` after every one.

    Attributes:
        started: when the run's first process began, UTC, ISO 8601.
        resumed: for each time that the run was resumed: from which step, when, and the code that
            had trained it so far.
    """

    def __init__(
        self,
        folder: Path,
        conditions: dict[str, Any],
        code: dict[str, Any],
        started: datetime,
        every_seconds: float,
    ) -> None:
        self.started = started.isoformat(timespec="seconds")
        self.resumed: list[dict[str, Any]] = []
        self._folder = folder
        self._conditions = conditions
        self._code = {name: code[name] for name in CODE}
        self._every_seconds = every_seconds
        self._last = time.monotonic()

    def restore(self, trainer: Trainer) -> dict[str, str]:
        """Sets a new trainer to the last state that is whole and of these conditions, if any.

        Of several ranks the first alone chooses and reads it: all go on from the same bytes.

        Returns:
            The digests of the run's checkpoints along training that `keep` was given.
        """
        found = trainer.ranks.from_first(self._last_usable)
        if found is None:
            return {}
        content, tensors = found
        restore(trainer, content, load(tensors))
        self.started = content["started"]
        now = datetime.now(UTC).isoformat(timespec="seconds")
        resumption = {"step": content["step"], "at": now, **content["code"]}
        self.resumed = [*content["resumed"], resumption]
        if trainer.ranks.first:
            print(f"{trainer.name} goes on after step {content['step']}", file=sys.stderr)
        return dict(content["checkpoints"])

    def _last_usable(self) -> tuple[dict[str, Any], bytes] | None:
        """What was written for it; the states after it are set aside."""
        for state in saved_states(self._folder):
            try:
                content = read_state(state)
                self._require_conditions(state, content["conditions"])
            except UserError as error:
                print(f"{error}. It is now {set_aside(state).name}", file=sys.stderr)
                continue
            return content, state.tensors.read_bytes()
        return None

    def keep(self, trainer: Trainer, checkpoints: Mapping[str, str]) -> None:
        """Writes a state at the end of an epoch, and when the last one has become too old.

        Args:
            trainer: between two steps.
            checkpoints: SHA-256 of those along training so far, by file name.
        """
        at_epoch_end = trainer.position.index == 0
        if at_epoch_end or time.monotonic() - self._last >= self._every_seconds:
            content, tensors = capture(trainer)
            content |= {
                "conditions": self._conditions,
                "started": self.started,
                "code": self._code,
                "resumed": self.resumed,
                "checkpoints": dict(checkpoints),
            }
            write_state(self._folder, trainer.steps_done, content, save(tensors))
            self._last = time.monotonic()

    def remove(self) -> None:
        """Deletes the run's states: it is written and needs them no more."""
        remove_states(self._folder)

    def _require_conditions(self, state: SavedState, found: dict[str, Any]) -> None:
        if found != self._conditions:
            raise UserError(
                f"{state.record} was made under other conditions, which may round differently: "
                f"{found}, here {self._conditions}"
            )


def capture(trainer: Trainer) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """All that a training's next steps depend on.

    Returns:
        What is said in JSON; and tensors, contiguous on the CPU: weights and BatchNorm statistics,
        the optimiser's moments, what the steps of an unfinished epoch measured. Random numbers
        are counted by step and epoch, so that no generator has a state.
    """
    trainer.fetch()
    position = trainer.position
    content = {
        "step": trainer.steps_done,
        "epoch": position.epoch,
        "index": position.index,
        "seconds": position.seconds,
        # As pairs: their order is part of the history, and JSON's keys are sorted.
        "history": [list(means.items()) for means in position.history],
        "epoch_seconds": position.epoch_seconds,
        "waited": position.waited,
    }
    weights = {f"model.{name}": value for name, value in trainer.model.state_dict().items()}
    return content, weights | _moments(trainer) | {"values": position.values}


def _moments(trainer: Trainer) -> dict[str, Tensor]:
    """What the optimiser knows, on the CPU.

    All parameters' end to end: one large tensor is written many times faster than a hundred small
    ones. `optimiser.known` (bool, one a parameter) leaves out those that never had a gradient.
    """
    states = trainer.optimiser.state
    known = [parameter in states for parameter in trainer.parameters()]
    chosen = [parameter for parameter in trainer.parameters() if parameter in states]
    moments = {key: [states[parameter][key].flatten() for parameter in chosen] for key in MOMENTS}
    return {"optimiser.known": torch.tensor(known)} | {
        f"optimiser.{key}": torch.cat(parts).cpu() for key, parts in moments.items()
    }


def restore(trainer: Trainer, content: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Sets a new trainer to what `capture` gave."""
    trainer.model.load_state_dict(
        {
            name.removeprefix("model."): value
            for name, value in tensors.items()
            if name.startswith("model.")
        }
    )
    _restore_moments(trainer, tensors)
    position = trainer.position
    position.values = tensors["values"]
    position.epoch, position.index = content["epoch"], content["index"]
    position.seconds = content["seconds"]
    position.history = [dict(means) for means in content["history"]]
    position.epoch_seconds = content["epoch_seconds"]
    position.waited = content["waited"]


def _restore_moments(trainer: Trainer, tensors: dict[str, Tensor]) -> None:
    known = tensors["optimiser.known"].tolist()
    chosen = [
        parameter
        for parameter, is_known in zip(trainer.parameters(), known, strict=True)
        if is_known
    ]
    trainer.optimiser.state = {parameter: {} for parameter in chosen}
    for key in MOMENTS:
        of_step = key == "step"
        sizes = [1 if of_step else parameter.numel() for parameter in chosen]
        parts = tensors[f"optimiser.{key}"].split(sizes)
        for parameter, part in zip(chosen, parts, strict=True):
            # Strides like the parameter's, which the fused optimiser relies on.
            like = part.new_empty(()) if of_step else parameter.detach()
            moment = torch.empty_like(like, device=parameter.device)
            state = trainer.optimiser.state.setdefault(parameter, {})
            state[key] = moment.copy_(part.view(moment.shape))
