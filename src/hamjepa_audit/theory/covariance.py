"""The best covariance for a known geometry, the price of isotropy, and the cone of geometries.

A downstream task is a direction w with w'H^-1 w <= 1. A covariance S on the budget tr(H S) = c is
valued by its worst task, V(S) = max w'S w. Every check returns an error that is 0 in exact
arithmetic. `formula` is the theorem's claim; as an argument, it lets tests check that wrong ones
fail.
"""

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize

from hamjepa_audit.theory.instances import (
    Generator,
    Geometry,
    Matrix,
    covariance_on_budget,
    positive_definite,
)

Covariance = Callable[[Geometry], Matrix]
Value = Callable[[Geometry, Matrix], float]
Price = Callable[[Geometry], float]
GeometryOf = Callable[[Matrix, float], Matrix]


def worst_task_value(geometry: Geometry, covariance: Matrix) -> float:
    """V(S) = max of w'S w over w'H^-1 w <= 1: the largest eigenvalue of H^1/2 S H^1/2.

    It equals that of C'S C for any C with C C' = H.
    """
    return largest_eigenvalue(geometry.factor.T @ covariance @ geometry.factor)


def largest_eigenvalue(matrix: Matrix) -> float:
    """Largest eigenvalue of a symmetric matrix."""
    return float(np.linalg.eigvalsh(matrix)[-1])


def optimal_covariance(geometry: Geometry) -> Matrix:
    """S* = (c/d) H^-1, the minimiser of V on the budget."""
    return (geometry.budget / geometry.dimension) * np.linalg.inv(geometry.matrix)


def isotropic_covariance(geometry: Geometry) -> Matrix:
    """The multiple of the identity on the budget, (c / tr H) I."""
    return (geometry.budget / np.trace(geometry.matrix)) * np.eye(geometry.dimension)


def price_of_isotropy(geometry: Geometry) -> float:
    """V of the isotropic covariance over V(S*): d lmax(H) / tr(H)."""
    mean_eigenvalue = np.trace(geometry.matrix) / geometry.dimension
    return largest_eigenvalue(geometry.matrix) / float(mean_eigenvalue)


def geometry_of(covariance: Matrix, budget: float) -> Matrix:
    """The H whose S* is a given covariance: (c/d) S^-1."""
    return (budget / len(covariance)) * np.linalg.inv(covariance)


def worst_geometry(covariance: Matrix, limit: float) -> Matrix:
    """A geometry for which a covariance's shape is as bad as possible: nearly of rank one.

    The factor d lmax(H^1/2 S H^1/2) / tr(H S) tends to d as `limit` goes to 0, for every S.
    """
    dimension = len(covariance)
    geometry = limit * np.linalg.inv(covariance)
    geometry[0, 0] += dimension / covariance[0, 0]
    return geometry


def worst_task_error(geometry: Geometry, generator: Generator, formula: Value) -> float:
    """Relative error against the largest w'S w found, and against lmax(H^1/2 S H^1/2).

    Both are computed from H itself, not from `Geometry.factor`, which the formula uses.
    """
    covariance = covariance_on_budget(geometry, generator)
    claimed = formula(geometry, covariance)
    root = square_root(geometry.matrix)
    inverse = np.linalg.inv(geometry.matrix)

    def negative_quotient(z: Matrix) -> tuple[float, Matrix]:
        # -w'S w / w'H^-1 w at w = H^1/2 z: in z, the ascent does not stall when H is
        # ill-conditioned.
        w = root @ z
        upper, lower = covariance @ w, inverse @ w
        norm = w @ lower
        quotient = (w @ upper) / norm
        return -float(quotient), -2 * root @ (upper - quotient * lower) / norm

    start = generator.standard_normal(geometry.dimension)
    options = {"maxiter": 5000, "maxfun": 10000, "ftol": 1e-15, "gtol": 1e-12}
    found = minimize(negative_quotient, start, jac=True, method="L-BFGS-B", options=options)
    largest = largest_eigenvalue(root @ covariance @ root)
    return max(abs(-found.fun / claimed - 1), abs(largest / claimed - 1))


def square_root(matrix: Matrix) -> Matrix:
    """The symmetric square root of a symmetric positive definite matrix."""
    eigenvalues, vectors = np.linalg.eigh(matrix)
    root: Matrix = (vectors * np.sqrt(eigenvalues)) @ vectors.T
    return root


def minimax_value_error(geometry: Geometry, _: Generator, formula: Covariance) -> float:
    """A check: the claimed minimiser is on the budget and has the value c/d; relative."""
    claimed = formula(geometry)
    value = worst_task_value(geometry, claimed) / (geometry.budget / geometry.dimension)
    spent = np.sum(geometry.matrix * claimed) / geometry.budget
    return max(abs(value - 1), abs(float(spent) - 1))


def minimax_optimiser_error(norm_order: int) -> Callable[[Geometry, Generator, Covariance], float]:
    """A check: direct minimisation of V on the budget finds the claimed S, and no lower value."""

    def objective(z: Matrix) -> tuple[float, Matrix]:
        # log of the Schatten norm of N = Z Z' over its trace; N is C'S C up to the budget.
        eigenvalues, vectors = np.linalg.eigh(z @ z.T)
        top, trace = eigenvalues[-1], eigenvalues.sum()
        powers = (np.maximum(eigenvalues, 0) / top) ** (norm_order - 1)
        total = powers @ eigenvalues
        value = np.log(top) + np.log(total / top) / norm_order - np.log(trace)
        return value, 2 * ((vectors * (powers / total - 1 / trace)) @ vectors.T @ z)

    def error(geometry: Geometry, generator: Generator, formula: Covariance) -> float:
        found = descend(geometry, generator, objective)
        claimed = formula(geometry)
        value = worst_task_value(geometry, claimed)
        return max(
            abs(worst_task_value(geometry, found) / value - 1),
            covariance_distance(geometry, found, claimed),
        )

    return error


def descend(
    geometry: Geometry,
    generator: Generator,
    objective: Callable[[Matrix], tuple[float, Matrix]],
) -> Matrix:
    """The covariance on the budget that minimises an objective, from a random start.

    S is C^-T Z Z' C^-1, scaled to the budget, for a square Z. This covers all covariances, in
    coordinates in which H is the identity; in others, a condition number of 10^6 would stall any
    descent.

    Args:
        geometry: H and the budget.
        generator: draws the start.
        objective: value and gradient with respect to Z, (d, d), of a function that is invariant to
            the scale of Z.

    Returns:
        S, (d, d).
    """
    d = geometry.dimension

    def flat(z: Matrix) -> tuple[float, Matrix]:
        value, gradient = objective(z.reshape(d, d))
        return value, gradient.ravel()

    start = generator.standard_normal(d * d)
    options = {"maxiter": 5000, "maxfun": 10000, "ftol": 1e-15, "gtol": 1e-10}
    z = minimize(flat, start, jac=True, method="L-BFGS-B", options=options).x.reshape(d, d)
    half = np.linalg.solve(geometry.factor.T, z)
    return geometry.budget / np.sum(z**2) * (half @ half.T)


def covariance_distance(geometry: Geometry, found: Matrix, claimed: Matrix) -> float:
    """Largest absolute eigenvalue of H^1/2 (found - claimed) H^1/2, relative to c/d."""
    difference = geometry.factor.T @ (found - claimed) @ geometry.factor
    eigenvalues = np.linalg.eigvalsh((difference + difference.T) / 2)
    return float(np.abs(eigenvalues).max()) * geometry.dimension / geometry.budget


def price_error(geometry: Geometry, _: Generator, formula: Price) -> float:
    """Relative error against the price from V of both covariances; excess beyond [1, d]."""
    isotropic = worst_task_value(geometry, isotropic_covariance(geometry))
    price = isotropic / worst_task_value(geometry, optimal_covariance(geometry))
    outside = max(0.0, 1 - formula(geometry), formula(geometry) / geometry.dimension - 1)
    return max(abs(formula(geometry) / price - 1), outside)


def price_range_error(limit: float) -> Callable[[int, Generator, Price], float]:
    """A check, for a dimension d: the price is 1 for the identity and tends to d for rank one."""

    def error(dimension: int, _: Generator, formula: Price) -> float:
        spike = np.full(dimension, limit)
        spike[0] = 1.0
        low = formula(Geometry(np.eye(dimension), 1.0))
        high = formula(Geometry(np.diag(spike), 1.0))
        return max(abs(low - 1), abs(high / dimension - 1))

    return error


def price_sampling_error(samples: int) -> Callable[[Geometry, Generator, Price], float]:
    """A check: the worst of many random tasks pays the price; relative."""

    def error(geometry: Geometry, generator: Generator, formula: Price) -> float:
        sphere = generator.standard_normal((geometry.dimension, samples))
        tasks = geometry.factor @ (sphere / np.linalg.norm(sphere, axis=0))
        worst = [
            np.sum(tasks * (covariance @ tasks), axis=0).max()
            for covariance in (isotropic_covariance(geometry), optimal_covariance(geometry))
        ]
        return abs(worst[0] / worst[1] / formula(geometry) - 1)

    return error


def cone_error(geometry: Geometry, generator: Generator, formula: GeometryOf) -> float:
    """A check: any covariance S is S* of the formula's geometry, which is positive definite.

    The error is relative to S. The instance only gives the condition number of a random S.
    """
    eigenvalues = np.linalg.eigvalsh(geometry.matrix)
    condition_number = max(1.0, eigenvalues[-1] / eigenvalues[0])
    covariance = positive_definite(geometry.dimension, condition_number, generator)
    named = Geometry(formula(covariance, geometry.budget), geometry.budget)
    if np.linalg.eigvalsh(named.matrix)[0] <= 0:
        return np.inf
    factor = np.linalg.cholesky(covariance)
    difference = np.linalg.solve(factor, optimal_covariance(named) - covariance)
    return float(np.linalg.norm(np.linalg.solve(factor, difference.T), 2))


def no_canonical_shape_error(limit: float) -> Callable[[Geometry, Generator, GeometryOf], float]:
    """A check: for every covariance there is a geometry where it is d times worse than the best."""

    def error(geometry: Geometry, _: Generator, formula: GeometryOf) -> float:
        covariance = geometry.matrix
        unscaled = formula(covariance, limit)
        budget = float(np.sum(unscaled * covariance))
        named = Geometry(unscaled, budget)
        best = budget / len(covariance)
        return abs(worst_task_value(named, covariance) / best / len(covariance) - 1)

    return error
