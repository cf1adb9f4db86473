"""The integrators that leapfrog is compared with, of the same signature: neither is its equal."""

from collections.abc import Callable

from torch import Tensor

from hamjepa_audit.models.integrators import leapfrog

Gradient = Callable[[Tensor], Tensor]
Integrator = Callable[[Gradient, Tensor, Tensor, float, int], tuple[Tensor, Tensor]]


def explicit_euler(
    potential_gradient: Gradient, q: Tensor, p: Tensor, step: float, steps: int
) -> tuple[Tensor, Tensor]:
    """Euler's explicit method: q and p move at once, by what they were. Not symplectic, order 1."""
    for _ in range(steps):
        q, p = q + step * p, p - step * potential_gradient(q)
    return q, p


def symplectic_euler(
    potential_gradient: Gradient, q: Tensor, p: Tensor, step: float, steps: int
) -> tuple[Tensor, Tensor]:
    """Full kick, then full drift: symplectic, but of order 1 and not its own inverse backwards."""
    for _ in range(steps):
        p = p - step * potential_gradient(q)
        q = q + step * p
    return q, p


INTEGRATORS: dict[str, Integrator] = {
    "leapfrog": leapfrog,
    "symplectic_euler": symplectic_euler,
    "explicit_euler": explicit_euler,
}
