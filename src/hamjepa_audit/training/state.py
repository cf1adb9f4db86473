"""The state of training between two steps, captured and restored for bit-exact resumption."""

import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from hamjepa_audit.bookkeeping.records import leaf_differences, shown
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
"""AdamW's state of each parameter; `step` is a scalar."""


def conditions(device: torch.device, determinism: dict[str, Any]) -> dict[str, Any]:
    """Conditions that may change numbers without changing the run id: machine and libraries.

    NumPy draws the order of the data, and may draw otherwise in another version.
    """
    described = describe_device(device)
    names = ("type", "name", "cuda", "cudnn")
    return {
        "device": {name: described[name] for name in names if name in described},
        "determinism": determinism,
        "numpy": np.__version__,
        "torch": torch.__version__,
    }


class States:
    """The saved states of one run: call `restore` before the first step, `keep` after each step.

    Attributes:
        started: start of the run's first process, UTC, ISO 8601.
        resumed: for each resumption: from which step, when, and the code that had run before.
    """

    def __init__(
        self,
        folder: Path,
        conditions: dict[str, Any],
        code: dict[str, Any],
        started: datetime,
        every_seconds: float,
        epoch_end_after_seconds: float,
    ) -> None:
        self.started = started.isoformat(timespec="seconds")
        self.resumed: list[dict[str, Any]] = []
        self._folder = folder
        self._conditions = conditions
        self._code = {name: code[name] for name in CODE}
        self._every_seconds = every_seconds
        self._epoch_end_after_seconds = epoch_end_after_seconds
        self._last = time.monotonic()

    def restore(self, trainer: Trainer) -> dict[str, str]:
        """Restores a new trainer to the last valid state with the same conditions, if any.

        With several ranks, only the first chooses and reads it; all resume from the same bytes.

        Returns:
            The digests of the run's intermediate checkpoints that `keep` was given.
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
            print(f"{trainer.name} resumes after step {content['step']}", file=sys.stderr)
        return dict(content["checkpoints"])

    def _last_usable(self) -> tuple[dict[str, Any], bytes] | None:
        """Content and tensors of the last usable state; newer, unusable ones are set aside."""
        for state in saved_states(self._folder):
            try:
                content = read_state(state)
                self._require_conditions(state, content["conditions"])
            except UserError as error:
                print(f"{error}. It was renamed to {set_aside(state).name}", file=sys.stderr)
                continue
            return content, state.tensors.read_bytes()
        return None

    def keep(self, trainer: Trainer, checkpoints: Mapping[str, str]) -> None:
        """Writes a state when the last one has become too old; at the end of an epoch, sooner.

        Args:
            trainer: between two steps.
            checkpoints: SHA-256 of the intermediate checkpoints so far, by file name.
        """
        at_epoch_end = trainer.position.index == 0
        oldest = self._epoch_end_after_seconds if at_epoch_end else self._every_seconds
        if time.monotonic() - self._last >= min(oldest, self._every_seconds):
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
        """Deletes the run's states, which a finished run no longer needs."""
        remove_states(self._folder)

    def _require_conditions(self, state: SavedState, found: dict[str, Any]) -> None:
        if found != self._conditions:
            differing = ", ".join(
                f"{key} {shown(there)}, here {shown(here)}"
                for key, there, here in leaf_differences(found, self._conditions)
            )
            raise UserError(
                f"{state.record} was made under other conditions, which may change numbers: "
                f"{differing}"
            )


def capture(trainer: Trainer) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Everything that the next steps of training depend on.

    Returns:
        JSON content; and tensors, contiguous on the CPU: weights and BatchNorm statistics, the
        optimiser's moments, and the values of an unfinished epoch's steps. Generators have no
        state to save, because random numbers are indexed by step and epoch.
    """
    trainer.fetch()
    position = trainer.position
    content = {
        "step": trainer.steps_done,
        "epoch": position.epoch,
        "index": position.index,
        "seconds": position.seconds,
        # As pairs, to keep their order: JSON's keys are sorted.
        "history": [list(means.items()) for means in position.history],
        "epoch_seconds": position.epoch_seconds,
        "waited": position.waited,
    }
    weights = {f"model.{name}": value for name, value in trainer.model.weights().items()}
    return content, weights | _moments(trainer) | {"values": position.values}


def _moments(trainer: Trainer) -> dict[str, Tensor]:
    """The optimiser's state, on the CPU.

    It is concatenated over parameters, because one large tensor is written many times faster than
    a hundred small ones. `optimiser.known` (bool, one per parameter) marks the parameters that are
    included: those that have had a gradient.
    """
    states = trainer.optimiser.state
    known = [parameter in states for parameter in trainer.parameters()]
    chosen = [parameter for parameter in trainer.parameters() if parameter in states]
    moments = {key: [states[parameter][key].flatten() for parameter in chosen] for key in MOMENTS}
    return {"optimiser.known": torch.tensor(known)} | {
        f"optimiser.{key}": torch.cat(parts).cpu() for key, parts in moments.items()
    }


def restore(trainer: Trainer, content: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Restores a new trainer to the state that `capture` returned."""
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
            # The fused optimiser relies on strides like the parameter's.
            like = part.new_empty(()) if of_step else parameter.detach()
            moment = torch.empty_like(like, device=parameter.device)
            trainer.optimiser.state[parameter][key] = moment.copy_(part.view(moment.shape))
