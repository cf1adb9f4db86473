"""A run's intermediate checkpoints: kept with its states, then moved to its folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from hamjepa_audit.bookkeeping.states import require_checkpoints
from hamjepa_audit.checkpoints import save_checkpoint
from hamjepa_audit.errors import UserError
from hamjepa_audit.files import sha256_file
from hamjepa_audit.layout import Layout
from hamjepa_audit.training.loop import Trainer


class CheckpointsAlong:
    """Keeps the checkpoints of some epochs before the last.

    During training they are stored with the run's states. The workflow deletes files in a run's
    folder before it restarts the run, and the resumed run may need the checkpoints.

    Attributes:
        digests: SHA-256 of the checkpoints written so far, by file name; saved in states.
    """

    def __init__(self, layout: Layout, run_id: str, epochs: Sequence[int]) -> None:
        self.digests: dict[str, str] = {}
        self._layout = layout
        self._run_id = run_id
        self._epochs = epochs

    def save_ended_epoch(self, trainer: Trainer) -> None:
        """Writes the checkpoint of the epoch that has just ended, if it is to be kept."""
        ended = trainer.position.epoch - 1
        if trainer.position.index == 0 and ended in self._epochs:
            target = self._layout.unfinished_checkpoint(self._run_id, ended)
            save_checkpoint(trainer.model, target)
            self.digests[target.name] = sha256_file(target)

    def require(self, trainer: Trainer, digests: Mapping[str, str]) -> None:
        """Checks that a run has its earlier checkpoints, as in the state that it is resumed from.

        Raises:
            UserError: one is missing, changed or damaged.
        """
        self.digests = dict(digests)
        for epoch in self._epochs:
            name = self._layout.checkpoint_along(self._run_id, epoch).name
            if epoch < trainer.position.epoch and name not in digests:
                raise UserError(
                    f"{self._run_id} can't resume in epoch {trainer.position.epoch}: its "
                    f"checkpoint of epoch {epoch} wasn't kept; delete "
                    f"{self._layout.state(self._run_id)}, so that it starts over"
                )
        require_checkpoints(self._layout, self._run_id, self.digests)

    def publish(self) -> list[Path]:
        """Moves the checkpoints that aren't there yet to the run's folder; returns all paths.

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
