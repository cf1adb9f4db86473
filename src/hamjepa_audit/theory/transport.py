"""The paper's toy experiment: a cloud of states moved by leapfrog, by Euler, and by a reference.

The paper gives integrators, steps and results, but neither the Hamiltonian nor the initial
distribution. Therefore each set-up of the parameters is tried and compared with the four numbers.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance
from scipy.stats.qmc import MultivariateNormalQMC
from torch import Tensor

from hamjepa_audit.models.integrators import Integrator, leapfrog
from hamjepa_audit.params.claims import Rollout, ToyTransport
from hamjepa_audit.params.theory import (
    PlanePotentialParams,
    Point,
    Spread,
    TheoryParams,
    ToyTransportParams,
)
from hamjepa_audit.theory.instances import generator_for
from hamjepa_audit.theory.integrators import INTEGRATORS
from hamjepa_audit.theory_schemas import SETUP

MODELS = {"euler": "explicit_euler", "leapfrog": "leapfrog"}
"""The paper's names of the models' integrators, and ours."""

REFERENCE = "reference"
START = "start"

Row = dict[str, Any]
Clouds = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class PlanePotential:
    """V of one real coordinate, applied elementwise; see PlanePotentialParams."""

    params: PlanePotentialParams

    def __call__(self, q: Tensor) -> Tensor:
        """V(q), with the shape of q."""
        chosen = self.params
        sine = chosen.sine / chosen.frequency * (1 - torch.cos(chosen.frequency * q))
        return chosen.stiffness * q**2 / 2 + chosen.quartic * q**4 / 4 + sine

    def gradient(self, q: Tensor) -> Tensor:
        """V'(q), with the shape of q."""
        chosen = self.params
        slope = chosen.stiffness * q
        if chosen.quartic:
            slope = slope + chosen.quartic * q * q * q
        if chosen.sine:
            slope = slope + chosen.sine * torch.sin(chosen.frequency * q)
        return slope


@dataclass(frozen=True)
class Setup:
    """One choice for what the paper leaves open."""

    potential: str
    centre: Point
    spread: Spread

    @property
    def row(self) -> Row:
        """The columns that identify it."""
        values = (self.potential, *self.centre, *self.spread)
        return dict(zip(SETUP, values, strict=True))


def setups(params: ToyTransportParams) -> list[Setup]:
    """Every potential with every centre and every spread."""
    return [
        Setup(*chosen)
        for chosen in itertools.product(params.potentials, params.centres, params.spreads)
    ]


def compare_setups(
    params: TheoryParams, claim: ToyTransport, say: Callable[[str], None]
) -> list[Row]:
    """The rows (SETUPS_SCHEMA) of all set-ups, nearest to the paper first, diverged ones last.

    With few samples, leapfrog's small distances come out too large, because each state is matched
    with its own image. So the nearest set-ups are measured again with many samples, and come before
    all others.
    """
    chosen = params.toy_transport
    all_setups = setups(chosen)
    screened = measure(all_setups, params, claim, chosen.samples, say)
    order = sorted(range(len(screened)), key=lambda place: screened[place]["worst_deviation"])
    near, rest = order[: chosen.refined], order[chosen.refined :]
    again = [all_setups[place] for place in near]
    refined = measure(again, params, claim, chosen.refined_samples, say)
    refined.sort(key=lambda row: row["worst_deviation"])
    return refined + [screened[place] for place in rest]


def measure(
    chosen: Sequence[Setup],
    params: TheoryParams,
    claim: ToyTransport,
    samples: int,
    say: Callable[[str], None],
) -> list[Row]:
    """The rows of some set-ups, in their order; those with the same potential run together."""
    noise = normal_noise(params, samples)
    angles = directions(params.toy_transport.directions)
    rows: dict[Setup, Row] = {}
    for name, potential in params.toy_transport.potentials.items():
        group = [setup for setup in chosen if setup.potential == name]
        if not group:
            continue
        clouds = carry(np.concatenate([start(setup, noise) for setup in group]), potential, claim)
        parts = {key: np.split(cloud, len(group)) for key, cloud in clouds.items()}
        for place, setup in enumerate(group):
            cloud = {key: part[place] for key, part in parts.items()}
            rows[setup] = setup.row | {"samples": samples} | compare(cloud, angles, claim)
        say(f"toy transport, {samples} samples: {len(rows):,} of {len(chosen):,} set-ups")
    return [rows[setup] for setup in chosen]


def nearest_setup(
    params: TheoryParams, claim: ToyTransport, nearest: Row
) -> tuple[list[Row], list[Row]]:
    """Data of the figure of a set-up: its states, and its distances by direction.

    Returns:
        Rows of STATES_SCHEMA and of DIRECTIONS_SCHEMA.
    """
    chosen = params.toy_transport
    setup = Setup(
        nearest["potential"],
        (nearest["centre_q"], nearest["centre_p"]),
        (nearest["spread_q"], nearest["spread_p"]),
    )
    initial = start(setup, normal_noise(params, nearest["samples"]))
    clouds = {START: initial} | carry(initial, chosen.potentials[setup.potential], claim)
    states = [
        setup.row | {"states": name, "q": float(q), "p": float(p)}
        for name, cloud in clouds.items()
        for q, p in cloud
    ]
    angles = directions(4 * chosen.directions)
    distances = [
        {"model": model, "angle": float(angle), "distance": float(distance)}
        for model in MODELS
        for angle, distance in zip(
            angles, distances_by_direction(clouds[model], clouds[REFERENCE], angles), strict=True
        )
    ]
    return states, distances


def normal_noise(params: TheoryParams, samples: int) -> NDArray[np.float64]:
    """Standard normal (samples, 2) from a Sobol sequence, more even than random draws."""
    generator = generator_for(params.seed, "toy_transport")
    noise: NDArray[np.float64] = MultivariateNormalQMC(np.zeros(2), rng=generator).random(samples)
    return noise


def directions(number: int) -> NDArray[np.float64]:
    """Angles from the q axis in radians, equally spaced over half a turn."""
    return np.arange(number) * math.pi / number


def start(setup: Setup, noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """Initial states (N, 2) of a set-up."""
    return np.array(setup.centre) + np.array(setup.spread) * noise


def carry(
    states: NDArray[np.float64], potential: PlanePotentialParams, claim: ToyTransport
) -> Clouds:
    """Final states, (N, 2) each, under the reference and each of the paper's models."""
    clouds = {REFERENCE: roll_out(states, potential, leapfrog, claim.reference)}
    for model, integrator in MODELS.items():
        clouds[model] = roll_out(states, potential, INTEGRATORS[integrator], claim.models)
    return clouds


def roll_out(
    states: NDArray[np.float64],
    potential: PlanePotentialParams,
    integrator: Integrator,
    rollout: Rollout,
) -> NDArray[np.float64]:
    """States (N, 2) after a rollout; infinite or NaN if it diverges."""
    q, p = torch.from_numpy(states).T
    gradient = PlanePotential(potential).gradient
    return torch.stack(integrator(gradient, q, p, float(rollout.dt), rollout.steps), 1).numpy()


def distances_by_direction(
    first: NDArray[np.float64], second: NDArray[np.float64], angles: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Wasserstein-1 distance of two clouds (N, 2) projected on each direction."""
    units = np.stack([np.cos(angles), np.sin(angles)])
    projected = zip((first @ units).T, (second @ units).T, strict=True)
    return np.array([wasserstein_distance(*pair) for pair in projected])


def compare(clouds: Clouds, angles: NDArray[np.float64], claim: ToyTransport) -> Row:
    """W1 over directions between each model and the reference, and its deviation from the paper's.

    If a model diverges, its distances are NaN and the deviation is infinite.
    """
    row: Row = {}
    deviations = []
    for model in MODELS:
        stated = claim.w1_over_directions[model]  # type: ignore[index]
        finite = np.isfinite(clouds[model]).all() and np.isfinite(clouds[REFERENCE]).all()
        distances = (
            distances_by_direction(clouds[model], clouds[REFERENCE], angles)
            if finite
            else np.array([math.nan])
        )
        for of, ours in (("mean", distances.mean()), ("max", distances.max())):
            row[f"{model}_{of}"] = float(ours)
            deviations.append(abs(float(ours) / float(getattr(stated, of)) - 1))
    lost = any(math.isnan(deviation) for deviation in deviations)
    return row | {"worst_deviation": math.inf if lost else max(deviations)}
