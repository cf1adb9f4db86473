"""Instances and formulas of the theorems' checks, compared with manual calculations."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from hamjepa_audit.models.integrators import leapfrog
from hamjepa_audit.params.theory import TheoryParams
from hamjepa_audit.theory.covariance import optimal_covariance, price_of_isotropy, worst_task_value
from hamjepa_audit.theory.gibbs import gibbs_states
from hamjepa_audit.theory.instances import (
    Geometry,
    covariance_on_budget,
    generator_for,
    geometry,
    mechanical_systems,
    positive_definite,
)
from hamjepa_audit.theory.leapfrog import energies
from hamjepa_audit.theory.symplectic import (
    log_abs_determinant,
    reciprocity_defect,
    symplectic_form,
    symplecticity_defect,
)
from tests.unit import tiny_theory

params = tiny_theory.params


@pytest.mark.parametrize(("dimension", "condition"), [(2, 1.0), (2, 1e6), (40, 1e3)])
def test_instances_are_what_they_say(dimension: int, condition: float) -> None:
    generator = generator_for(3, "instances")
    matrix = positive_definite(dimension, condition, generator)
    assert np.array_equal(matrix, matrix.T)
    assert np.linalg.cond(matrix) == pytest.approx(condition, rel=1e-6)
    drawn = geometry(dimension, condition, generator)
    for samples in (1, 8):
        covariance = covariance_on_budget(drawn, generator, samples)
        assert np.trace(drawn.matrix @ covariance) == pytest.approx(drawn.budget)
        assert np.linalg.eigvalsh(covariance)[0] > 0


def test_the_covariance_of_a_diagonal_geometry_by_hand() -> None:
    # H = diag(4, 1), c = 2: S* = diag(1/4, 1), V = 1; isotropic: (2/5) I, worst task (2, 0).
    by_hand = Geometry(np.diag([4.0, 1.0]), 2.0)
    assert np.allclose(optimal_covariance(by_hand), np.diag([0.25, 1.0]))
    assert worst_task_value(by_hand, optimal_covariance(by_hand)) == pytest.approx(1.0)
    assert worst_task_value(by_hand, 0.4 * np.eye(2)) == pytest.approx(1.6)
    assert price_of_isotropy(by_hand) == pytest.approx(1.6)


def test_gibbs_states_have_independent_momenta_of_the_same_temperature() -> None:
    drawn = geometry(3, 10.0, generator_for(0, "gibbs"))
    states = gibbs_states(drawn, 200_000, generator_for(1, "gibbs"))
    covariance = states @ states.T / states.shape[1]
    assert np.allclose(covariance[3:, 3:], drawn.budget / 3 * np.eye(3), atol=0.02 * drawn.budget)
    spent = np.trace(drawn.matrix @ covariance[:3, :3])
    assert spent == pytest.approx(drawn.budget, rel=0.02)


def test_defects_of_a_jacobian_that_is_known() -> None:
    generator = np.random.default_rng(0)
    symmetric = generator.standard_normal((6, 6))
    form = symplectic_form(torch.eye(6, dtype=torch.float64))
    # exp(J S) is symplectic for every symmetric S, so the exact defects are known.
    known = torch.from_numpy(expm(form.numpy() @ (symmetric + symmetric.T) / 4))
    assert float(symplecticity_defect(known)) < 1e-12
    assert float(log_abs_determinant(known).abs()) < 1e-12
    assert float(reciprocity_defect(known)) < 1e-10
    scaled = torch.stack([known, 2 * known])
    assert symplecticity_defect(scaled).tolist() == pytest.approx([0, 3], abs=1e-12)
    assert log_abs_determinant(scaled).tolist() == pytest.approx([0, 6 * math.log(2)], abs=1e-12)
    assert reciprocity_defect(scaled).tolist() == pytest.approx([0, 2 * math.log(2)], abs=1e-10)
    by_definition = known.T @ form @ known - form
    assert torch.linalg.matrix_norm(form) == pytest.approx(math.sqrt(6))
    assert float(torch.linalg.matrix_norm(by_definition)) < 1e-12
    assert float(symplecticity_defect(known.float())) == pytest.approx(0, abs=1e-5)


def test_systems_are_of_the_project_and_float64(params: TheoryParams) -> None:
    system = next(mechanical_systems(params, 3, generator_for(0, "systems")))
    recorded = energies(system, leapfrog, 0.05, 2, 4)
    assert recorded.shape == (5, 3) and recorded.dtype == torch.float64
    assert system.dimension == 2
    single = system.single_precision()
    assert single.potential.gradient(single.q).dtype == torch.float32
    assert system.potential.gradient(system.q).dtype == torch.float64
