"""Data of the figures of integrators: what leapfrog preserves and others don't."""

import math

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from hamjepa_audit.params.theory import TheoryParams
from hamjepa_audit.theory.instances import generator_for, mechanical_system, potential_params
from hamjepa_audit.theory.integrators import INTEGRATORS
from hamjepa_audit.theory.leapfrog import flow_jacobian
from hamjepa_audit.theory.symplectic import symplecticity_defect
from hamjepa_audit.theory.transport import PlanePotential
from hamjepa_audit.theory_schemas import DEFECT_SCHEMA, REVERSAL_SCHEMA


def energy_drift(params: TheoryParams) -> pd.DataFrame:
    """Rows of DRIFT_SCHEMA: energy drift on a grid of the pendulum's phase plane, by integrator."""
    chosen, potential = params.pictures.drift, PlanePotential(params.pictures.pendulum)
    grid = torch.linspace(-1, 1, chosen.size, dtype=torch.float64)
    start = torch.meshgrid(chosen.position * grid, chosen.momentum * grid, indexing="ij")
    before = _energy(potential, *start)
    frames = []
    for name, integrator in INTEGRATORS.items():
        (q, p), worst = start, torch.zeros_like(before)
        for _ in range(chosen.steps):
            q, p = integrator(potential.gradient, q, p, chosen.step_size, 1)
            worst = torch.maximum(worst, (_energy(potential, q, p) - before).abs())
        q0, p0, drift = (x.ravel().numpy() for x in (*start, worst))
        frames.append(pd.DataFrame({"integrator": name, "q": q0, "p": p0, "drift": drift}))
    return pd.concat(frames).assign(step_size=chosen.step_size, steps=chosen.steps)


def area_preservation(params: TheoryParams) -> pd.DataFrame:
    """Rows of AREA_SCHEMA: a disc's outline, moved by every integrator."""
    chosen, potential = params.pictures.area, PlanePotential(params.pictures.pendulum)
    angles = torch.arange(chosen.points, dtype=torch.float64) * (2 * math.pi / chosen.points)
    disc = [
        centre + chosen.radius * wave
        for centre, wave in zip(chosen.centre, (angles.cos(), angles.sin()), strict=True)
    ]
    initial_area = polygon_area(*(x.numpy() for x in disc))
    frames = []
    for name, integrator in INTEGRATORS.items():
        for steps in chosen.steps:
            q, p = disc
            if steps:
                q, p = integrator(potential.gradient, q, p, chosen.step_size, steps)
            moved = {"q": q.numpy(), "p": p.numpy()}
            ratio = polygon_area(moved["q"], moved["p"]) / initial_area
            columns = {"steps": steps, "point": range(chosen.points), **moved, "area_ratio": ratio}
            frames.append(pd.DataFrame({"integrator": name, **columns}))
    return pd.concat(frames).assign(step_size=chosen.step_size)


def polygon_area(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Area inside a closed polygon by the shoelace formula; positive counterclockwise."""
    return 0.5 * float(x @ np.roll(y, -1) - y @ np.roll(x, -1))


def reversal(params: TheoryParams) -> pd.DataFrame:
    """Rows of REVERSAL_SCHEMA: a circle of states, moved forward and then as far back with -dt."""
    chosen, potential = params.pictures.reversal, PlanePotential(params.pictures.pendulum)
    angles = torch.arange(chosen.trajectories, dtype=torch.float64)
    angles = angles * (2 * math.pi / chosen.trajectories)
    q, p = chosen.radius * angles.cos(), chosen.radius * angles.sin()
    rows = []
    for name, integrator in INTEGRATORS.items():
        for steps in chosen.steps:
            there = integrator(potential.gradient, q, p, chosen.step_size, steps)
            back = integrator(potential.gradient, *there, -chosen.step_size, steps)
            error = torch.hypot(back[0] - q, back[1] - p).max()
            rows.append((name, steps, float(error), chosen.step_size))
    return pd.DataFrame(rows, columns=REVERSAL_SCHEMA.names)


def defects(params: TheoryParams) -> pd.DataFrame:
    """Rows of DEFECT_SCHEMA: symplecticity defects for one random potential, by step size.

    In float64 for every integrator; for leapfrog also in float32, as in training.
    """
    chosen, maps = params.pictures.defect, params.maps
    potential = potential_params(
        params, max(maps.residual_scales), maps.hidden_width, maps.hidden_layers
    )
    rows = []
    for name, precision in (*((name, "float64") for name in INTEGRATORS), ("leapfrog", "float32")):
        generator = generator_for(params.seed, "defects")
        system = mechanical_system(chosen.dimension, potential, 1, generator)
        if precision == "float32":
            system = system.single_precision()
        for step_size in chosen.step_sizes:
            map_jacobian = flow_jacobian(system, INTEGRATORS[name], step_size, chosen.steps)
            defect = float(symplecticity_defect(map_jacobian))
            rows.append((name, precision, step_size, defect, chosen.steps))
    return pd.DataFrame(rows, columns=DEFECT_SCHEMA.names)


def _energy(potential: PlanePotential, q: Tensor, p: Tensor) -> Tensor:
    return 0.5 * p.square() + potential(q)
