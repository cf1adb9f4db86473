"""The theorems' checks: each holds, and each fails if its formula is deliberately broken."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hamjepa_audit.errors import UserError
from hamjepa_audit.models.integrators import euler, leapfrog, symplectic_euler
from hamjepa_audit.params.theory import TheoryParams, load_theory
from hamjepa_audit.theory.checks import run_check, run_checks
from hamjepa_audit.theory.covariance import (
    geometry_of,
    optimal_covariance,
    price_of_isotropy,
    worst_task_value,
)
from hamjepa_audit.theory.instances import Geometry, Matrix, generator_for
from hamjepa_audit.theory.theorems import all_checks
from tests.unit import tiny_theory

params = tiny_theory.params

Gradient = Callable[[Tensor], Tensor]


def geometry_instead_of_inverse(geometry: Geometry) -> Matrix:
    """H instead of H^-1, scaled to the budget."""
    return geometry.budget / np.sum(geometry.matrix**2) * geometry.matrix


def wrong_sign_in_second_kick(
    gradient: Gradient, q: Tensor, p: Tensor, step: float, steps: int
) -> tuple[Tensor, Tensor]:
    for _ in range(steps):
        p = p - 0.5 * step * gradient(q)
        q = q + step * p
        p = p + 0.5 * step * gradient(q)
    return q, p


def missing_half_in_kick(
    gradient: Gradient, q: Tensor, p: Tensor, step: float, steps: int
) -> tuple[Tensor, Tensor]:
    for _ in range(steps):
        p = p - step * gradient(q)
        q = q + step * p
        p = p - 0.5 * step * gradient(q)
    return q, p


def kick_that_is_no_gradient(
    gradient: Gradient, q: Tensor, p: Tensor, step: float, steps: int
) -> tuple[Tensor, Tensor]:
    """Preserves volume, but not the symplectic form, because the force has a curl."""
    return leapfrog(lambda x: gradient(x) + x.roll(1, -1) * torch.arange(x.shape[-1]), q, p, step,
                    steps)  # fmt: skip


def with_friction(
    gradient: Gradient, q: Tensor, p: Tensor, step: float, steps: int
) -> tuple[Tensor, Tensor]:
    q, p = leapfrog(gradient, q, p, step, steps)
    return q, 0.999 * p


def with_a_mirrored_coordinate(
    gradient: Gradient, q: Tensor, p: Tensor, step: float, steps: int
) -> tuple[Tensor, Tensor]:
    """Leapfrog followed by a reflection, so the determinant is -1."""
    q, p = leapfrog(gradient, q, p, step, steps)
    return q * torch.where(torch.arange(q.shape[-1]) == 0, -1.0, 1.0), p


def off_by_a_tenth(geometry: Geometry) -> Matrix:
    """On the budget, but a tenth too large along one axis of H and too small along another."""
    eigenvalues, vectors = np.linalg.eigh(geometry.matrix)
    shares = np.ones(geometry.dimension)
    shares[:2] = 1.1, 0.9
    return geometry.budget / geometry.dimension * (vectors * (shares / eigenvalues)) @ vectors.T


COVARIANCES = {
    "H instead of its inverse": geometry_instead_of_inverse,
    "c instead of c/d": lambda g: g.budget * np.linalg.inv(g.matrix),
    "half of the budget": lambda g: optimal_covariance(g) / 2,
    "off by a tenth on the budget": off_by_a_tenth,
}
BROKEN: dict[str, dict[str, Any]] = {
    "worst_task": {
        "H inverse instead of H": lambda g, s: worst_task_value(
            Geometry(np.linalg.inv(g.matrix), g.budget), s
        ),
        "trace instead of the largest": lambda g, s: float(np.trace(g.factor.T @ s @ g.factor)),
    },
    "minimax_value": COVARIANCES,
    "minimax_optimiser": COVARIANCES,
    "maximum_entropy_optimiser": COVARIANCES,
    "maximum_entropy_competitors": COVARIANCES,
    "price_of_isotropy": {
        "smallest eigenvalue": lambda g: float(
            g.dimension * np.linalg.eigvalsh(g.matrix)[0] / np.trace(g.matrix)
        ),
        "no d": lambda g: price_of_isotropy(g) / g.dimension,
    },
    "price_range": {
        "d - 1 instead of d": lambda g: price_of_isotropy(g) * (g.dimension - 1) / g.dimension,
        "condition number": lambda g: float(np.linalg.cond(g.matrix)),
    },
    "price_by_sampling": {
        "inverse": lambda g: 1 / price_of_isotropy(g),
        "H inverse instead of H": lambda g: price_of_isotropy(
            Geometry(np.linalg.inv(g.matrix), g.budget)
        ),
    },
    "no_canonical_shape": {
        "the geometry that fits": lambda s, _: geometry_of(s, 1.0),
        "the identity": lambda s, _: np.eye(len(s)),
    },
    "cone": {
        "S instead of its inverse": lambda s, c: c / len(s) * s,
        "no d": lambda s, c: c * np.linalg.inv(s),
    },
    "gibbs_marginal": COVARIANCES
    | {
        "a twentieth too much": lambda g: 1.05 * optimal_covariance(g),
        "a twentieth too little": lambda g: 0.95 * optimal_covariance(g),
    },
    "symplecticity": {
        "explicit Euler": euler,
        "a kick that is no gradient": kick_that_is_no_gradient,
        "friction": with_friction,
    },
    "volume": {
        "explicit Euler": euler,
        "friction": with_friction,
        "a mirrored coordinate": with_a_mirrored_coordinate,
    },
    "reciprocal_singular_values": {
        "explicit Euler": euler,
        "a kick that is no gradient": kick_that_is_no_gradient,
    },
    "exact_inverse": {
        "wrong sign in a kick": wrong_sign_in_second_kick,
        "symplectic Euler": symplectic_euler,
    },
    "energy_order": {
        "wrong sign in a kick": wrong_sign_in_second_kick,
        "a whole kick for a half": missing_half_in_kick,
        "symplectic Euler": symplectic_euler,
    },
    "energy_bounded": {
        "wrong sign in a kick": wrong_sign_in_second_kick,
        "explicit Euler": euler,
        "friction": with_friction,
    },
    "trace_bound": {
        "wrong sign of tau": lambda k, tau, m: -k * tau + (k - 1) * np.log((k - 1) / m),
        "k instead of k - 1": lambda k, tau, m: k * tau + k * np.log(k / m) + 1,
    },
    "trace_bound_tight": {
        "k instead of k - 1 in the base": lambda k, tau, m: k * tau + (k - 1) * np.log(k / m),
        "one half": lambda k, tau, m: k * tau + (k - 1) * np.log((k - 1) / m) + math.log(0.5),
    },
    "participation_bound": {
        "r0 instead of its root": lambda c, r: c / r,
        "a third root": lambda c, r: c / r**0.6,
    },
    "participation_bound_tight": {
        "r0 instead of its root": lambda c, r: c / r,
        "no r0": lambda c, r: c,
    },
    "participation_logdet_bound": {
        "wrong sign of tau": lambda k, tau, c, r: -k * tau + (k - 1) * np.log(np.sqrt(r) / c),
        "r0 instead of its root": lambda k, tau, c, r: k * tau + (k - 1) * np.log(r / c),
    },
    "participation_logdet_bound_tight": {
        "r0 instead of its root": lambda k, tau, c, r: k * tau + (k - 1) * np.log(r / c),
        "k instead of k - 1": lambda k, tau, c, r: k * tau + k * np.log(np.sqrt(r) / c) - 0.1,
    },
}


def test_every_row_holds(params: TheoryParams) -> None:
    said: list[str] = []
    rows = run_checks(all_checks(params), params, said.append)
    assert [row["check"] for row in rows if not row["holds"]] == []
    assert len(said) == len(rows) == len({row["statement"] for row in rows})
    assert all(row["source"] and row["instances"] > 0 for row in rows)


@pytest.mark.slow
def test_every_row_holds_with_the_parameters_as_shipped(params_folder: Path) -> None:
    params = load_theory(params_folder)
    rows = run_checks(all_checks(params), params, print)
    assert [row["check"] for row in rows if not row["holds"]] == []


def test_every_row_is_broken_by_some_test(params: TheoryParams) -> None:
    assert set(BROKEN) == {check.name for check in all_checks(params)}


@pytest.mark.parametrize(
    ("name", "how"), [(name, how) for name, ways in BROKEN.items() for how in ways]
)
def test_a_broken_formula_fails_its_row(params: TheoryParams, name: str, how: str) -> None:
    (check,) = (check for check in all_checks(params) if check.name == name)
    row = run_check(check, params, BROKEN[name][how])
    assert not row["holds"], row


def test_a_wrong_square_root_of_the_geometry_is_found(
    params: TheoryParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search for the worst task must not use the same factor as the formula."""
    (check,) = (check for check in all_checks(params) if check.name == "worst_task")
    of_inverse = property(lambda self: np.linalg.cholesky(np.linalg.inv(self.matrix)))
    monkeypatch.setattr(Geometry, "factor", of_inverse)
    assert not run_check(check, params)["holds"]


def test_energies_are_followed_in_several_dimensions_and_potentials(params_folder: Path) -> None:
    (check,) = (
        check for check in all_checks(load_theory(params_folder)) if check.name == "energy_bounded"
    )
    systems = list(check.instances(generator_for(0, "long run")))
    found = {(system.dimension, system.potential.residual_scale) for system in systems}
    assert found == {(d, scale) for d in (2, 8, 32) for scale in (0.02, 10.0)}


def test_a_wrong_sign_in_a_kick_is_still_symplectic(params: TheoryParams) -> None:
    # Kicks and drifts are shears for any sign, so other rows have to detect this error.
    for check in all_checks(params):
        if check.name in ("symplecticity", "volume", "reciprocal_singular_values"):
            assert run_check(check, params, wrong_sign_in_second_kick)["holds"]


def test_an_error_that_is_not_a_number_does_not_hold(params: TheoryParams) -> None:
    (check,) = (check for check in all_checks(params) if check.name == "cone")
    lost = dataclasses.replace(check, error=lambda *_: math.nan)
    row = run_check(lost, params)
    assert math.isnan(row["worst_error"]) and not row["holds"]


def test_tolerances_are_those_of_the_rows(params: TheoryParams) -> None:
    checks = all_checks(params)
    lacking = {name: value for name, value in params.tolerances.items() if name != "cone"}
    with pytest.raises(UserError, match="tolerances lack the row 'cone'"):
        run_checks(checks, params.model_copy(update={"tolerances": lacking}), print)
    mistyped = lacking | {"con": 1.0}
    with pytest.raises(UserError, match="no row 'con' under tolerances: did you mean 'cone'"):
        run_checks(checks, params.model_copy(update={"tolerances": mistyped}), print)


def test_rows_repeat_and_depend_on_the_seed_alone(params: TheoryParams) -> None:
    (check,) = (check for check in all_checks(params) if check.name == "gibbs_marginal")
    other = params.model_copy(update={"seed": 1})
    first, again = run_check(check, params), run_check(check, params)
    assert first == again
    assert first["worst_error"] != run_check(check, other)["worst_error"]
