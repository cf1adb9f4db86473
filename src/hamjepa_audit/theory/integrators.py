"""Leapfrog and the integrators that the theory compares it with, as the tables name them."""

from hamjepa_audit.models.integrators import Integrator, euler, leapfrog, symplectic_euler

INTEGRATORS: dict[str, Integrator] = {
    "leapfrog": leapfrog,
    "symplectic_euler": symplectic_euler,
    "explicit_euler": euler,
}
