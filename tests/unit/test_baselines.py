"""VICReg, RDMReg and the sliced Wasserstein distance compared with plain references."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from hamjepa_audit.objectives.arms import RDMRegObjective, VICRegObjective
from hamjepa_audit.objectives.prediction import view_distance
from hamjepa_audit.objectives.rdmreg import rectified_generalised_gaussian, sliced_wasserstein
from hamjepa_audit.objectives.sigreg import unit_directions
from hamjepa_audit.objectives.vicreg import covariance_penalty
from hamjepa_audit.params import load_study
from hamjepa_audit.randomness import Stream, derived_seed

Array = NDArray[np.float64]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(seed))


def objective_params(folder: Path, arm: str) -> Any:
    arms = load_study(folder, "cifar100_controls").arms
    return next(params.objective for params in arms if params.name == arm)


def plain_vicreg(first: Array, second: Array) -> dict[str, float]:
    """The paper's sums, written out as loops: gamma = 1, epsilon = 1e-4."""
    n, d = first.shape
    terms = {"invariance": 0.0, "variance": 0.0, "covariance": 0.0}
    for i in range(n):
        for j in range(d):
            terms["invariance"] += (first[i, j] - second[i, j]) ** 2 / (n * d)
    for view in (first, second):
        mean = view.sum(axis=0) / n
        for j in range(d):
            for k in range(d):
                c = sum((view[i, j] - mean[j]) * (view[i, k] - mean[k]) for i in range(n)) / (n - 1)
                if j == k:
                    terms["variance"] += max(0.0, 1.0 - np.sqrt(c + 1e-4)) / d
                else:
                    terms["covariance"] += c**2 / d
    return terms


def test_vicreg_is_what_its_paper_writes(params_folder: Path) -> None:
    objective = VICRegObjective(objective_params(params_folder, "vicreg"))
    scales = torch.tensor([0.1, 0.7, 1.0, 1.5, 3.0], dtype=torch.float64)
    states = (normal(2, 9, 5) @ normal(5, 5, seed=1)) * scales
    terms = objective.terms(states, 0, 1)
    expected = plain_vicreg(*states.numpy())
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(expected, rel=1e-12)
    total = 25 * expected["invariance"] + 25 * expected["variance"] + expected["covariance"]
    assert float(objective.total(terms)) == pytest.approx(total, rel=1e-12)
    assert expected["variance"] > 0.1


def test_both_views_are_pulled_towards_each_other() -> None:
    states = normal(2, 5, 3).requires_grad_()
    view_distance(states).backward()
    assert states.grad is not None and bool((states.grad != 0).all())
    assert torch.allclose(states.grad[0], -states.grad[1])


def test_vicregs_covariance_sees_no_variance() -> None:
    rows = torch.tensor([[1e4, 1.0], [-1e4, 1.0], [1e4, -1.0], [-1e4, -1.0]], dtype=torch.float64)
    assert float(covariance_penalty(rows)) == 0.0


def test_vicregs_gradient_is_finite_at_collapse(params_folder: Path) -> None:
    objective = VICRegObjective(objective_params(params_folder, "vicreg"))
    states = torch.ones(2, 6, 3, requires_grad=True)
    objective.total(objective.terms(states, 0, 1)).backward()
    assert bool(states.grad.isfinite().all())


@pytest.mark.parametrize("seed", range(5))
def test_slices_agree_with_scipy_on_a_line(seed: int) -> None:
    """On sorted samples, SciPy's W1 gives the steps of the quantile functions' difference."""
    ours, theirs = normal(40, 6, seed=seed), 1.7 * normal(40, 6, seed=seed + 50).exp()
    directions = unit_directions(6, 1, seeded(seed)).double()
    first, second = ((x @ directions)[:, 0].numpy() for x in (ours, theirs))
    squared = float(sliced_wasserstein(ours, theirs, directions))
    # SciPy's W1 is the integral of |F^-1 - G^-1|, and W2^2 that of its square. The differences of
    # the sorted samples are those of the quantile functions, step by step.
    steps = [
        stats.wasserstein_distance([a], [b])
        for a, b in zip(sorted(first), sorted(second), strict=True)
    ]
    assert np.mean(steps) == pytest.approx(stats.wasserstein_distance(first, second), rel=1e-12)
    assert squared == pytest.approx(np.mean(np.square(steps)), rel=1e-12)


def test_a_shift_along_a_slice_is_the_distance() -> None:
    """If all mass is shifted equally, W2 equals SciPy's W1."""
    ours = normal(30, 4)
    directions = unit_directions(4, 7, seeded()).double()
    shift = torch.tensor([0.3, -0.2, 0.5, 1.0], dtype=torch.float64)
    distances = [
        stats.wasserstein_distance((ours @ u).numpy(), ((ours + shift) @ u).numpy())
        for u in directions.T
    ]
    found = float(sliced_wasserstein(ours, ours + shift, directions))
    assert found == pytest.approx(np.mean(np.square(distances)), rel=1e-9)


def test_the_distance_is_the_best_pairing() -> None:
    """Compares with the best of all pairings of a small sample, by linear assignment."""
    from scipy.optimize import linear_sum_assignment

    ours, theirs, directions = (
        normal(2, 8, 3),
        normal(8, 3, seed=1),
        unit_directions(3, 4, seeded()),
    )
    expected = []
    for view in ours:
        for u in directions.double().T:
            cost = ((view @ u)[:, None] - (theirs @ u)[None]).square().numpy()
            rows, columns = linear_sum_assignment(cost)
            expected.append(cost[rows, columns].mean())
    found = float(sliced_wasserstein(ours, theirs, directions.double()))
    assert found == pytest.approx(np.mean(expected), rel=1e-12)


@pytest.mark.parametrize(
    ("shape", "location", "scale"),
    [(1.0, 0.0, 0.7), (2.0, 0.5, 1.0), (0.5, -0.2, 0.3), (4.0, 0.3, 2.0)],
)
def test_the_target_is_a_rectified_generalised_gaussian(
    shape: float, location: float, scale: float
) -> None:
    """Compares the positive part with SciPy's distribution, and the zeros with its mass below 0."""
    law = stats.gennorm(shape, loc=location, scale=scale * shape ** (1 / shape))
    drawn = rectified_generalised_gaussian(
        200, 100, shape, location, scale, np.random.default_rng(7)
    )
    values = drawn.double().numpy().ravel()
    assert values.min() == 0.0
    below = law.cdf(0.0)
    assert np.mean(values == 0) == pytest.approx(below, abs=4 * np.sqrt(0.25 / values.size))
    positive = values[values > 0]
    test = stats.kstest(positive, lambda x: (law.cdf(x) - below) / (1 - below))
    assert test.pvalue > 1e-3
    assert drawn.dtype == torch.float32


def test_the_arms_target_has_unit_variance_before_the_relu(params_folder: Path) -> None:
    params = objective_params(params_folder, "rdmreg")
    scale = params.scale * params.shape ** (1 / params.shape)
    assert stats.gennorm(params.shape, scale=scale).var() == pytest.approx(1.0)


def plain_rdmreg(states: Array, target: Array, directions: Array) -> float:
    total = 0.0
    for view in states:
        for u in directions.T:
            ours, theirs = sorted(view @ u), sorted(target @ u)
            total += sum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True)) / len(ours)
    return total / (len(states) * directions.shape[1])


def test_rdmreg_is_invariance_and_the_distance_to_its_target(params_folder: Path) -> None:
    params = objective_params(params_folder, "rdmreg")
    objective = RDMRegObjective(params, seed=3)
    states = normal(2, 10, 6).relu()
    terms = objective.terms(states, 5, 1)
    generator = np.random.default_rng(np.random.SeedSequence([int(Stream.RDMREG_TARGET), 3, 5]))
    target = rectified_generalised_gaussian(10, 6, 1.0, 0.0, params.scale, generator)
    directions = unit_directions(6, 64, seeded(derived_seed(Stream.RDMREG_DIRECTIONS, 3, 5)))
    expected = plain_rdmreg(states.numpy(), target.double().numpy(), directions.double().numpy())
    assert float(terms["rdmreg"]) == pytest.approx(expected, rel=1e-12)
    first, second = states.numpy()
    assert float(terms["invariance"]) == pytest.approx(float(np.mean((first - second) ** 2)))
    weighted = terms["invariance"] + params.weight * terms["rdmreg"]
    assert float(objective.total(terms)) == pytest.approx(float(weighted))
    assert float(objective.terms(states, 6, 1)["rdmreg"]) != float(terms["rdmreg"])
