"""Parameters of an arm: the form of the state, the predictor, the objective, the clipping."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hamjepa_audit.params.base import (
    Count,
    Fraction,
    Name,
    NonNegative,
    Params,
    Positive,
    Title,
)

Readout = Literal["q", "p", "qp", "all"]
Integrator = Literal["leapfrog", "symplectic_euler", "euler"]
State = Literal["phase_space", "joint", "rectified"]
"""Respectively: [q; p]; a vector without parts; the same after a ReLU."""


class ForceParams(Params):
    """Force -(stiffness q + r g(q)), g an MLP with GELU; r ramps up linearly by epoch."""

    stiffness: NonNegative
    hidden_width: Count
    hidden_layers: Count
    residual_scale: NonNegative
    residual_ramp_epochs: Annotated[int, Field(ge=0)]


class PotentialParams(ForceParams):
    """V(q) = stiffness/2 |q|^2 + r f(q), f an MLP with GELU; r ramps up linearly by epoch.

    If `trained` is false, f keeps its random initial weights.
    """

    trained: bool


class HamiltonianParams(Params):
    """Numerical flow of the separable Hamiltonian |p|^2/2 + V(q); `kind` names the integrator.

    Leapfrog (half kick, drift, half kick) is symplectic and of order two; symplectic Euler (kick,
    then drift with the new momentum) of order one. Euler (both from the old state) is of order one
    and not symplectic.
    """

    steps: Count
    step_size: Positive
    potential: PotentialParams
    kind: Integrator


class AdditiveCouplingParams(Params):
    """Leapfrog with a force that need not be a gradient: preserves volume, is not Hamiltonian."""

    kind: Literal["additive_coupling"]
    steps: Count
    step_size: Positive
    force: ForceParams


class ResidualMLPParams(Params):
    """s <- s + step_scale * g(s, direction), `steps` times with one set of weights."""

    kind: Literal["residual_mlp"]
    steps: Count
    hidden_width: Count
    hidden_layers: Count
    step_scale: Positive


class IdentityParams(Params):
    """The prediction is the state itself."""

    kind: Literal["identity"]


Predictor = Annotated[
    HamiltonianParams | AdditiveCouplingParams | ResidualMLPParams | IdentityParams,
    Field(discriminator="kind"),
]


class PredictionParams(Params):
    """How a predicted state is compared with the other view's."""

    matching: Literal["q", "qp"]
    momentum_weight: NonNegative
    backward: Literal["time_reversed", "forward"]


class BudgetParams(Params):
    """Targets of the mean squared coordinates."""

    weight: NonNegative
    q_target: Positive
    p_target: Positive


class VarianceFloorParams(Params):
    """Floor of the standard deviation of each coordinate."""

    weight: NonNegative
    minimum_std: Positive
    epsilon: Positive
    parts: tuple[Literal["q", "p"], ...] = Field(min_length=1)


class SpectralLimits(Params):
    """Limits on the spectrum of the projected covariance of one half of the state."""

    minimum_logdet: float
    minimum_participation: Annotated[float, Field(ge=0, le=1)]
    maximum_top_share: Fraction


class LogDetFloorParams(Params):
    """Log-det floor with participation and top-eigenvalue terms, on a random projection."""

    weight: NonNegative
    directions: Count
    ridge: Positive
    redraw_every_steps: Count
    q: SpectralLimits
    p: SpectralLimits


class MeanPenaltyParams(Params):
    """Penalty on the squared batch mean of each coordinate."""

    weight: NonNegative


class PhaseSpaceObjectiveParams(Params):
    """HamJEPA's objective."""

    kind: Literal["phase_space"]
    predictor: Predictor
    prediction: PredictionParams
    budget: BudgetParams
    variance_floor: VarianceFloorParams
    logdet_floor: LogDetFloorParams
    mean_penalty: MeanPenaltyParams


class SIGRegObjectiveParams(Params):
    """LeJEPA's objective: prediction of the views' mean, SIGReg on each view.

    The prediction has the weight 1, as in the paper, or 1 - weight, as in LeJEPA.
    """

    kind: Literal["sigreg"]
    weight: NonNegative
    prediction_weight: NonNegative
    directions: Count
    knots: Annotated[int, Field(ge=2)]
    maximum_frequency: Positive

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        rest = 1 - self.weight
        if self.prediction_weight != 1 and not math.isclose(self.prediction_weight, rest):
            raise ValueError(
                f"prediction_weight is {self.prediction_weight:g} but weight is {self.weight:g}: "
                f"give it 1 (the paper's) or 1 - weight = {rest:g} (LeJEPA's)"
            )
        return self


class VICRegObjectiveParams(Params):
    """VICReg: invariance, a hinge on each coordinate's standard deviation, decorrelation."""

    kind: Literal["vicreg"]
    invariance_weight: NonNegative
    variance_weight: NonNegative
    covariance_weight: NonNegative
    minimum_std: Positive
    epsilon: Positive


class RDMRegObjectiveParams(Params):
    """Rectified LpJEPA: invariance, sliced Wasserstein to a rectified generalised Gaussian.

    The target's coordinates are ReLU(x), x of density proportional to
    exp(-|x - location|^shape / (shape scale^shape)).
    """

    kind: Literal["rdmreg"]
    weight: NonNegative
    directions: Count
    shape: Positive
    location: float
    scale: Positive


Objective = Annotated[
    PhaseSpaceObjectiveParams
    | SIGRegObjectiveParams
    | VICRegObjectiveParams
    | RDMRegObjectiveParams,
    Field(discriminator="kind"),
]


class ClippingParams(Params):
    """Gradient clipping by global norm; scope `encoder` neither clips nor counts the predictor."""

    maximum_norm: Positive
    scope: Literal["encoder_and_predictor", "encoder"]


class ArmParams(Params):
    """One arm of the comparison."""

    name: Name
    title: Title
    state: State
    objective: Objective
    clipping: ClippingParams | None
    predictor_learning_rate: Positive | None

    @property
    def readouts(self) -> tuple[Readout, ...]:
        """The parts of the state that are probed."""
        return ("q", "p", "qp") if self.state == "phase_space" else ("all",)

    @model_validator(mode="after")
    def _state_fits_the_objective(self) -> Self:
        if self.objective.kind == "phase_space" and self.state != "phase_space":
            raise ValueError("objective 'phase_space' needs state 'phase_space'")
        if self.objective.kind == "rdmreg" and self.state != "rectified":
            raise ValueError("objective 'rdmreg' needs state 'rectified', as its target is")
        return self
