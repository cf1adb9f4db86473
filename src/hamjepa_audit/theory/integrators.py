"""Leapfrog and the integrators that the theory compares it with, by the paper's names."""

from collections.abc import Callable

from torch import Tensor

from hamjepa_audit.models.integrators import euler, leapfrog, symplectic_euler

Gradient = Callable[[Tensor], Tensor]
Integrator = Callable[[Gradient, Tensor, Tensor, float, int], tuple[Tensor, Tensor]]


INTEGRATORS: dict[str, Integrator] = {
    "leapfrog": leapfrog,
    "symplectic_euler": symplectic_euler,
    "explicit_euler": euler,
}
