"""Checkpoints: weights in safetensors, and the encoder back from them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from hamjepa_audit.errors import UserError, first_line
from hamjepa_audit.files import sha256_file
from hamjepa_audit.layout import Layout
from hamjepa_audit.models.encoder import TokenEncoder
from hamjepa_audit.params.studies import RunParams
from hamjepa_audit.records import read_record
from hamjepa_audit.states import require_checkpoints
from hamjepa_audit.tensors import write_tensors
from hamjepa_audit.training.loop import Trainer
from hamjepa_audit.training.model import Model, build_model


def save_checkpoint(model: Model, target: Path) -> None:
    """Writes all weights atomically; the same weights give the same bytes."""
    write_tensors(target, model.state_dict())


class CheckpointsAlong:
    """Keeps the checkpoints of some epochs before the last.

    While the run is trained they lie with its states: what the workflow deletes in a run's folder
    before it starts a run again may be needed to go on with it.

    Attributes:
        digests: SHA-256 of those that were written so far, by file name; states keep it.
    """

    def __init__(self, layout: Layout, run_id: str, epochs: Sequence[int]) -> None:
        self.digests: dict[str, str] = {}
        self._layout = layout
        self._run_id = run_id
        self._epochs = epochs

    def save_ended_epoch(self, trainer: Trainer) -> None:
        """Writes the checkpoint of the epoch that has just ended, if it is one of those."""
        ended = trainer.position.epoch - 1
        if trainer.position.index == 0 and ended in self._epochs:
            target = self._layout.unfinished_checkpoint(self._run_id, ended)
            save_checkpoint(trainer.model, target)
            self.digests[target.name] = sha256_file(target)

    def require(self, trainer: Trainer, digests: Mapping[str, str]) -> None:
        """Refuses to go on with a run whose earlier checkpoints are missing or changed.

        Args:
            trainer: set to the state that is gone on from.
            digests: those that the state names.

        Raises:
            UserError: one is missing, changed or damaged.
        """
        self.digests = dict(digests)
        for epoch in self._epochs:
            name = self._layout.checkpoint_along(self._run_id, epoch).name
            if epoch < trainer.position.epoch and name not in digests:
                raise UserError(
                    f"{self._run_id} can't go on in epoch {trainer.position.epoch}: its checkpoint "
                    f"of epoch {epoch} wasn't kept; delete {self._layout.state(self._run_id)}, "
                    f"and it starts anew"
                )
        require_checkpoints(self._layout, self._run_id, self.digests)

    def publish(self) -> list[Path]:
        """Moves the checkpoints to the run's folder, as far as they aren't there; all of them.

        Raises:
            UserError: one is missing, changed or damaged.
        """
        require_checkpoints(self._layout, self._run_id, self.digests)
        targets = [self._layout.checkpoint_along(self._run_id, epoch) for epoch in self._epochs]
        for epoch, target in zip(self._epochs, targets, strict=True):
            source = self._layout.unfinished_checkpoint(self._run_id, epoch)
            if source.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                source.replace(target)
        return targets


def load_model(run: RunParams, source: Path) -> Model:
    """The model of a run with the weights of a checkpoint, on the CPU.

    Raises:
        UserError: the file is missing, damaged, or holds another model.
    """
    model = build_model(run)
    try:
        model.load_state_dict(load_file(source))
    except FileNotFoundError as error:
        raise _missing(run, source) from error
    except (SafetensorError, OSError, RuntimeError) as error:
        raise UserError(
            f"{source} is not a readable checkpoint of this run ({first_line(error)}); "
            f"delete it and pretrain again"
        ) from error
    return model


def load_encoder(run: RunParams, source: Path, device: torch.device) -> TokenEncoder:
    """The frozen encoder of a checkpoint, in evaluation mode on a device."""
    encoder = load_model(run, source).to(device).encoder.eval()
    return encoder.requires_grad_(False)


def load_recorded_encoder(
    layout: Layout, run: RunParams, run_id: str, device: torch.device, epoch: int | None = None
) -> TokenEncoder:
    """The frozen encoder of a run's checkpoint; arguments and errors as `recorded_checkpoint`."""
    return load_encoder(run, recorded_checkpoint(layout, run, run_id, epoch), device)


def recorded_checkpoint(
    layout: Layout, run: RunParams, run_id: str, epoch: int | None = None
) -> Path:
    """The checkpoint of a run, which has the digest that the run's record names.

    Args:
        layout: where.
        run: its parameters.
        run_id: its name.
        epoch: that of a checkpoint along training; None: the last one.

    Raises:
        UserError: the run is not whole, or its record or checkpoint was changed or damaged.
    """
    if epoch is None:
        source = layout.checkpoint(run_id)
    else:
        source = layout.checkpoint_along(run_id, epoch)
    if not source.exists() or not layout.record(run_id).exists():
        raise _missing(run, source)
    files = read_record(layout, run_id)["files"]
    if source.name not in files:
        raise UserError(
            f"the record of {run_id} does not name {source.name}; delete the run's folder and "
            f"pretrain again"
        )
    recorded = files[source.name]
    found = sha256_file(source)
    if found != recorded:
        raise UserError(
            f"{source} has the SHA-256 {found}, but its run's record says {recorded}: it was "
            f"changed or damaged; fetch it again, or delete its folder and pretrain again"
        )
    return source


def _missing(run: RunParams, source: Path) -> UserError:
    return UserError(
        f"missing checkpoint {source} or its record; run: hamjepa-audit pretrain "
        f"--study {run.study} --arm {run.arm.name} --epochs {run.epochs} --seed {run.seed}"
    )
