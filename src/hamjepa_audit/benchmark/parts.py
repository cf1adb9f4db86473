"""The timed work: parts of a step, a whole step, evaluation, throughput, and its ceiling."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from hamjepa_audit.benchmark import plain
from hamjepa_audit.benchmark.timing import Repetition, Row, in_turns, row
from hamjepa_audit.cuda_graphs import Recording
from hamjepa_audit.data.views import random_views
from hamjepa_audit.errors import UserError
from hamjepa_audit.evaluation.features import plain_features
from hamjepa_audit.evaluation.knn import knn_accuracies
from hamjepa_audit.evaluation.probe import probe_measurements
from hamjepa_audit.evaluation.readouts import by_readout, readout
from hamjepa_audit.evaluation.rows import Labelled
from hamjepa_audit.model import build_model
from hamjepa_audit.objectives.floors import orthonormal_directions, projection_count
from hamjepa_audit.objectives.prediction import phase_space_prediction
from hamjepa_audit.params.arms import HamiltonianParams, PhaseSpaceObjectiveParams
from hamjepa_audit.params.base import Count, Name, Params
from hamjepa_audit.params.generated import JpegQuality
from hamjepa_audit.params.studies import RunParams
from hamjepa_audit.training.device import autocast
from hamjepa_audit.training.loop import VIEWS, Trainer

COUNTED = 2
"""Views whose FLOPs are counted: BatchNorm needs two, and more would raise the peak memory."""
CEILING_ROW = 16
"""Pixels per row of the images that represent a matrix."""

Work = Callable[[], object]
Loss = Callable[[Tensor], Tensor]


class EvaluationSize(Params):
    """Size of the timed evaluation, on random images."""

    train: Count
    test: Count
    classes: Count
    probe_epochs: Count


class Scaling(Params):
    """Settings that are varied, one at a time."""

    batch_sizes: tuple[Count, ...]
    widths: tuple[Count, ...]
    threads: tuple[Count, ...]


class PreparationSize(Params):
    """The folder of images that is prepared."""

    images: Annotated[int, Field(ge=20, multiple_of=20)]  # two classes, and a tenth of each
    distinct: Count
    sides: tuple[Count, Count]
    jpeg_quality: JpegQuality
    image_size: Count
    batch_size: Count


class BenchmarkParams(Params):
    """params/benchmark.yaml."""

    study: Name
    arm: Name
    batch_size: Annotated[int, Field(ge=2)]
    gpu_batch_size: Annotated[int, Field(ge=2)]
    repetition: Repetition
    images: Count
    evaluation: EvaluationSize
    ceiling_size: Annotated[int, Field(ge=CEILING_ROW, multiple_of=CEILING_ROW)]
    scaling: Scaling
    preparation: PreparationSize

    @model_validator(mode="after")
    def _images_fill_every_batch(self) -> Self:
        largest = max(self.batch_size, self.gpu_batch_size, *self.scaling.batch_sizes)
        if self.images < largest:
            raise ValueError(f"images is {self.images}, but a batch has {largest}: raise it")
        return self


class Bench:
    """The parts of one run, on random images."""

    def __init__(
        self,
        run: RunParams,
        params: BenchmarkParams,
        device: torch.device,
        compile_encoder: bool = False,
    ) -> None:
        self.run = run
        self.params = params
        self.device = device
        size = run.data.image_size
        source = torch.Generator().manual_seed(0)
        shape = (params.images, 3, size, size)
        self.images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=source).to(device)
        self.batch = run.optimisation.batch_size
        self.samples = torch.arange(self.batch, device=device)
        if compile_encoder:
            # PyTorch stops compiling a function after a few sizes of its inputs.
            torch.compiler.reset()
        model = build_model(run).moved_to(device)
        self.trainer = Trainer(run, model, self.images, "bench", compile_encoder=compile_encoder)
        self.setting = {
            "batch_size": self.batch,
            "width": run.encoder.width,
            "threads": torch.get_num_threads(),
        }

    def views(self) -> Tensor:
        """Two views of each image of a batch."""
        rows = self.samples.repeat(VIEWS)
        which = torch.arange(VIEWS, device=self.device).repeat_interleave(self.batch)
        return random_views(self.images[rows], rows, self.run.views, 0, 1, which)

    def step(self) -> None:
        """Runs one training step."""
        self.trainer.step(self.samples, self.images[self.samples], 1, 0)

    def step_seconds(self) -> float:
        """Median seconds of a training step."""
        self.trainer.model.encoder.train()
        return in_turns(self.device, self.params.repetition, step=self.step)["step"]


def objective_params(run: RunParams) -> tuple[PhaseSpaceObjectiveParams, HamiltonianParams]:
    """The leapfrog arm's parameters, which the plain implementation is written for.

    Raises:
        UserError: the arm's predictor is not a leapfrog map, or its stem not the CIFAR one.
    """
    objective = run.arm.objective
    if (
        not isinstance(objective, PhaseSpaceObjectiveParams)
        or not isinstance(objective.predictor, HamiltonianParams)
        or objective.predictor.kind != "leapfrog"
        or run.encoder.stem != "cifar"
    ):
        raise UserError(
            f"arm '{run.arm.name}' of study '{run.study}' can't be timed: the plain implementation "
            "has only a leapfrog arm with the CIFAR stem; choose hamjepa and cifar100"
        )
    return objective, objective.predictor


def compare_parts(bench: Bench) -> Iterator[Row]:
    """Views, predictor loss, objective and whole step, ours and plain (on a CPU)."""
    params, leapfrog = objective_params(bench.run)
    theirs = plain.PlainTrainer(bench.run, params, leapfrog, bench.images[: bench.batch])
    ours = bench.trainer.model.objective
    states, directions = _states_and_directions(bench, params)
    # As in training, large tensors have come and gone. Before, the C library may return the memory
    # of small ones to the system each time, which makes times vary by half.
    bench.step()

    def predictor_loss(x: Tensor) -> Tensor:
        return phase_space_prediction(x, ours.predictor, params.prediction, 1.0)  # type: ignore[arg-type]

    losses: dict[str, tuple[Loss, Loss]] = {
        "predictor loss": (
            predictor_loss,
            lambda x: plain.plain_prediction(x, theirs.potential, params),
        ),
        "objective": (
            lambda x: ours.total(ours.terms(x, 0, 10)),
            lambda x: plain.plain_objective(x, theirs.potential, directions, params),
        ),
    }
    yield from _compared(bench, "views", bench.views, theirs.views)
    for part, (audit_loss, plain_loss) in losses.items():
        works = (_backward(audit_loss, states), _backward(plain_loss, states))
        yield from _compared(bench, part, *works)
    yield from _compared(bench, "training step", bench.step, lambda: theirs.step(directions))


def _states_and_directions(
    bench: Bench, params: PhaseSpaceObjectiveParams
) -> tuple[Tensor, Tensor]:
    """Random states (V, B, 2d) and directions of the floors (2, d, k)."""
    dimension = bench.run.encoder.state_dimension(bench.run.views.size) // 2
    source = torch.Generator().manual_seed(2)
    states = torch.randn(VIEWS, bench.batch, 2 * dimension, generator=source)
    count = projection_count(params.logdet_floor.directions, dimension, states[..., 0].numel())
    drawn = [orthonormal_directions(dimension, count, source) for _ in range(2)]
    return states, torch.stack(drawn)


def _backward(loss: Loss, states: Tensor) -> Work:
    """A function that computes a loss and its gradients."""

    def work() -> None:
        loss(states.clone().requires_grad_()).backward()

    return work


def compare_evaluation(bench: Bench) -> Iterator[Row]:
    """Features, kNN and probe of three readouts: features extracted once, or per readout (CPU)."""
    size = bench.params.evaluation
    source = torch.Generator().manual_seed(1)
    shape = (size.train + size.test, 3, *bench.images.shape[-2:])
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=source)
    drawn = torch.randint(0, size.classes, (len(images),), generator=source)
    (train, test), labels = (rows.split([size.train, size.test]) for rows in (images, drawn))
    encoder = bench.trainer.model.encoder.eval()
    neighbours = bench.run.evaluation.knn.neighbours
    probe = bench.run.evaluation.probe.model_copy(update={"epochs": size.probe_epochs})
    plain_encoder = plain.PlainEncoder(bench.run.encoder).eval()
    transform = plain.evaluation_transform(bench.run.views)
    pictures = plain.pictures(images)

    def audit_work() -> None:
        states = [plain_features(encoder, bench.run, images) for images in (train, test)]
        for part, features in by_readout(bench.run.arm, *states):
            a, b = map(Labelled, features, labels)
            knn_accuracies(a, b, neighbours, size.classes)
            probe_measurements(part, a, b, size.classes, probe)

    @torch.no_grad()
    def features_again() -> Tensor:
        batches = torch.arange(len(pictures)).split(bench.run.evaluation.feature_batch_size)
        inputs = (torch.stack([transform(pictures[i]) for i in rows]) for rows in batches)
        return torch.cat([plain_encoder(x) for x in inputs])

    def plain_work() -> None:
        for part in bench.run.arm.readouts:
            features = readout(features_again(), part)
            a, b = features.split([size.train, size.test])
            plain.plain_knn(a, labels[0], b, neighbours, size.classes)
            plain.plain_probe(a, labels[0], b, size.classes, size.probe_epochs, probe.batch_size)

    yield from _compared(bench, "evaluation of three readouts", audit_work, plain_work)


def _compared(bench: Bench, part: str, audit_work: Work, plain_work: Work) -> Iterator[Row]:
    bench.trainer.model.encoder.train(part == "training step")
    taken = in_turns(bench.device, bench.params.repetition, audit=audit_work, plain=plain_work)
    for implementation, value in taken.items():
        yield row(part, implementation, value, "seconds", **bench.setting)
    yield row(part, "plain / audit", taken["plain"] / taken["audit"], "ratio", **bench.setting)


def throughput(bench: Bench) -> Iterator[Row]:
    """Views per second of whole steps, and FLOP/s of the encoder and of a matrix product."""
    taken = bench.step_seconds()
    yield row("end to end", "audit", VIEWS * bench.batch / taken, "views/s", **bench.setting)
    inputs = bench.views().contiguous(memory_format=torch.channels_last)
    recording = Recording()

    def encode() -> Tensor:
        return recording(partial(_encoded, bench, bench.trainer.encode), [inputs])

    encoding = in_turns(bench.device, bench.params.repetition, encode=encode)["encode"]
    counted = inputs[:COUNTED]
    with FlopCounterMode(display=False) as counter:
        _encoded(bench, bench.trainer.model.encoder, counted)
    flops = counter.get_total_flops() * len(inputs) / len(counted)
    part = "encoder, forward and backward"
    yield row(part, "audit", flops / encoding, "FLOP/s", **bench.setting)
    yield row("matrix product", "ceiling", ceiling(bench), "FLOP/s", **bench.setting)


def _encoded(bench: Bench, encode: Callable[[Tensor], Tensor], views: Tensor) -> Tensor:
    """A loss of the states of views, whose gradients are computed, too."""
    with autocast(bench.device, bench.run.optimisation.gpu_precision):
        states = encode(views)
    loss = states.float().square().sum()
    torch.autograd.grad(loss, list(bench.trainer.model.encoder.parameters()))
    return loss.detach()


def ceiling(bench: Bench) -> float:
    """FLOP/s of a square matrix product in the encoder's precision.

    The faster of the product itself and the same product as a 1x1 convolution: on a CPU they use
    different libraries, MKL and oneDNN, and on some CPUs the second is faster.
    """
    size = bench.params.ceiling_size
    half = bench.device.type == "cuda" and bench.run.optimisation.gpu_precision == "bf16"
    dtype = torch.bfloat16 if half else torch.float32
    matrix = torch.ones(size, size, device=bench.device, dtype=dtype)
    images = matrix.T.reshape(1, size, size // CEILING_ROW, CEILING_ROW)
    images = images.contiguous(memory_format=torch.channels_last)
    kernels = matrix[:, :, None, None].contiguous(memory_format=torch.channels_last)
    taken = in_turns(
        bench.device,
        bench.params.repetition,
        product=lambda: matrix @ matrix,
        convolution=lambda: functional.conv2d(images, kernels),
    )
    return 2 * size**3 / min(taken.values())
