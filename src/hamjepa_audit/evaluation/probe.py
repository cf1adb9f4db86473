"""Linear probe on frozen features: LayerNorm, then a linear layer (protocol, "Evaluation")."""

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional

from hamjepa_audit.adamw import AdamW
from hamjepa_audit.cuda_graphs import Recording, recordable
from hamjepa_audit.errors import TrainingDivergedError
from hamjepa_audit.evaluation.accuracy import Accuracies, accuracies, label_ranks
from hamjepa_audit.evaluation.rows import Labelled, require_labelled
from hamjepa_audit.metrics import Measurement
from hamjepa_audit.params.arms import Readout
from hamjepa_audit.params.evaluation import TOP, ProbeParams
from hamjepa_audit.randomness import Stream, generator

LAYER_NORM_EPSILON = 1e-5
WEIGHTS, ORDER = 0, 1  # indices of the probe's two random streams


class ProbeWeights(NamedTuple):
    """logits = weight @ (scale * normalised + shift) + bias."""

    scale: Tensor
    """(D,), LayerNorm's gamma."""
    shift: Tensor
    """(D,), LayerNorm's beta."""
    weight: Tensor
    """(C, D)."""
    bias: Tensor
    """(C,)."""


class ProbeFit(NamedTuple):
    """A trained probe."""

    weights: ProbeWeights
    step_losses: Tensor
    """(steps,), mean cross-entropy of every step's batch before the update."""


def probe_measurements(
    readout: Readout, train: Labelled, test: Labelled, classes: int, params: ProbeParams
) -> list[Measurement]:
    """`linear_probe_top1` and, with at least five classes, `linear_probe_top5`, in percent.

    Both are of the last epoch. Initial weights and order of the rows depend only on `params.seed`
    and on the width and number of the features, so runs and readouts share them. Arguments are as
    in `knn_measurements`; the probe has the dtype of the features.

    Raises:
        UserError: features are not finite.
        TrainingDivergedError: the probe's loss became infinite or NaN.
    """
    require_labelled(train, classes, "training")
    require_labelled(test, classes, "test")
    count, width = train.features.shape
    initial = initial_weights(width, classes, generator(Stream.PROBE, params.seed, WEIGHTS))
    initial = ProbeWeights(*(tensor.to(train.features) for tensor in initial))
    orders = epoch_orders(count, params.epochs, generator(Stream.PROBE, params.seed, ORDER))
    fit = train_probe(train, initial, orders, params)
    found = probe_accuracies(fit.weights, test)
    rows = [Measurement(readout, "linear_probe_top1", 100 * found.top1, "percent")]
    if classes >= TOP:
        rows.append(Measurement(readout, "linear_probe_top5", 100 * found.top5, "percent"))
    return rows


def initial_weights(width: int, classes: int, generator: Generator) -> ProbeWeights:
    """PyTorch's defaults, float64: identity LayerNorm; weight then bias, uniform in +-1/sqrt(D)."""
    bound = 1 / math.sqrt(width)
    uniform = [
        2 * bound * torch.rand(shape, generator=generator, dtype=torch.float64) - bound
        for shape in ((classes, width), (classes,))
    ]
    scale = torch.ones(width, dtype=torch.float64)
    return ProbeWeights(scale, torch.zeros_like(scale), *uniform)


def epoch_orders(rows: int, epochs: int, generator: Generator) -> Tensor:
    """One permutation of the rows per epoch: (epochs, rows) int64 on the CPU."""
    return torch.stack([torch.randperm(rows, generator=generator) for _ in range(epochs)])


def train_probe(
    train: Labelled, initial: ProbeWeights, orders: Tensor, params: ProbeParams
) -> ProbeFit:
    """Trains a probe with AdamW on mini-batches; weight decay acts on all four tensors.

    Step t of T = epochs * ceil(N / batch_size) has the learning rate
    learning_rate * (1 + cos(pi t / T)) / 2; the last, partial batch of an epoch is kept.

    Args:
        train: N training rows, frozen.
        initial: initial weights, not modified; dtype and device of the features.
        orders: (epochs, N) int64, the order of the rows in every epoch.
        params: batch size, learning rate, betas and weight decay; `params.epochs` must be
            len(orders).

    Raises:
        ValueError: the shape of `orders` is not (params.epochs, N).
        TrainingDivergedError: a loss is not finite.
    """
    expected = (params.epochs, len(train.labels))
    if orders.shape != expected:
        raise ValueError(f"orders must be {expected}, got {tuple(orders.shape)}")
    rows = normalised(train.features)
    weights = ProbeWeights(*(tensor.detach().clone().requires_grad_() for tensor in initial))
    optimiser = AdamW(
        [{"params": weights, "lr": params.learning_rate}],
        betas=params.betas,
        weight_decay=params.weight_decay,
    )
    batches = [part for order in orders.to(rows.device) for part in order.split(params.batch_size)]
    losses = _trained(weights, optimiser, Labelled(rows, train.labels), batches, params)
    _require_finite(losses)
    return ProbeFit(ProbeWeights(*(tensor.detach() for tensor in weights)), losses)


def _trained(
    weights: ProbeWeights,
    optimiser: AdamW,
    rows: Labelled,
    batches: list[Tensor],
    params: ProbeParams,
) -> Tensor:
    """Updates the weights for each batch, indices (B,) of rows; returns the losses (steps,)."""

    def update(batch: Tensor) -> Tensor:
        logits = _logits(weights, rows.features[batch])
        loss = functional.cross_entropy(logits, rows.labels[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.detach()

    losses = rows.features.new_empty(len(batches))
    with recordable(losses.device):
        recording = Recording()
        for step, batch in enumerate(batches):
            rate = _cosine(params.learning_rate, step, len(batches))
            optimiser.set_rate(optimiser.param_groups[0], rate)
            whole = len(batch) == params.batch_size
            losses[step] = recording(update, [batch]) if whole else update(batch)
    return losses


def probe_accuracies(weights: ProbeWeights, test: Labelled) -> Accuracies:
    """Accuracies of a probe on test rows.

    Raises:
        TrainingDivergedError: the probe's outputs are not finite.
    """
    logits = _logits(weights, normalised(test.features))
    _require_finite(logits)  # all comparisons with NaN are false, so it would count as correct
    return accuracies(label_ranks(logits, test.labels))


def normalised(features: Tensor) -> Tensor:
    """LayerNorm without affine part: rows (N, D) get mean 0 and biased variance 1; eps 1e-5."""
    return functional.layer_norm(features, features.shape[1:], eps=LAYER_NORM_EPSILON)


def _logits(weights: ProbeWeights, rows: Tensor) -> Tensor:
    """Logits (B, C) of normalised rows (B, D).

    The features are frozen, so they are normalised once, and LayerNorm's affine part is folded
    into the linear layer: each step touches (C, D) numbers instead of (B, D), and no gradient of
    the rows is needed.
    """
    bias = torch.addmv(weights.bias, weights.weight, weights.shift)
    return functional.linear(rows, weights.weight * weights.scale, bias)


def _cosine(learning_rate: float, step: int, steps: int) -> float:
    return learning_rate * (1 + math.cos(math.pi * step / steps)) / 2


def _require_finite(values: Tensor) -> None:
    if not bool(values.isfinite().all()):
        raise TrainingDivergedError(
            "the linear probe stopped being finite; lower probe.learning_rate, "
            "or look at the features' norms"
        )
