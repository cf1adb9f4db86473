"""Properties of leapfrog for separable Hamiltonians: symplecticity, volume, inverse, energy.

Checked on the project's own integrator and potential, in float64. Every check takes the integrator
as an argument, so that tests can check that wrong ones fail.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from hamjepa_audit.models.hamiltonian import energy
from hamjepa_audit.models.integrators import Integrator
from hamjepa_audit.params.theory import EnergyOrderParams, LongRunParams
from hamjepa_audit.theory.instances import Generator, MechanicalSystem
from hamjepa_audit.theory.symplectic import jacobian

MapCheck = Callable[[MechanicalSystem, Generator, Integrator], float]


def flow_jacobian(
    system: MechanicalSystem, integrator: Integrator, step_size: float, steps: int
) -> Tensor:
    """Jacobian (2d, 2d), at the first initial state, of new [q; p] with respect to old [q; p]."""

    def flow(states: Tensor) -> Tensor:
        q, p = states.chunk(2, dim=-1)
        moved = integrator(system.potential.gradient, q, p, step_size, steps)
        return torch.cat(moved, dim=-1)

    return jacobian(flow, torch.cat([system.q[0], system.p[0]]))


def jacobian_error(defect: Callable[[Tensor], Tensor], step_size: float, steps: int) -> MapCheck:
    """A check: a defect of the map's Jacobian is 0."""

    def error(system: MechanicalSystem, _: Generator, formula: Integrator) -> float:
        return float(defect(flow_jacobian(system, formula, step_size, steps)).abs())

    return error


def inverse_error(step_size: float, steps: int) -> MapCheck:
    """A check: the map with -dt inverts the map; largest difference over largest coordinate."""

    def error(system: MechanicalSystem, _: Generator, formula: Integrator) -> float:
        gradient = system.potential.gradient
        q, p = formula(gradient, system.q, system.p, step_size, steps)
        back = torch.cat(formula(gradient, q, p, -step_size, steps), dim=-1)
        start = torch.cat([system.q, system.p], dim=-1)
        return float((back - start).abs().max() / start.abs().max())

    return error


def energies(
    system: MechanicalSystem, integrator: Integrator, step_size: float, steps: int, records: int
) -> Tensor:
    """Energies of all trajectories at the start and after every `steps` steps, `records` times.

    Returns:
        (records + 1, N), float64.
    """
    q, p = system.q, system.p
    recorded = [energy(system.potential, torch.cat([q, p], dim=-1))]
    for _ in range(records):
        q, p = integrator(system.potential.gradient, q, p, step_size, steps)
        recorded.append(energy(system.potential, torch.cat([q, p], dim=-1)))
    return torch.stack(recorded)


def energy_order_error(params: EnergyOrderParams) -> MapCheck:
    """A check: the energy error over a fixed horizon falls as dt^2; deviation from exponent 2.

    The energy error is the root mean square over trajectories and the times of the coarsest run's
    steps; the exponent is the slope of a least-squares line in logarithms.
    """

    def error(system: MechanicalSystem, _: Generator, formula: Integrator) -> float:
        records = params.steps[0]
        sizes, errors = [], []
        for steps in params.steps:
            size = params.horizon / steps
            recorded = energies(system, formula, size, steps // records, records)
            sizes.append(size)
            errors.append(float((recorded[1:] - recorded[0]).square().mean().sqrt()))
        slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
        return abs(float(slope) - 2)

    return error


def energy_bounded_error(params: LongRunParams) -> MapCheck:
    """A check: the energy error does not grow; its ratio of the last tenth of the run to the first.

    Both are root mean squares over trajectories and times. The ratio is 1 without growth, and
    infinite or NaN if a trajectory diverges.
    """

    def error(system: MechanicalSystem, _: Generator, formula: Integrator) -> float:
        records = params.steps // params.record_every
        recorded = energies(system, formula, params.step_size, params.record_every, records)
        squares = (recorded[1:] - recorded[0]).square()
        tenth = max(1, records // 10)
        return float((squares[-tenth:].mean() / squares[:tenth].mean()).sqrt())

    return error
