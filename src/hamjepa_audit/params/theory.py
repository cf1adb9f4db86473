"""Parameters of the theorem checks: instances, tolerances, setups of the toy experiment."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from hamjepa_audit.params.base import Count, Fraction, NonNegative, Params, Positive, Seed
from hamjepa_audit.params.loading import read_params

Dimension = Annotated[int, Field(ge=2)]
Several = Annotated[tuple[Dimension, ...], Field(min_length=1)]
AtLeastOne = Annotated[float, Field(ge=1)]


class EllipsoidParams(Params):
    """Random symmetric positive definite H: `instances` of each dimension and condition number."""

    dimensions: Several
    condition_numbers: tuple[AtLeastOne, ...] = Field(min_length=1)
    instances: Count
    rank_one_limit: Fraction


class OptimiserParams(Params):
    """The direct optimisers; a Schatten norm of `norm_order` replaces the maximum."""

    dimensions: Several
    norm_order: Annotated[int, Field(ge=2)]


class TaskParams(Params):
    """Sampled downstream tasks."""

    dimensions: Several
    samples: Count


class GibbsParams(Params):
    """Draws of the Gibbs law: as many as give `coordinates` coordinates of q, at least one."""

    coordinates: Count


class SpectrumParams(Params):
    """Random spectra: `instances` of each order and concentration; points for the limits."""

    orders: Several
    concentrations: tuple[Positive, ...] = Field(min_length=1)
    instances: Count
    limit: Fraction
    large_order: Count
    participations: tuple[AtLeastOne, ...] = Field(min_length=1)


class MapParams(Params):
    """Leapfrog maps of random potentials."""

    dimensions: Several
    residual_scales: tuple[NonNegative, ...] = Field(min_length=1)
    stiffness: NonNegative
    hidden_width: Count
    hidden_layers: Count
    steps: Count
    step_size: Positive


class EnergyOrderParams(Params):
    """Increasing numbers of steps over the same horizon."""

    horizon: Positive
    steps: tuple[Count, ...] = Field(min_length=2)
    trajectories: Count


class LongRunParams(Params):
    """Energies over many steps, for every dimension with every residual scale."""

    steps: Count
    step_size: Positive
    record_every: Count
    dimensions: Several
    hidden_width: Count
    hidden_layers: Count
    residual_scales: tuple[NonNegative, ...] = Field(min_length=1)
    trajectories: Count


class PlanePotentialParams(Params):
    """V(q) = stiffness q^2/2 + quartic q^4/4 + sine (1 - cos(frequency q)) / frequency, q real."""

    stiffness: float = 0.0
    quartic: NonNegative = 0.0
    sine: float = 0.0
    frequency: Positive = 1.0


Point = tuple[float, float]
Spread = tuple[Positive, Positive]


class ToyTransportParams(Params):
    """Setups tried for the toy experiment: each potential with each centre and each spread.

    The `refined` setups nearest to the paper are measured again, with `refined_samples`.
    """

    tolerance: Fraction
    samples: Count
    refined: Count
    refined_samples: Count
    directions: Count
    shown: Count
    potentials: dict[str, PlanePotentialParams] = Field(min_length=1)
    centres: tuple[Point, ...] = Field(min_length=1)
    spreads: tuple[Spread, ...] = Field(min_length=1)


class DriftMapParams(Params):
    """A grid of `size` x `size` initial states over [-position, position] x [-momentum, ...]."""

    size: Annotated[int, Field(ge=2)]
    position: Positive
    momentum: Positive
    step_size: Positive
    steps: Count


class AreaParams(Params):
    """A disc of initial states, shown after some numbers of steps."""

    centre: Point
    radius: Positive
    points: Annotated[int, Field(ge=3)]
    step_size: Positive
    steps: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)


class ReversalParams(Params):
    """Initial states on a circle, integrated forward and back."""

    step_size: Positive
    steps: tuple[Count, ...] = Field(min_length=1)
    trajectories: Count
    radius: Positive


class DefectParams(Params):
    """Step sizes at which Jacobians are compared."""

    dimension: Dimension
    step_sizes: tuple[Positive, ...] = Field(min_length=1)
    steps: Count


class PictureParams(Params):
    """Parameters of the figures of the integrators."""

    pendulum: PlanePotentialParams
    drift: DriftMapParams
    area: AreaParams
    reversal: ReversalParams
    defect: DefectParams


class TheoryParams(Params):
    """All parameters of the theorem checks."""

    seed: Seed
    geometries: EllipsoidParams
    optimiser: OptimiserParams
    tasks: TaskParams
    gibbs: GibbsParams
    spectra: SpectrumParams
    maps: MapParams
    energy_order: EnergyOrderParams
    long_run: LongRunParams
    tolerances: dict[str, Positive]
    toy_transport: ToyTransportParams
    pictures: PictureParams


def load_theory(folder: Path) -> TheoryParams:
    """The parameters of the checks, from theory.yaml in the params folder.

    Raises:
        UserError: missing, not YAML, an unknown key, or a value of the wrong type or range.
    """
    return read_params(TheoryParams, folder / "theory.yaml")
