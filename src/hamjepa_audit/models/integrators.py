"""Integrators of Hamilton's equations for separable Hamiltonians H = |p|^2/2 + V(q)."""

from collections.abc import Callable

import torch
from torch import Tensor

Gradient = Callable[[Tensor], Tensor]
Integrator = Callable[[Gradient, Tensor, Tensor, float | Tensor, int], tuple[Tensor, Tensor]]


def leapfrog(
    potential_gradient: Gradient,
    q: Tensor,
    p: Tensor,
    step: float | Tensor,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """Leapfrog (velocity Verlet): half kick, drift, half kick, `steps` times.

    Adjacent half kicks of successive steps are merged into one full kick, so the gradient is
    evaluated steps + 1 times. Negating `step` inverts the map exactly (protocol, "HamJEPA").

    Args:
        potential_gradient: grad V, (..., d) -> (..., d).
        q: positions, (..., d).
        p: momenta, (..., d).
        step: signed step size, a number or a tensor that broadcasts against q.
        steps: number K of steps, at least 1.

    Returns:
        Positions and momenta after K steps.

    Raises:
        ValueError: `steps` is below 1.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}: leapfrog takes at least 1")
    step = torch.as_tensor(step, dtype=q.dtype, device=q.device)
    half = 0.5 * step
    p = torch.addcmul(p, half, potential_gradient(q), value=-1)
    for remaining in range(steps - 1, -1, -1):
        q = torch.addcmul(q, step, p)
        kick = step if remaining else half
        p = torch.addcmul(p, kick, potential_gradient(q), value=-1)
    return q, p


def symplectic_euler(
    potential_gradient: Gradient,
    q: Tensor,
    p: Tensor,
    step: float | Tensor,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """Symplectic Euler: kick, then drift with the new momentum (Hairer, Lubich, Wanner, I.1.9).

    Symplectic, of order one; negating `step` does not invert it. Arguments and results as in
    `leapfrog`.
    """
    for _ in range(steps):
        p = p - step * potential_gradient(q)
        q = q + step * p
    return q, p


def euler(
    potential_gradient: Gradient,
    q: Tensor,
    p: Tensor,
    step: float | Tensor,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """Explicit Euler: kick and drift, both computed from the old state.

    Neither symplectic nor volume preserving: one step on the potential a |q|^2 / 2 multiplies
    volume by (1 + a step^2) per pair of coordinates. Arguments and results as in `leapfrog`.
    """
    for _ in range(steps):
        q, p = q + step * p, p - step * potential_gradient(q)
    return q, p
