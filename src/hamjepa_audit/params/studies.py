"""Parameters of a study: data, encoder, views, optimisation, evaluation, arms, epochs, seeds."""

from operator import attrgetter
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, model_validator

from hamjepa_audit.errors import nearest
from hamjepa_audit.params.arms import ArmParams
from hamjepa_audit.params.base import (
    Betas,
    Count,
    Fraction,
    Name,
    NonNegative,
    Params,
    Positive,
    Probability,
    Seed,
    distinct,
)
from hamjepa_audit.params.evaluation import TOP, EvaluationParams
from hamjepa_audit.params.sources import Source

ColourTriple = tuple[Probability, Probability, Probability]
"""Of the channels, whose values are from 0 to 1."""

StrengthRange = tuple[Positive, Positive]

_P = TypeVar("_P", bound=Params)


class EncoderParams(Params):
    """ResNet-18 up to stage 3, 1x1 convolution to tokens, BatchNorm.

    The width is at least 8: with fewer channels, oneDNN's 1x1 convolutions write out of bounds of
    their gradient on CPUs with AVX2 but not AVX-512 (PyTorch 2.14, channels last).
    """

    stem: Literal["cifar", "imagenet"]
    width: Annotated[int, Field(ge=8)]
    token_channels: Annotated[int, Field(ge=2, multiple_of=2)]
    token_grid: Count | None

    def state_dimension(self, image_size: int) -> int:
        """Length 2d of a state for images of `image_size` pixels."""
        grid = self.token_grid
        if grid is None:
            # Two strided stages, and two more halvings in the ImageNet stem; sizes round up.
            halvings = 2 if self.stem == "cifar" else 4
            grid = -(-image_size // 2**halvings)
        return grid * grid * self.token_channels


class JitterParams(Params):
    """Colour jitter: strengths as in torchvision's ColorJitter."""

    brightness: Annotated[float, Field(ge=0, le=1)]
    contrast: Annotated[float, Field(ge=0, le=1)]
    saturation: Annotated[float, Field(ge=0, le=1)]
    hue: Annotated[float, Field(ge=0, le=0.5)]
    probability: Probability


class BlurParams(Params):
    """Gaussian blur; sigma in pixels, uniform in its range."""

    kernel_size: Annotated[int, Field(ge=3)]
    sigma: StrengthRange
    probability: Probability

    @model_validator(mode="after")
    def _kernel_is_odd(self) -> Self:
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {self.kernel_size}")
        return _ordered(self, self.sigma, "sigma")


class SolarizeParams(Params):
    """Inversion of values at or above `threshold`, on a scale of 0 to 255."""

    threshold: Annotated[float, Field(ge=0, le=255)]
    probability: Probability


class ViewParams(Params):
    """Random views for training, and the plain view for evaluation."""

    size: Count
    crop_scale: tuple[Fraction, Fraction]
    crop_ratio: StrengthRange
    flip_probability: Probability
    jitter: JitterParams
    grayscale_probability: Probability
    blur: BlurParams
    solarize: SolarizeParams
    mean: ColourTriple
    std: tuple[Fraction, Fraction, Fraction]

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> Self:
        largest = 2 * self.size - 1
        if self.blur.kernel_size > largest:
            raise ValueError(
                f"blur.kernel_size is {self.blur.kernel_size}: at most {largest} for views of "
                f"{self.size} pixels, whose borders it reflects"
            )
        _ordered(self, self.crop_ratio, "crop_ratio")
        return _ordered(self, self.crop_scale, "crop_scale")


def _ordered(params: _P, bounds: tuple[float, float], name: str) -> _P:
    if bounds[0] > bounds[1]:
        raise ValueError(f"{name} must be [low, high], got {list(bounds)}")
    return params


class OptimisationParams(Params):
    """AdamW with per-step linear warm-up and cosine decay."""

    batch_size: Annotated[int, Field(ge=2)]
    learning_rate: Positive
    weight_decay: NonNegative
    betas: Betas
    warmup_epochs: Annotated[int, Field(ge=0)]
    warmup_start_factor: Fraction
    final_factor: Annotated[float, Field(ge=0, le=1)]
    gpu_precision: Literal["bf16", "fp32"]


class GainParams(Params):
    """The arms and accuracies that define the gain: method minus baseline."""

    baseline: Name
    method: Name
    accuracies: Annotated[tuple[str, ...], Field(min_length=1), distinct()]


class StatisticsParams(Params):
    """How results are summarised over seeds."""

    confidence: Annotated[float, Field(gt=0, lt=1)]
    gain: GainParams


class ResumptionParams(Params):
    """How often a run saves a state to resume from; neither numbers nor run ids depend on it.

    Attributes:
        state_every_minutes: a state older than this is followed by another one.
        epoch_end_after_seconds: at the end of an epoch, a state older than this is.
    """

    state_every_minutes: Positive
    epoch_end_after_seconds: NonNegative


class StreamingParams(Params):
    """What is expected of streamed images; neither numbers nor run ids depend on it."""

    largest_wait_share: Fraction


class CheckpointParams(Params):
    """Epochs whose checkpoints are kept and measured besides the last; not part of run ids."""

    every_epochs: Count | None

    def epochs_before(self, last: int) -> tuple[int, ...]:
        """Epochs of the intermediate checkpoints of a run of `last` epochs, without the last."""
        step = last if self.every_epochs is None else self.every_epochs
        return tuple(range(step, last, step))


class StudyParams(Params):
    """A data set, a protocol, and the runs made with them.

    `figure_arms` are shown in figures with one line per arm; by default all arms.
    """

    name: Name
    title: str
    data: Source
    encoder: EncoderParams
    views: ViewParams
    optimisation: OptimisationParams
    evaluation: EvaluationParams
    statistics: StatisticsParams
    resumption: ResumptionParams
    streaming: StreamingParams
    checkpoints: CheckpointParams
    gpus: Count
    compile_on_gpu: bool
    arms: Annotated[tuple[ArmParams, ...], Field(min_length=1), distinct(attrgetter("name"))]
    figure_arms: tuple[Name, ...] | None = None
    epochs: Annotated[tuple[Count, ...], Field(min_length=1), distinct()]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), distinct()]

    @property
    def arm_names(self) -> list[str]:
        """The names of the arms."""
        return [arm.name for arm in self.arms]

    @property
    def arm_titles(self) -> dict[str, str]:
        """The titles of the arms by name."""
        return {arm.name: arm.title for arm in self.arms}

    @property
    def drawn_arms(self) -> list[str]:
        """The arms shown in figures with one line per arm."""
        return list(self.figure_arms or self.arm_names)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        warmup, shortest = self.optimisation.warmup_epochs, min(self.epochs)
        if warmup >= shortest:
            raise ValueError(
                f"optimisation.warmup_epochs is {warmup} but a run has {shortest} epochs: "
                f"the warm-up must be shorter than the run; set optimisation.warmup_epochs lower"
            )
        if self.views.size > self.data.image_size:
            raise ValueError(
                f"views.size is {self.views.size} but images have {self.data.image_size} pixels "
                f"(data.image_size): views can't be larger"
            )
        for arm in self.figure_arms or ():
            if arm not in self.arm_names:
                raise ValueError(f"figure_arms has '{arm}': {nearest(arm, self.arm_names)}")
        return self

    @model_validator(mode="after")
    def _accuracies_are_measured(self) -> Self:
        measured = self.evaluation.accuracies(TOP)  # too few classes are told by `data_digest`
        for accuracy in self.statistics.gain.accuracies:
            if accuracy not in measured:
                raise ValueError(
                    f"statistics.gain.accuracies has '{accuracy}', which is not measured: name "
                    f"another, or change evaluation.knn; {nearest(accuracy, measured)}"
                )
        return self

    @model_validator(mode="after")
    def _titles_differ(self) -> Self:
        for title in self.arm_titles.values():
            alike = [arm.name for arm in self.arms if arm.title == title]
            if len(alike) > 1:
                raise ValueError(
                    f"the arms {', '.join(alike)} have the same title '{title}': give each its own"
                )
        return self


class RunParams(Params):
    """All parameters of one run: one arm, one number of epochs, one seed of a study."""

    study: Name
    data: Source
    encoder: EncoderParams
    views: ViewParams
    optimisation: OptimisationParams
    evaluation: EvaluationParams
    arm: ArmParams
    epochs: Count
    seed: Seed

    def training_content(self) -> dict[str, Any]:
        """The parameters that, with the data, determine a run's numbers: no names, no titles."""
        content = self.model_dump(
            mode="json", include={"encoder", "views", "optimisation", "epochs", "seed"}
        )
        return content | {"arm": self.arm.model_dump(mode="json", exclude={"name", "title"})}
