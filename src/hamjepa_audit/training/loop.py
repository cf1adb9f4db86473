"""Pretraining: one arm, one seed, from initial weights to the last step."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, get_total_norm

from hamjepa_audit.adamw import AdamW
from hamjepa_audit.data.views import random_views
from hamjepa_audit.errors import TrainingDivergedError, UserError
from hamjepa_audit.models.encoder import TokenEncoder, state_dimension
from hamjepa_audit.objectives.arms import ArmObjective, build_objective
from hamjepa_audit.params.studies import RunParams
from hamjepa_audit.randomness import Stream, epoch_order, generator
from hamjepa_audit.training.device import autocast
from hamjepa_audit.training.progress import TrainingProgress
from hamjepa_audit.training.schedule import learning_rate

VIEWS = 2
CHECK_EVERY_STEPS = 50
"""How often losses are fetched from the device and checked: fetching waits for the device."""

REMEDY = "nothing was written; lower optimisation.learning_rate or check the arm's weights"

EpochMeans = dict[str, float]


@dataclass
class Model:
    """What is trained: the encoder, and the objective with its predictor."""

    encoder: TokenEncoder
    objective: ArmObjective

    def to(self, device: torch.device) -> "Model":
        """Both on a device; convolutions run fastest with channels last."""
        self.encoder.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.objective.to(device)
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """All weights and BatchNorm statistics, contiguous on the CPU, by name."""
        parts = {"encoder": self.encoder, "objective": self.objective}
        return {
            f"{part}.{name}": value.detach().cpu().contiguous()
            for part, module in parts.items()
            for name, value in module.state_dict().items()
        }


@dataclass
class TrainingResult:
    """A trained model and what happened on the way."""

    model: Model
    history: list[EpochMeans]
    """Per epoch: means of the unweighted terms, `total`, `gradient_norm`, `learning_rate`."""
    epoch_seconds: list[float]


def build_model(run: RunParams) -> Model:
    """The model of a run with its initial weights, which only the seed and shapes decide."""
    encoder = TokenEncoder(run.encoder, run.arm.state, generator(Stream.ENCODER_WEIGHTS, run.seed))
    dimension = state_dimension(run.encoder, run.views.size)
    return Model(encoder, build_objective(run.arm.objective, dimension, run.seed))


def pretrain(
    run: RunParams, images: Tensor, device: torch.device, name: str, trial_steps: int | None = None
) -> TrainingResult:
    """Trains one run (protocol, "Optimisation").

    Args:
        run: its parameters.
        images: (N, 3, H, W) uint8 training images on `device`.
        device: where to compute.
        name: of the run, for messages.
        trial_steps: stop after this many steps; the schedule is that of the whole run.

    Raises:
        TrainingDivergedError: a loss term is not finite.
        UserError: fewer images than a batch.
    """
    trainer = Trainer(run, build_model(run).to(device), images, name)
    progress = TrainingProgress(f"{name} on {device}", run.epochs, trainer.steps_per_epoch)
    history, seconds = [], []
    try:
        for epoch in range(1, run.epochs + 1):
            started = time.monotonic()
            done = (epoch - 1) * trainer.steps_per_epoch
            steps = trainer.steps_per_epoch
            if trial_steps is not None:
                steps = min(steps, trial_steps - done)
            if steps <= 0:
                break
            means = trainer.epoch(epoch, steps, progress)
            seconds.append(time.monotonic() - started)
            history.append(means)
            views = VIEWS * run.optimisation.batch_size * steps
            progress.epoch(epoch, means, views / seconds[-1])
    finally:
        progress.close()
    return TrainingResult(trainer.model, history, seconds)


class Trainer:
    """The state of a training run between steps."""

    def __init__(self, run: RunParams, model: Model, images: Tensor, name: str) -> None:
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

    def epoch(self, epoch: int, steps: int, progress: TrainingProgress) -> EpochMeans:
        """The first `steps` steps of an epoch (from 1); means over them."""
        self.model.encoder.train()
        fetched: list[Tensor] = []
        pending: list[Tensor] = []
        for index, samples in enumerate(self._batches(epoch, steps)):
            try:
                pending.append(self.step(samples, epoch, index))
            except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
                # States that aren't finite may have no eigenvalues; the steps before say more.
                if pending:
                    self._require_finite(torch.stack(pending).cpu(), epoch, index - len(pending))
                raise TrainingDivergedError(
                    f"{self.name}: the log-det floor has no eigenvalues at epoch {epoch}, step "
                    f"{index + 1} of {self.steps_per_epoch}; {REMEDY}"
                ) from error
            progress.step()
            if len(pending) == CHECK_EVERY_STEPS or index == steps - 1:
                fetched.append(torch.stack(pending).cpu())
                self._require_finite(fetched[-1], epoch, index + 1 - len(pending))
                pending = []
        means = torch.cat(fetched).mean(dim=0).tolist()
        last_rate = self.optimiser.param_groups[0]["lr"]
        return dict(zip(self._columns(), means, strict=True)) | {"learning_rate": last_rate}

    def step(self, samples: Tensor, epoch: int, index: int) -> Tensor:
        """One optimiser step on samples (B,); terms, their sum, gradient norm, on the device."""
        step = (epoch - 1) * self.steps_per_epoch + index
        states = self._states(samples, epoch)
        terms = self.model.objective.terms(states, step, epoch)
        total = self.model.objective.total(terms)
        self.optimiser.zero_grad()
        total.backward()
        norm = self._clip()
        for group in self.optimiser.param_groups:
            group["lr"] = self._learning_rate(step, group["base_rate"])
        self.optimiser.step()
        return torch.stack([*(term.detach() for term in terms.values()), total.detach(), norm])

    def _states(self, samples: Tensor, epoch: int) -> Tensor:
        """States (V, B, D) float32 of two views of the sampled images, encoded as one batch."""
        rows = samples.repeat(VIEWS)
        which = torch.arange(VIEWS, device=rows.device).repeat_interleave(len(samples))
        views = random_views(
            self.images[rows], rows, self.run.views, self.run.seed, epoch, which
        ).contiguous(memory_format=torch.channels_last)
        with autocast(views.device, self.run.optimisation.gpu_precision):
            states: Tensor = self.model.encoder(views)
        return states.float().unflatten(0, (VIEWS, len(samples)))

    def _batches(self, epoch: int, steps: int) -> Iterator[Tensor]:
        """Sample indices (B,) of each step; what doesn't fill a batch is left out."""
        order = torch.from_numpy(epoch_order(self.run.seed, epoch, len(self.images)))
        size = self.run.optimisation.batch_size
        yield from order.to(self.images.device)[: steps * size].split(size)

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
        """What is clipped together, or, where nothing is, whose norm is recorded."""
        clipping = self.run.arm.clipping
        parameters = list(self.model.encoder.parameters())
        if clipping is None or clipping.scope == "encoder_and_predictor":
            parameters += self.model.objective.parameters()
        return parameters

    def _clip(self) -> Tensor:
        """Clips the gradient if the arm does; its norm before."""
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
            f"{self.steps_per_epoch}; {REMEDY}"
        )
