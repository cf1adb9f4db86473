"""The random instances that theorems are checked on, and their generators."""

import copy
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hamjepa_audit.models.hamiltonian import Potential
from hamjepa_audit.params.arms import PotentialParams
from hamjepa_audit.params.theory import TheoryParams

Matrix = NDArray[np.floating[Any]]  # float64 throughout
Generator = np.random.Generator


def generator_for(seed: int, purpose: str) -> Generator:
    """A generator for one purpose, so that no row's draws affect another's."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])


@dataclass(frozen=True, eq=False)
class Geometry:
    """A downstream geometry H, (d, d) symmetric positive definite, and a budget c = tr(H S) > 0."""

    matrix: Matrix
    budget: float

    @property
    def dimension(self) -> int:
        """The dimension d."""
        return len(self.matrix)

    @cached_property
    def factor(self) -> Matrix:
        """Lower C with C C' = H: w = C z turns the ellipsoid w'H^-1 w <= 1 into the unit ball."""
        return np.linalg.cholesky(self.matrix)


@dataclass(frozen=True, eq=False)
class MechanicalSystem:
    """A learned potential in float64, and initial states q and p, (N, d) each."""

    potential: Potential
    q: Tensor
    p: Tensor

    @property
    def dimension(self) -> int:
        """The dimension d of q."""
        return self.q.shape[-1]

    def single_precision(self) -> "MechanicalSystem":
        """The same system in float32."""
        return MechanicalSystem(
            copy.deepcopy(self.potential).float(), self.q.float(), self.p.float()
        )


def positive_definite(dimension: int, condition_number: float, generator: Generator) -> Matrix:
    """A random symmetric positive definite matrix, (d, d).

    Eigenvectors are uniform; the logarithms of the eigenvalues are uniform between the extremes,
    which are attained; the smallest eigenvalue is log-normal.
    """
    spread = np.log(condition_number)
    logarithms = np.r_[0.0, spread, spread * generator.random(dimension - 2)]
    eigenvalues = np.exp(generator.standard_normal() + logarithms)
    vectors, _ = np.linalg.qr(generator.standard_normal((dimension, dimension)))
    matrix = (vectors * eigenvalues) @ vectors.T
    return (matrix + matrix.T) / 2


def geometry(dimension: int, condition_number: float, generator: Generator) -> Geometry:
    """A random geometry with a log-normal budget."""
    matrix = positive_definite(dimension, condition_number, generator)
    return Geometry(matrix, float(np.exp(generator.standard_normal())))


def geometries(
    params: TheoryParams, generator: Generator, dimensions: tuple[int, ...] | None = None
) -> Iterator[Geometry]:
    """Geometries of every dimension (those of the parameters by default) and condition number."""
    chosen = params.geometries
    for dimension in chosen.dimensions if dimensions is None else dimensions:
        for condition_number in chosen.condition_numbers:
            for _ in range(chosen.instances):
                yield geometry(dimension, condition_number, generator)


def covariance_on_budget(
    geometry: Geometry, generator: Generator, samples_per_dimension: int = 4
) -> Matrix:
    """A random covariance S with tr(H S) = c, (d, d); more samples bring it nearer to H^-1."""
    columns = samples_per_dimension * geometry.dimension
    draws = generator.standard_normal((geometry.dimension, columns))
    whitened = draws @ draws.T
    half = np.linalg.solve(geometry.factor.T, whitened)
    covariance = np.linalg.solve(geometry.factor.T, half.T)
    return (covariance + covariance.T) / 2 * (geometry.budget / np.trace(whitened))


def spectra(params: TheoryParams, generator: Generator) -> Iterator[NDArray[np.float64]]:
    """Eigenvalues of random covariances, (k,), positive, of any trace."""
    chosen = params.spectra
    for order in chosen.orders:
        for concentration in chosen.concentrations:
            for _ in range(chosen.instances):
                shares = generator.dirichlet(np.full(order, concentration))
                shares = np.maximum(shares, np.finfo(float).tiny)
                yield shares * np.exp(generator.standard_normal())


def mechanical_system(
    dimension: int, potential: PotentialParams, trajectories: int, generator: Generator
) -> MechanicalSystem:
    """The project's own potential with random weights, and standard normal initial states."""
    torch_generator = torch.Generator().manual_seed(int(generator.integers(2**62)))
    built = Potential(potential, dimension, torch_generator).double().requires_grad_(False)
    q, p = torch.from_numpy(generator.standard_normal((2, trajectories, dimension)))
    return MechanicalSystem(built, q, p)


def potential_params(
    params: TheoryParams, residual_scale: float, width: int, layers: int
) -> PotentialParams:
    """A potential with the residual switched on from the start."""
    return PotentialParams(
        stiffness=params.maps.stiffness,
        hidden_width=width,
        hidden_layers=layers,
        residual_scale=residual_scale,
        residual_ramp_epochs=0,
        trained=True,
    )


def mechanical_systems(
    params: TheoryParams, trajectories: int, generator: Generator
) -> Iterator[MechanicalSystem]:
    """Systems of every dimension and residual scale."""
    chosen = params.maps
    for dimension in chosen.dimensions:
        for scale in chosen.residual_scales:
            potential = potential_params(params, scale, chosen.hidden_width, chosen.hidden_layers)
            yield mechanical_system(dimension, potential, trajectories, generator)
