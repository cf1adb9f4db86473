"""Encoder, potential, leapfrog and predictors: independent references and invariances."""

import math

import pytest
import torch
import torchvision
from scipy import stats
from torch import Tensor

from hamjepa_audit.models.encoder import GridPool, TokenEncoder
from hamjepa_audit.models.hamiltonian import Potential, energy
from hamjepa_audit.models.initialisation import initialise
from hamjepa_audit.models.integrators import leapfrog
from hamjepa_audit.models.predictors import (
    HamiltonianPredictor,
    ResidualMLPPredictor,
    build_predictor,
    residual_ramp,
)
from hamjepa_audit.params.arms import (
    HamiltonianParams,
    IdentityParams,
    PotentialParams,
    ResidualMLPParams,
)
from hamjepa_audit.params.studies import EncoderParams


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def potential_params(scale: float = 0.5, ramp_epochs: int = 10) -> PotentialParams:
    return PotentialParams(
        stiffness=0.1,
        hidden_width=16,
        hidden_layers=2,
        residual_scale=scale,
        residual_ramp_epochs=ramp_epochs,
        trained=True,
    )


def leapfrog_params(steps: int = 2, step_size: float = 0.05) -> HamiltonianParams:
    return HamiltonianParams(
        kind="leapfrog", steps=steps, step_size=step_size, potential=potential_params()
    )


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_encoder_is_torchvisions_resnet18_up_to_stage_three(stem: str) -> None:
    params = EncoderParams(stem=stem, width=64, token_channels=32, token_grid=None)
    ours = TokenEncoder(params, "joint", seeded()).double().eval()
    theirs = torchvision.models.resnet18(weights=None).double().eval()
    if stem == "cifar":
        theirs.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False).double()
        theirs.maxpool = torch.nn.Identity()
    weights = {
        name.replace("stem.0", "conv1").replace("stem.1", "bn1"): value
        for name, value in ours.state_dict().items()
        if not name.startswith("token_proj")
    }
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(name.startswith(("layer4", "fc")) for name in missing)
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=seeded(1))
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
    tokens = ours.token_proj(theirs.layer3(theirs.layer2(theirs.layer1(x))))
    assert torch.allclose(ours(images), tokens.permute(0, 2, 3, 1).flatten(1))


@pytest.mark.parametrize(
    ("stem", "grid", "size"), [("cifar", None, 16), ("cifar", None, 31), ("imagenet", 8, 64),
                               ("imagenet", None, 50), ("imagenet", None, 224)]
)  # fmt: skip
def test_state_dimension_is_that_of_the_encoders_output(
    stem: str, grid: int | None, size: int
) -> None:
    params = EncoderParams(stem=stem, width=8, token_channels=6, token_grid=grid)
    encoder = TokenEncoder(params, "phase_space", seeded()).eval()
    assert encoder(torch.zeros(1, 3, size, size)).shape == (1, params.state_dimension(size))


def test_tokens_are_pooled_in_float32_under_autocast() -> None:
    """In bf16, the weights of a bin of three would sum to 1.002, always at the same places."""
    images = torch.randn(2, 4, 14, 14, generator=seeded()).bfloat16()
    in_float32 = GridPool(8)(images.float())
    exact = torch.nn.functional.adaptive_avg_pool2d(images.double(), 8)
    torch.testing.assert_close(in_float32.double(), exact, rtol=1e-6, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        pooled = GridPool(8)(images)
    assert torch.equal(pooled, in_float32.bfloat16())  # rounded once


def test_the_state_is_q_then_p_token_by_token() -> None:
    params = EncoderParams(stem="cifar", width=8, token_channels=6, token_grid=None)
    encoder = TokenEncoder(params, "joint", seeded()).eval()
    images = torch.randn(2, 3, 16, 16, generator=seeded(1))
    tokens = encoder(images).reshape(2, 16, 6)
    encoder.state = "phase_space"
    q, p = encoder(images).chunk(2, dim=1)
    assert torch.equal(q, tokens[..., :3].flatten(1))
    assert torch.equal(p, tokens[..., 3:].flatten(1))


def test_initial_weights_follow_the_generator_alone() -> None:
    params = EncoderParams(stem="cifar", width=8, token_channels=6, token_grid=None)
    torch.manual_seed(0)
    first = TokenEncoder(params, "joint", seeded(3)).state_dict()
    torch.manual_seed(99)
    second = TokenEncoder(params, "phase_space", seeded(3)).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(
        first["stem.0.weight"], TokenEncoder(params, "joint", seeded(4)).stem[0].weight
    )


def test_initial_weights_have_the_documented_scales() -> None:
    params = EncoderParams(stem="cifar", width=64, token_channels=32, token_grid=None)
    encoder = TokenEncoder(params, "joint", seeded())
    convolution = encoder.layer2[1].conv1.weight.detach()
    assert math.isclose(float(convolution.std()), math.sqrt(2 / (128 * 9)), rel_tol=0.02)
    token = encoder.token_proj[0].weight.detach()
    assert float(token.abs().max()) <= 1 / 16
    assert float(token.abs().max()) > 0.9 / 16


def test_linear_layers_start_as_pytorchs() -> None:
    """Weights and biases are uniform in +-1 / sqrt(fan_in), which is 0.1 here."""
    layer = torch.nn.Linear(100, 2000)
    initialise(layer, seeded())
    for tensor in (layer.weight, layer.bias):
        drawn = tensor.detach().flatten()
        assert stats.kstest(drawn.double().numpy() / 0.2 + 0.5, "uniform").pvalue > 0.001


def reference_gradient(potential: Potential, q: Tensor, ramp: float) -> Tensor:
    q = q.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(potential(q, ramp).sum(), q)
    return gradient


@pytest.mark.parametrize("ramp", [0.0, 0.3, 1.0])
def test_closed_form_gradient_is_autograds(ramp: float) -> None:
    potential = Potential(potential_params(), 7, seeded()).double()
    q = torch.randn(5, 7, dtype=torch.float64, generator=seeded(1))
    assert torch.allclose(
        potential.gradient(q, ramp), reference_gradient(potential, q, ramp), atol=1e-14
    )


@pytest.mark.parametrize("hidden_layers", [1, 2, 3])
@pytest.mark.parametrize("trained", [True, False])
def test_derivatives_of_the_closed_form_gradient_are_those_of_autograd_twice(
    hidden_layers: int, trained: bool
) -> None:
    params = potential_params().model_copy(update={"hidden_layers": hidden_layers})
    potential = Potential(params, 7, seeded()).double().requires_grad_(trained)
    q = torch.randn(5, 7, dtype=torch.float64, generator=seeded(1)).requires_grad_()
    *hidden, output = potential.residual.layers
    sources = [q]
    if trained:
        sources += [output.weight, *(weight for layer in hidden for weight in layer.parameters())]
    (expected,) = torch.autograd.grad(potential(q, 0.7).sum(), q, create_graph=True)
    cotangent = torch.randn(5, 7, dtype=torch.float64, generator=seeded(2))
    ours = torch.autograd.grad(potential.gradient(q, 0.7), sources, cotangent)
    theirs = torch.autograd.grad(expected, sources, cotangent)
    for found, reference in zip(ours, theirs, strict=True):
        assert torch.allclose(found, reference, rtol=1e-12, atol=1e-15)


def test_the_ramp_switches_the_learned_part_off_and_on() -> None:
    predictor = HamiltonianPredictor(leapfrog_params(), 6, seeded()).double()
    states = torch.randn(5, 6, dtype=torch.float64, generator=seeded(1))
    direction = torch.ones(5, 1, dtype=torch.float64)
    q, p = states.chunk(2, dim=-1)
    harmonic = leapfrog(lambda x: 0.1 * x, q, p, 0.05, 2)
    assert torch.allclose(predictor(states, direction, 0.0), torch.cat(harmonic, dim=-1))
    assert not torch.allclose(predictor(states, direction, 1.0), predictor(states, direction, 0.5))
    still = energy(predictor.potential, states, 0.0)
    assert torch.allclose(still, 0.5 * p.square().sum(-1) + 0.05 * q.square().sum(-1))


def plain_leapfrog(potential: Potential, q: Tensor, p: Tensor, dt: float, steps: int) -> Tensor:
    for _ in range(steps):
        half = p - dt / 2 * reference_gradient(potential, q, 1.0)
        q = q + dt * half
        p = half - dt / 2 * reference_gradient(potential, q, 1.0)
    return torch.cat([q, p], dim=-1)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_leapfrog_is_half_kick_drift_half_kick(steps: int) -> None:
    potential = Potential(potential_params(), 6, seeded()).double()
    q, p = torch.randn(2, 4, 6, dtype=torch.float64, generator=seeded(1))
    ours = torch.cat(leapfrog(potential.gradient, q, p, 0.3, steps), dim=-1)
    assert torch.allclose(ours, plain_leapfrog(potential, q, p, 0.3, steps), atol=1e-14)


def test_leapfrog_evaluates_the_gradient_once_more_than_it_steps() -> None:
    calls = []

    def gradient(q: Tensor) -> Tensor:
        calls.append(q)
        return q

    leapfrog(gradient, torch.ones(1, 2), torch.ones(1, 2), 0.1, steps=4)
    assert len(calls) == 5


def test_leapfrog_predictor_is_reversible_symplectic_and_nearly_conserves_energy() -> None:
    predictor = HamiltonianPredictor(leapfrog_params(steps=3, step_size=0.2), 8, seeded()).double()
    states = torch.randn(5, 8, dtype=torch.float64, generator=seeded(1))
    signs = torch.tensor([[1.0], [-1.0], [1.0], [1.0], [-1.0]], dtype=torch.float64)
    moved = predictor(states, signs, 0.7)
    assert torch.allclose(predictor(moved, -signs, 0.7), states, atol=1e-13)
    jacobian = torch.autograd.functional.jacobian(
        lambda s: predictor(s[None], signs[:1], 0.7)[0], states[0]
    )
    identity, zero = torch.eye(4, dtype=torch.float64), torch.zeros(4, 4, dtype=torch.float64)
    form = torch.cat([torch.cat([zero, identity], 1), torch.cat([-identity, zero], 1)])
    assert torch.allclose(jacobian.T @ form @ jacobian, form, atol=1e-12)
    before = energy(predictor.potential, states, 0.7)
    assert torch.allclose(energy(predictor.potential, moved, 0.7), before, atol=0.02)


def test_residual_mlp_sees_the_direction_and_shares_its_weights() -> None:
    params = ResidualMLPParams(
        kind="residual_mlp", steps=2, hidden_width=16, hidden_layers=2, step_scale=0.5
    )
    predictor = ResidualMLPPredictor(params, 8, seeded()).double()
    states = torch.randn(3, 8, dtype=torch.float64, generator=seeded(1))
    forward = states.new_ones(3, 1)
    first, second, last = predictor.residual.layers

    def step(s: Tensor, direction: Tensor) -> Tensor:
        x = torch.nn.functional.gelu(first(torch.cat([s, direction], 1)))
        return s + 0.5 * last(torch.nn.functional.gelu(second(x)))

    expected = step(step(states, forward), forward)
    assert torch.allclose(predictor(states, forward, 1.0), expected)
    assert not torch.allclose(predictor(states, -forward, 1.0), expected)


def test_the_default_leapfrog_starts_close_to_the_identity() -> None:
    identity = build_predictor(IdentityParams(kind="identity"), 64, seeded())
    flow = build_predictor(leapfrog_params(), 64, seeded())
    states = torch.randn(100, 64, generator=seeded(1))
    signs = torch.ones(100, 1)
    assert torch.equal(identity(states, signs, 1.0), states)
    q, p = states.chunk(2, dim=1)
    moved_q, _ = flow(states, signs, 1.0).chunk(2, dim=1)
    assert float((moved_q - q - 0.1 * p).detach().abs().max()) < 0.01


def test_the_residual_ramps_by_epoch() -> None:
    params = leapfrog_params()
    assert [residual_ramp(params, epoch) for epoch in (1, 5, 10, 11)] == [0.1, 0.5, 1.0, 1.0]
    unramped = params.model_copy(update={"potential": potential_params(ramp_epochs=0)})
    assert residual_ramp(unramped, 1) == 1.0
    assert residual_ramp(IdentityParams(kind="identity"), 1) == 1.0
