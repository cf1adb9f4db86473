"""Pretraining of one arm with one seed, from initial weights to the last step."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, get_total_norm

from hamjepa_audit.adamw import AdamW
from hamjepa_audit.cuda_graphs import Recording, can_record, recordable
from hamjepa_audit.data.streaming import BatchImages, StreamedImages, batches
from hamjepa_audit.data.view_draws import EpochDraws
from hamjepa_audit.data.views import random_views
from hamjepa_audit.errors import TrainingDivergedError, UserError
from hamjepa_audit.model import Model, build_model
from hamjepa_audit.params.studies import RunParams
from hamjepa_audit.randomness import epoch_order
from hamjepa_audit.training.compilation import compiled
from hamjepa_audit.training.device import autocast
from hamjepa_audit.training.distributed import ALONE, Ranks
from hamjepa_audit.training.position import EpochMeans, Position
from hamjepa_audit.training.progress import TrainingProgress
from hamjepa_audit.training.recomputation import recompute_large_activations
from hamjepa_audit.training.schedule import learning_rate

VIEWS = 2
CHECK_EVERY_STEPS = 50
"""How often losses are fetched from the device and checked; fetching synchronises with it."""

Hook = Callable[["Trainer"], None]
"""A callback between two training steps."""


@dataclass
class TrainingResult:
    """A trained model and the history of its training."""

    model: Model
    history: list[EpochMeans]
    """Per epoch: means of the unweighted terms, `total`, `gradient_norm`, `learning_rate`."""
    epoch_seconds: list[float]
    data_wait_share: float | None = None
    """Share of training time that the device waited for images, summed over epochs from the rank
    that waited longest in each; None if the images stay on the device."""


def pretrain(
    run: RunParams,
    images: Tensor | StreamedImages,
    device: torch.device,
    name: str,
    trial_steps: int | None = None,
    restore: Hook | None = None,
    after_step: Sequence[Hook] = (),
    ranks: Ranks = ALONE,
    compile_encoder: bool = False,
) -> TrainingResult:
    """Trains one run (protocol, "Optimisation").

    Args:
        run: the run's parameters.
        images: (N, 3, H, W) uint8 training images on `device`, or N images streamed to it.
        device: where to compute.
        name: the run's name in messages.
        trial_steps: stop after this many steps; the schedule is still that of the whole run.
        restore: restores the new trainer to the state where an earlier process left off.
        after_step: called in this order after every step, with `Trainer.position` already at the
            next step: at the end of an epoch, its means are in the history.
        ranks: the processes that train together; each of them calls this.
        compile_encoder: whether to compile the encoder, on a GPU only; changes only rounding.

    Raises:
        TrainingDivergedError: a loss term is not finite.
        UserError: there are fewer images than a batch.
    """
    with recordable(device):
        model = build_model(run).moved_to(device)
        trainer = Trainer(run, model, images, name, ranks, compile_encoder)
        if restore is not None:
            restore(trainer)
        trainer.train(trainer.total_steps if trial_steps is None else trial_steps, after_step)
    position = trainer.position
    return TrainingResult(
        trainer.model, position.history, position.epoch_seconds, trainer.data_wait_share()
    )


class Trainer:
    """The state of a training run between steps."""

    def __init__(
        self,
        run: RunParams,
        model: Model,
        images: Tensor | StreamedImages,
        name: str,
        ranks: Ranks = ALONE,
        compile_encoder: bool = False,
    ) -> None:
        if ranks.count == 1:
            recompute_large_activations(model.encoder, run, VIEWS * run.optimisation.batch_size)
        ranks.convert(model.encoder)
        self.ranks = ranks
        self.run = run
        self.model = model
        self.images = images
        self.name = name
        self.steps_per_epoch = len(images) // run.optimisation.batch_size
        if self.steps_per_epoch == 0:
            raise UserError(
                f"{name}: optimisation.batch_size is {run.optimisation.batch_size} but there are "
                f"{len(images)} training images; lower it in params/studies/{run.study}.yaml"
            )
        self.total_steps = run.epochs * self.steps_per_epoch
        self.warmup_steps = run.optimisation.warmup_epochs * self.steps_per_epoch
        self.optimiser = self._optimiser()
        self.clipped = self._clipped_parameters()
        self.position = Position(values=torch.empty(0, len(self._columns())))
        self._pending: list[Tensor] = []
        self._waited_before = 0.0
        # Other images are streamed, and may differ in size, on which their draws depend.
        self._draws = EpochDraws(run, images, VIEWS) if isinstance(images, Tensor) else None
        weights = next(model.encoder.parameters())
        self.device = weights.device
        self._precision = torch.promote_types(weights.dtype, torch.float32)
        self._dimension = run.encoder.state_dimension(run.views.size)
        self._recorded = can_record(self.device) and ranks.count == 1
        self._recording = Recording()
        self.encode = compiled(model.encoder) if compile_encoder else model.encoder
        self._compiles = compile_encoder  # in the first step

    @property
    def steps_done(self) -> int:
        """Optimiser steps so far."""
        return (self.position.epoch - 1) * self.steps_per_epoch + self.position.index

    def parameters(self) -> list[torch.nn.Parameter]:
        """The trained parameters, in the optimiser's order."""
        return [parameter for group in self.optimiser.param_groups for parameter in group["params"]]

    def train(self, steps: int, after_step: Sequence[Hook]) -> None:
        """Trains until `steps` steps of the run are done, or all of them; shows progress."""
        limit = min(steps, self.total_steps)
        progress = TrainingProgress(
            f"{self.name} on {self.ranks.label(self.device)}", self.run.epochs,
            self.steps_per_epoch, self.steps_done, quiet=not self.ranks.first,
        )  # fmt: skip
        try:
            while self.steps_done < limit:
                left = limit - self.steps_done + self.position.index
                self.train_epoch(min(left, self.steps_per_epoch), progress, after_step)
                if (share := self.data_wait_share()) is not None:
                    progress.say(f"the device waited for images {share:.1%} of the time so far")
        finally:
            progress.close()

    def train_epoch(
        self, steps: int, progress: TrainingProgress, after_step: Sequence[Hook] = ()
    ) -> None:
        """Trains the current epoch from the current position up to `steps` steps, and ends it."""
        self.model.encoder.train()
        position = self.position
        started = time.monotonic() - position.seconds
        order = self._batches(position.epoch, steps)[position.index :]
        for samples, images in batches(self.images, [self.ranks.share(x) for x in order]):
            self._pending.append(self.step(samples, images, position.epoch, position.index))
            if self._compiles:
                self._compiles, started = False, time.monotonic() - position.seconds
            position.index += 1
            progress.step()
            if len(self._pending) == CHECK_EVERY_STEPS or position.index == steps:
                self.fetch()
            position.seconds = time.monotonic() - started
            if position.index == steps:
                self._end_epoch(progress)
            for hook in after_step:
                hook(self)

    def fetch(self) -> None:
        """Fetches the last steps' values from the device, and checks that they are finite."""
        if not self._pending:
            return
        values = torch.stack(self._pending).cpu()
        self._pending = []
        self._require_finite(values, self.position.epoch, self.position.index - len(values))
        self.position.values = torch.cat([self.position.values, values])
        if isinstance(self.images, StreamedImages):
            waited = self.images.waited.seconds()
            self.position.waited += waited - self._waited_before
            self._waited_before = waited

    def data_wait_share(self) -> float | None:
        """Share of the run's time so far that the device waited for streamed images."""
        position = self.position
        seconds = sum(position.epoch_seconds) + position.seconds
        return position.waited / seconds if isinstance(self.images, StreamedImages) else None

    def _end_epoch(self, progress: TrainingProgress) -> None:
        """Adds the epoch's means to the history, and moves on to the next epoch's first step."""
        position = self.position
        means = dict(zip(self._columns(), position.values.mean(dim=0).tolist(), strict=True))
        means["learning_rate"] = self.optimiser.param_groups[0]["lr"]
        position.history.append(means)
        position.epoch_seconds.append(position.seconds)
        position.waited = self.ranks.largest(position.waited)
        views = VIEWS * self.run.optimisation.batch_size * position.index
        progress.epoch(position.epoch, means, views / position.seconds)
        position.epoch, position.index, position.seconds = position.epoch + 1, 0, 0.0
        position.values = position.values[:0]

    def step(self, samples: Tensor, images: BatchImages, epoch: int, index: int) -> Tensor:
        """Runs one optimiser step; returns terms, their sum and the gradient norm, on the device.

        Args:
            samples: (B,) indices of this rank's samples, on the device.
            images: the samples' images.
            epoch: from 1.
            index: index of the step in its epoch, from 0.
        """
        step = (epoch - 1) * self.steps_per_epoch + index
        for group in self.optimiser.param_groups:
            self.optimiser.set_rate(group, self._learning_rate(step, group["base_rate"]))
        objective = self.model.objective
        shape = torch.Size((VIEWS, self.ranks.count * len(samples), self._dimension))
        draws = objective.draws(shape, step, samples.device, self._precision)
        ramp = self._as_input(objective.ramp(epoch))

        def update(
            samples: Tensor, images: BatchImages, ramp: float | Tensor, *draws: Tensor
        ) -> Tensor:
            return self._update(self._states(samples, images, epoch), draws, ramp)

        if self._draws is None or not isinstance(images, Tensor) or not self._recorded:
            return update(samples, images, ramp, *draws)
        # In the memory that a recorded step reads, which needs `epoch` for nothing else.
        self._draws.all(epoch)
        assert isinstance(ramp, Tensor)
        return self._recording(update, (samples, images, ramp, *draws))

    def _as_input(self, number: float) -> float | Tensor:
        """A number that changes between steps, in a tensor where steps may be recorded."""
        can = can_record(self.device)
        return torch.full((), number, device=self.device) if can else number

    def _update(self, states: Tensor, draws: Sequence[Tensor], ramp: float | Tensor) -> Tensor:
        """Updates the weights for states of this rank; returns what `step` returns."""
        objective = self.model.objective
        terms = objective.terms_given(self.ranks.gather(states), draws, ramp)
        total = objective.total(terms)
        self.optimiser.zero_grad()
        total.backward()
        self.ranks.sum_gradients(self.model.encoder, objective)
        norm = self._clip()
        self.optimiser.step()
        return torch.stack([*(terms[name] for name in objective.weights), total, norm]).detach()

    def _states(self, samples: Tensor, images: BatchImages, epoch: int) -> Tensor:
        """States (V, B, D), at least float32, of two views per image, encoded as one batch."""
        rows = samples.repeat(VIEWS)
        twice = torch.arange(len(samples), device=rows.device).repeat(VIEWS)
        which = torch.arange(VIEWS, device=rows.device).repeat_interleave(len(samples))
        draws = None if self._draws is None else self._draws.of(rows, epoch, which)
        views = random_views(
            images[twice], rows, self.run.views, self.run.seed, epoch, which, draws
        ).contiguous(memory_format=torch.channels_last)
        with autocast(views.device, self.run.optimisation.gpu_precision):
            states: Tensor = self.encode(views)
        return states.to(self._precision).unflatten(0, (VIEWS, len(samples)))

    def _batches(self, epoch: int, steps: int) -> Sequence[Tensor]:
        """Sample indices (B,) of each step, on the CPU; an incomplete last batch is dropped."""
        order = torch.from_numpy(epoch_order(self.run.seed, epoch, len(self.images)))
        size = self.run.optimisation.batch_size
        return order[: steps * size].split(size)

    def _optimiser(self) -> AdamW:
        """AdamW with weight decay on everything, BatchNorm and biases included."""
        params = self.run.optimisation
        rate = params.learning_rate
        rates = [(list(self.model.encoder.parameters()), rate)]
        predictor = list(self.model.objective.parameters())
        if predictor:
            rates.append((predictor, self.run.arm.predictor_learning_rate or rate))
        groups = [{"params": part, "base_rate": base, "lr": base} for part, base in rates]
        return AdamW(groups, betas=params.betas, weight_decay=params.weight_decay)

    def _learning_rate(self, step: int, base: float) -> float:
        params = self.run.optimisation
        floor = params.learning_rate * params.final_factor
        return learning_rate(
            step, self.total_steps, self.warmup_steps, base, params.warmup_start_factor, floor
        )

    def _clipped_parameters(self) -> list[torch.nn.Parameter]:
        """The parameters that are clipped together, or without clipping, whose norm is recorded."""
        clipping = self.run.arm.clipping
        parameters = list(self.model.encoder.parameters())
        if clipping is None or clipping.scope == "encoder_and_predictor":
            parameters += self.model.objective.parameters()
        return parameters

    def _clip(self) -> Tensor:
        """Clips the gradient if the arm asks for it; returns its norm before clipping."""
        if self.run.arm.clipping is not None:
            return clip_grad_norm_(self.clipped, self.run.arm.clipping.maximum_norm)
        return get_total_norm([x.grad for x in self.clipped if x.grad is not None])

    def _columns(self) -> list[str]:
        return [*self.model.objective.weights, "total", "gradient_norm"]

    def _require_finite(self, values: Tensor, epoch: int, first_index: int) -> None:
        broken = (~values.isfinite()).nonzero()
        if len(broken) == 0:
            return
        row, column = broken[0].tolist()
        term, value = self._columns()[column], float(values[row, column])
        raise TrainingDivergedError(
            f"{self.name}: {term} is {value} at epoch {epoch}, step {first_index + row + 1} of "
            f"{self.steps_per_epoch}; nothing was written; lower optimisation.learning_rate or "
            "check the arm's weights"
        )
