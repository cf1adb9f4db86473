"""Functions whose gradient is written out: derivatives by autograd, and what they refuse."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hamjepa_audit.models.hamiltonian import Potential
from hamjepa_audit.models.integrators import leapfrog
from hamjepa_audit.models.predictors import HamiltonianPredictor
from hamjepa_audit.objectives.floors import moments
from hamjepa_audit.objectives.projected_spectrum import projected_spectrum
from hamjepa_audit.objectives.sigreg import epps_pulley
from hamjepa_audit.params.arms import HamiltonianParams, PotentialParams
from hamjepa_audit.training.recomputation import recompute_activations
from tests.unit.features import seeded

RAMP = 0.7


POTENTIAL = PotentialParams(
    stiffness=0.3,
    hidden_width=16,
    hidden_layers=2,
    residual_scale=0.5,
    residual_ramp_epochs=10,
    trained=True,
)


def potential(hidden_layers: int = 2) -> Potential:
    params = POTENTIAL.model_copy(update={"hidden_layers": hidden_layers})
    return Potential(params, 7, seeded()).double()


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(seed)).requires_grad_()


def signed_steps(rows: int) -> Tensor:
    """Different sizes and signs."""
    return torch.linspace(-0.4, 0.5, rows, dtype=torch.float64)[:, None]


def recorded_leapfrog(of: Potential, states: Tensor, step: Tensor, steps: int) -> Tensor:
    """With every operation recorded by autograd, the potential's gradient among them."""

    def gradient(q: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(of(q, RAMP).sum(), q, create_graph=True)
        return found

    q, p = states.chunk(2, dim=-1)
    for _ in range(steps):
        p = p - step / 2 * gradient(q)
        q = q + step * p
        p = p - step / 2 * gradient(q)
    return torch.cat([q, p], dim=-1)


def agree(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> None:
    for found, expected in zip(ours, theirs, strict=True):
        assert float(expected.abs().max()) > 0
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("hidden_layers", [1, 2, 3])
@pytest.mark.parametrize("trained", [True, False])
def test_the_leapfrog_flow_has_the_values_and_derivatives_of_autograd(
    steps: int, hidden_layers: int, trained: bool
) -> None:
    of = potential(hidden_layers).requires_grad_(trained)
    states, step = normal(5, 14), signed_steps(5)
    sources = [states, *(of.residual.slope_parameters() if trained else [])]
    ours = of.leapfrog(states, step, steps, torch.tensor(RAMP, dtype=torch.float64))
    theirs = recorded_leapfrog(of, states, step, steps)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-14)
    cotangent = normal(5, 14, seed=2).detach()
    agree(*(torch.autograd.grad(result, sources, cotangent) for result in (ours, theirs)))


def test_the_leapfrog_flow_is_the_integrators() -> None:
    of, states = potential(), normal(5, 14).detach()
    q, p = states.chunk(2, dim=-1)
    expected = torch.cat(leapfrog(lambda x: of.gradient(x, RAMP), q, p, signed_steps(5), 3), -1)
    found = of.leapfrog(states, signed_steps(5), 3, RAMP)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)


def test_what_is_not_differentiated_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = HamiltonianPredictor(
        HamiltonianParams(kind="leapfrog", steps=3, step_size=0.2, potential=POTENTIAL),
        14,
        seeded(),
    ).double()
    states, direction = normal(5, 14), torch.tensor([[1.0], [-1], [1], [1], [-1]]).double()
    expected = predictor(states, direction, RAMP)
    assert expected.grad_fn is not None and "LeapfrogFlow" in expected.grad_fn.name()
    monkeypatch.setattr(Potential, "leapfrog", None)
    with torch.no_grad():
        found = predictor(states, direction, RAMP)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)


def test_a_kept_graph_gives_the_same_derivatives_again() -> None:
    """The backward passes reuse memory of the forward pass."""
    of, states = potential(), normal(5, 14)
    for result in (of.leapfrog(states, signed_steps(5), 2, 1.0), of.gradient(states[:, :7])):
        sources = [states, *of.residual.slope_parameters()]
        first, _, again = (
            torch.autograd.grad((factor * result).sum(), sources, retain_graph=True)
            for factor in (1.0, -3.0, 1.0)
        )
        assert all(map(torch.equal, first, again))


def leapfrog_and_gradient(of: Potential, states: Tensor, step: Tensor) -> list[Tensor]:
    return [of.leapfrog(states, step, 2, 1.0), of.gradient(states[:, :7] * 1.0)]


def test_nothing_is_kept_after_the_backward_pass() -> None:
    for result in leapfrog_and_gradient(potential(), normal(5, 14), signed_steps(5)):
        result.sum().backward()
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            result.sum().backward()


@pytest.mark.parametrize("changed", ["weights", "step", "positions"])
def test_what_changes_before_the_backward_pass_is_noticed(changed: str) -> None:
    of, step, positions = potential(), signed_steps(5), normal(5, 7).detach()
    results = {
        "weights": leapfrog_and_gradient(of, normal(5, 14), step),
        "step": [of.leapfrog(normal(5, 14), step, 2, 1.0)],
        "positions": [of.gradient(positions)],
    }
    tensors = {"weights": of.residual.layers[0].weight, "step": step, "positions": positions}
    with torch.no_grad():
        tensors[changed].mul_(2)
    for result in results[changed]:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            result.sum().backward()


def test_the_leapfrog_flow_takes_a_step_at_least() -> None:
    with pytest.raises(ValueError, match="steps is 0: leapfrog takes at least 1"):
        potential().leapfrog(normal(5, 14), signed_steps(5), 0, 1.0)


@pytest.mark.parametrize("shape", [(6, 4), (6, 2, 3), (1, 4)])
def test_moments_have_the_values_and_derivatives_of_autograd(shape: tuple[int, ...]) -> None:
    rows = normal(*shape)
    ours, (variance, mean) = moments(rows), torch.var_mean(rows, dim=0, correction=0)
    assert torch.equal(ours.mean, mean) and torch.equal(ours.variance, variance)
    assert ours.rows == len(rows)
    cotangents = [normal(*shape[1:], seed=seed).detach() for seed in (2, 3)]
    pairs = ((ours.mean, ours.variance), (mean, variance))
    agree(*(torch.autograd.grad(pair, [rows], cotangents) for pair in pairs))


def test_the_variances_derivative_beside_a_large_mean() -> None:
    """In float32, as states are."""
    rows = normal(64, 5).detach().float() + 1000
    (found,) = torch.autograd.grad(moments(rows.requires_grad_()).variance.sum(), rows)
    exact = rows.detach().double()
    torch.testing.assert_close(
        found.double(), 2 / 64 * (exact - exact.mean(dim=0)), rtol=0, atol=2 / 64 * 2e-4
    )


def test_rows_that_share_a_spectrum_get_the_sum_of_its_derivatives() -> None:
    rows, directions = normal(12, 6), normal(2, 6, 3, seed=4).detach()
    both = sum(value.sum() for value in projected_spectrum(rows, directions, 0.1))
    each = sum(sum(projected_spectrum(rows, one, 0.1)) for one in directions)
    agree(*(torch.autograd.grad(value, [rows]) for value in (both, each)))


def recomputed(x: Tensor) -> Tensor:
    layer = nn.Linear(7, 7).double()
    recompute_activations([layer])
    return layer(x)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: potential().gradient(x),
        lambda x: potential().leapfrog(x[:, :2].repeat(1, 7), signed_steps(5), 1, 1.0),
        lambda x: moments(x).variance,
        lambda x: projected_spectrum(x, torch.eye(7).double(), 0.1).logdet,
        lambda x: epps_pulley(x, 5, 3.0),
        recomputed,
    ],
)
def test_second_derivatives_are_refused(function: Callable[[Tensor], Tensor]) -> None:
    """Without the refusal, parts of them would be missing."""
    x = normal(5, 7)
    (first,) = torch.autograd.grad(function(x).sum(), x)
    assert float(first.abs().max()) > 0
    with pytest.raises(RuntimeError, match="no second derivative: leave out create_graph"):
        torch.autograd.grad(function(x).sum(), x, create_graph=True)
