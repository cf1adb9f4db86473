"""Objectives: invariances, plain references and edge cases."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from hamjepa_audit.device_constants import device_constant, device_identity
from hamjepa_audit.objectives.arms import ArmObjective, PhaseSpaceObjective, SIGRegObjective
from hamjepa_audit.objectives.floors import (
    logdet_floor,
    moments,
    orthonormal_directions,
    projection_count,
    variance_floor,
)
from hamjepa_audit.objectives.prediction import lejepa_prediction, phase_space_prediction
from hamjepa_audit.objectives.projected_spectrum import projected_spectrum
from hamjepa_audit.objectives.sigreg import epps_pulley, sigreg, unit_directions
from hamjepa_audit.params import load_study
from hamjepa_audit.params.arms import (
    PhaseSpaceObjectiveParams,
    PredictionParams,
    SIGRegObjectiveParams,
    SpectralLimits,
)

LIMITS = SpectralLimits(minimum_logdet=-1.5, minimum_participation=0.12, maximum_top_share=0.35)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(seed))


def objective_params(folder: Path, arm: str) -> Any:
    arms = load_study(folder, "cifar100").arms
    return next(params.objective for params in arms if params.name == arm)


@pytest.fixture(scope="module")
def hamjepa(params_folder: Path) -> PhaseSpaceObjectiveParams:
    return objective_params(params_folder, "hamjepa")


@pytest.fixture(scope="module")
def sigreg_params(params_folder: Path) -> SIGRegObjectiveParams:
    return objective_params(params_folder, "sigreg")


def plain_epps_pulley(column: list[float], knots: int, limit: float) -> float:
    """The statistic written out as sums."""
    h = limit / (knots - 1)
    total = 0.0
    for j in range(knots):
        t = j * h
        target = math.exp(-t * t / 2)
        weight = (h if j in (0, knots - 1) else 2 * h) * target
        cosine = sum(math.cos(t * x) for x in column) / len(column)
        sine = sum(math.sin(t * x) for x in column) / len(column)
        total += weight * ((cosine - target) ** 2 + sine**2)
    return len(column) * total


def test_epps_pulley_is_the_sum_that_the_protocol_writes() -> None:
    samples = normal(13, 3) * 1.7 + 0.4
    ours = epps_pulley(samples, 9, 3.0)
    expected = [plain_epps_pulley(column.tolist(), 9, 3.0) for column in samples.T]
    assert torch.allclose(ours, torch.tensor(expected, dtype=torch.float64))


def test_sigreg_tells_normal_from_other_laws_and_grows_with_the_batch() -> None:
    directions = unit_directions(16, 64, seeded()).double()
    gaussian = sigreg(normal(2, 4000, 16), directions, 9, 3.0)
    shifted = sigreg(normal(2, 4000, 16) + 0.5, directions, 9, 3.0)
    half = sigreg(normal(2, 2000, 16) + 0.5, directions, 9, 3.0)
    assert float(gaussian) < 1.5
    assert float(shifted) > 20 * float(gaussian)
    assert math.isclose(float(shifted / half), 2.0, rel_tol=0.1)


def test_sigreg_tests_each_view_by_itself() -> None:
    """Opposite deviations of two views must not cancel."""
    directions = unit_directions(4, 16, seeded()).double()
    views = normal(2, 500, 4) + torch.tensor([[[1.0]], [[-1.0]]], dtype=torch.float64)
    both = sigreg(views, directions, 9, 3.0)
    alone = [sigreg(view[None], directions, 9, 3.0) for view in views]
    assert torch.allclose(both, torch.stack(alone).mean())


def test_directions_are_units_and_new_at_every_step(sigreg_params: SIGRegObjectiveParams) -> None:
    directions = unit_directions(32, 8, seeded())
    assert torch.allclose(directions.norm(dim=0), torch.ones(8))
    objective = SIGRegObjective(sigreg_params, seed=1)
    states = torch.randn(2, 16, 32, generator=seeded())
    values = [float(objective.terms(states, step, 1)["sigreg"]) for step in (0, 1, 0)]
    assert values[0] == values[2] != values[1]


def test_floor_directions_are_orthonormal_and_kept_for_sixteen_steps(
    hamjepa: PhaseSpaceObjectiveParams,
) -> None:
    directions = orthonormal_directions(20, 6, seeded()).double()
    assert torch.allclose(directions.T @ directions, torch.eye(6).double(), atol=1e-6)
    objective = PhaseSpaceObjective(hamjepa, 400, seed=1)
    states = torch.randn(2, 16, 400, generator=seeded()) * 0.1
    values = [float(objective.terms(states, step, 1)["logdet_floor"]) for step in (0, 15, 16)]
    assert values[0] == values[1] != values[2]


def test_directions_depend_on_the_runs_seed(
    hamjepa: PhaseSpaceObjectiveParams, sigreg_params: SIGRegObjectiveParams
) -> None:
    # Wider than there are directions: in a square, the log-det doesn't depend on them.
    states = torch.randn(2, 16, 400, generator=seeded()) * 0.1
    makers: dict[str, Callable[[int], ArmObjective]] = {
        "sigreg": lambda seed: SIGRegObjective(sigreg_params, seed),
        "logdet_floor": lambda seed: PhaseSpaceObjective(hamjepa, 400, seed),
    }
    for term, make in makers.items():
        values = [float(make(seed).terms(states, 0, 1)[term].detach()) for seed in (1, 2, 1)]
        assert values[0] == values[2] != values[1], term


def test_lejepa_prediction_has_no_stop_gradient() -> None:
    states = normal(2, 5, 3).requires_grad_()
    loss = lejepa_prediction(states, 2)
    difference = states[0] - states[1]
    assert torch.allclose(loss, difference.square().mean() / 8)
    loss.backward()
    assert torch.allclose(states.grad[0], -states.grad[1])


def test_the_backward_flow_runs_in_reversed_time() -> None:
    """The backward prediction is not the forward one with the views swapped."""

    def drift(states: Tensor, direction: Tensor, ramp: float) -> Tensor:
        return states + direction

    states = torch.zeros(2, 4, 6, dtype=torch.float64)
    states[1] += 1.0
    params = {"matching": "qp", "momentum_weight": 0.0}
    reversed_time = PredictionParams(**params, backward="time_reversed")
    assert float(phase_space_prediction(states, drift, reversed_time, 1.0)) == 0.0
    forward = PredictionParams(**params, backward="forward")
    assert float(phase_space_prediction(states, drift, forward, 1.0)) == pytest.approx(2.0)


def test_floors_see_all_views_at_once(hamjepa: PhaseSpaceObjectiveParams) -> None:
    objective = PhaseSpaceObjective(hamjepa, 12, seed=0).double()
    directions = torch.stack([orthonormal_directions(6, 6, seeded(i)).double() for i in (1, 2)])
    states = normal(2, 10, 12) * 0.05
    split = objective.terms_given(states, [directions], 1.0)
    assert set(split) == set(objective.weights)
    shuffled = states.flatten(0, 1)[torch.randperm(20, generator=seeded())].unflatten(0, (2, 10))
    mixed = objective.terms_given(shuffled, [directions], 1.0)
    for name in ("budget", "variance_floor", "logdet_floor", "mean_penalty"):
        assert torch.allclose(split[name], mixed[name]), name
    assert not torch.allclose(split["prediction"], mixed["prediction"])


def test_terms_are_weighted_by_name(hamjepa: PhaseSpaceObjectiveParams) -> None:
    objective = PhaseSpaceObjective(hamjepa, 12, seed=0)
    terms = {name: torch.tensor(float(value)) for value, name in enumerate(objective.weights, 1)}
    expected = sum(objective.weights[name] * float(term) for name, term in terms.items())
    for order in (terms, dict(reversed(terms.items()))):
        assert float(objective.total(order)) == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"terms are .* but weights"):
        objective.total({"prediction": terms["prediction"]})


def test_what_inference_computed_first_can_be_trained_with(
    hamjepa: PhaseSpaceObjectiveParams,
) -> None:
    """Constants are made once, by whoever needs them first."""
    device_constant.cache_clear()
    device_identity.cache_clear()
    objective, states = PhaseSpaceObjective(hamjepa, 12, seed=0), normal(2, 9, 12).float()
    with torch.inference_mode():
        objective.total(objective.terms(states, 0, 1))
    objective.total(objective.terms(states.requires_grad_(), 0, 1)).backward()
    assert bool(states.grad.isfinite().all())


@pytest.mark.parametrize("scale", [1.0, 1e2, 1e4, 1e6, 1e8])
@pytest.mark.parametrize("rank", [1, 3, 6])
def test_collapsed_directions_count_beside_huge_ones(scale: float, rank: int) -> None:
    """Singular values of the rows, which have half the digits to lose that covariances have."""
    rows = scale * normal(64, rank, seed=rank) @ normal(rank, 10, seed=7)
    directions = orthonormal_directions(10, 6, seeded()).double()
    singular = torch.linalg.svdvals((rows - rows.mean(dim=0)) @ directions)
    expected = float((singular.square() / 63 + 1e-4).log().mean())
    assert float(projected_spectrum(rows, directions, 1e-4).logdet) == pytest.approx(
        expected, rel=1e-8
    )


def multiples_of_one(rows: int, dimension: int) -> Tensor:
    """Rows, float32, that are multiples of one without any rounding."""
    factors = torch.randint(-8, 9, (rows, 1), generator=seeded()).float()
    return factors * (torch.randint(0, 2, (1, dimension), generator=seeded()).float() * 2 - 1)


@pytest.mark.parametrize("exponent", [0, 14, 20, 24])
def test_float32_features_collapse_beside_huge_ones(exponent: int) -> None:
    """All features are exact multiples of one, in float32 as the states of a training step."""
    directions = orthonormal_directions(256, 32, seeded(1))
    rows = 2.0**exponent * multiples_of_one(64, 256)
    centred = (rows - rows.mean(dim=0)).double() @ directions.double()
    singular = torch.linalg.svdvals(centred)
    expected = float((singular.square() / 63 + 1e-4).log().mean())
    found = float(projected_spectrum(rows, directions, 1e-4).logdet)
    assert found == pytest.approx(expected, rel=1e-6) and found < -7


def test_logdet_floor_of_features_that_all_collapse_is_on() -> None:
    flat = torch.zeros(2, 64, 4)
    loss = logdet_floor(flat, torch.eye(4).expand(2, 4, 4), 1e-4, (LIMITS, LIMITS))
    assert float(loss) > 50


def test_features_that_are_not_finite_have_no_spectrum_and_raise_nothing() -> None:
    """The run's check of its losses names the step, which an error in the middle of it can't."""
    directions = orthonormal_directions(8, 5, seeded()).double()
    for broken in (math.nan, math.inf, 1e300):
        rows = normal(20, 8)
        rows[3, 2] = broken
        assert bool(projected_spectrum(rows, directions, 1e-4).logdet.isnan()), broken
    # Finite, but so large that a collapsed direction is lost in spite of the second factorisation.
    directions = orthonormal_directions(256, 128, seeded()).double()
    lost = projected_spectrum(multiples_of_one(512, 256) * 2.0**60, directions, 1e-4)
    assert bool(lost.logdet.isnan())


@pytest.mark.parametrize("failing", [1, 2])
def test_a_factorisation_that_failed_is_not_used_whatever_it_left(
    failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On some devices a failed one leaves finite numbers, and its error code is not raised."""
    original = torch.linalg.cholesky_ex
    directions = orthonormal_directions(8, 5, seeded()).double()
    calls = 0

    def failed(matrix: Tensor) -> Any:
        nonlocal calls
        calls += 1
        found = original(matrix)
        return SimpleNamespace(L=found.L, info=found.info + (calls == failing))

    monkeypatch.setattr(torch.linalg, "cholesky_ex", failed)
    assert bool(projected_spectrum(normal(20, 8), directions, 1e-4).logdet.isnan())
    assert calls == 2


def test_top_share_is_that_of_the_largest_eigenvalue() -> None:
    rows = normal(40, 8).requires_grad_()
    directions = orthonormal_directions(8, 5, seeded()).double()
    share = projected_spectrum(rows, directions, 1e-4).top_share
    ridge = 1e-4 * torch.eye(5, dtype=torch.float64)
    eigenvalues = torch.linalg.eigvalsh(torch.cov((rows @ directions).T) + ridge)
    expected = eigenvalues[-1] / eigenvalues.sum()
    assert float(share.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
    ours, theirs = (torch.autograd.grad(value, rows)[0] for value in (share, expected))
    assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_the_shares_denominators_are_guarded() -> None:
    """As in the author's code, by 1e-12: of flat rows, only the ridge is left."""
    flat = projected_spectrum(torch.zeros(5, 4), torch.eye(4), 1e-12)
    assert float(flat.top_share) == pytest.approx(1 / (4 + 1), rel=1e-9)
    assert float(flat.participation) == pytest.approx((4e-12) ** 2 / (1e-12 + 4e-24) / 4, rel=1e-9)


@pytest.mark.parametrize("gap", [1e-3, 1e-4, 1e-5, 1e-6])
def test_the_top_of_two_close_eigenvalues(gap: float) -> None:
    """Low by at most 1 / (e 2^20) of it, and exact from a gap of 0.004% on."""
    corners = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]).double()
    scales = torch.tensor([1.0, 1 - gap, 0.5], dtype=torch.float64).sqrt()
    share = projected_spectrum(corners * scales, torch.eye(3).double(), 1e-12).top_share
    error = 1 / (2.5 - gap) - float(share)
    assert -1e-12 < error < (1e-12 if gap > 4e-5 else 1 / (math.e * 2**20))


def test_equal_top_eigenvalues_are_lowered_together() -> None:
    """Three uncorrelated coordinates, two of one variance: neither of these is preferred."""
    rows = torch.tensor([[1.0, 1, 0.5], [1, -1, -0.5], [-1, 1, -0.5], [-1, -1, 0.5]]).double()
    rows.requires_grad_()
    share = projected_spectrum(rows, torch.eye(3, dtype=torch.float64), 1e-4).top_share
    assert float(share.detach()) == pytest.approx(4 / 9, rel=1e-3)
    (gradient,) = torch.autograd.grad(share, rows)
    # Share (l1 + l2) / 2 / (l1 + l2 + l3) of l = 4/3, 4/3, 1/3, and dl/dx = 2 x / 3.
    expected = (0.5 / 3 - 4 / 3 / 9) * 2 / 3 * rows.detach()[:, :2]
    assert torch.allclose(gradient[:, :2], expected, rtol=1e-3)


def test_logdet_floor_pushes_a_collapsed_direction_up() -> None:
    directions = torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    rows = normal(50, 3) * torch.tensor([1.0, 1.0, 0.01], dtype=torch.float64)
    limits = LIMITS.model_copy(update={"minimum_logdet": 1.0})
    rows.requires_grad_()
    logdet_floor(rows.expand(2, -1, -1), directions, 1e-4, (limits, limits)).backward()
    moved = (rows - 1e-3 * rows.grad).detach()
    assert float(moved[:, 2].std()) > float(rows[:, 2].detach().std())


def test_a_single_row_has_no_floor() -> None:
    row = normal(1, 4)
    directions = torch.zeros(2, 4, 1, dtype=torch.float64)
    assert float(logdet_floor(row.expand(2, 1, 4), directions, 1e-4, (LIMITS, LIMITS))) == 0.0
    assert float(variance_floor(moments(row), 0.2, 1e-4)) == 0.0
    assert projection_count(128, 1024, 10) == 9


def test_spectrum_is_invariant_to_shifts_and_participation_to_scale() -> None:
    directions = orthonormal_directions(8, 5, seeded()).double()
    rows = normal(40, 8)
    plain = projected_spectrum(rows, directions, 1e-12)
    moved = projected_spectrum(3 * rows + 5, directions, 1e-12)
    assert torch.allclose(plain.participation, moved.participation)
    assert torch.allclose(plain.top_share, moved.top_share)
    assert float(moved.logdet - plain.logdet) == pytest.approx(math.log(9))


def test_epps_pulley_has_the_gradient_of_the_plain_formula() -> None:
    samples = normal(2, 7, 3, seed=5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: epps_pulley(x, 9, 3.0), samples)


def test_epps_pulley_keeps_no_copy_of_the_samples_for_each_frequency() -> None:
    samples = normal(16, 8).requires_grad_()
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        epps_pulley(samples, 101, 3.0)
    assert sum(kept) == samples.numel() + 2 * 100 * samples.shape[1]
