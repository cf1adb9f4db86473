"""Runners of the golden cases of models, objectives and the schedule."""

from collections.abc import Callable

import torch
from torch import Tensor

from hamjepa_audit.models.encoder import TokenEncoder
from hamjepa_audit.models.hamiltonian import Potential, energy
from hamjepa_audit.models.predictors import HamiltonianPredictor
from hamjepa_audit.objectives.arms import PhaseSpaceObjective, SIGRegObjective
from hamjepa_audit.objectives.floors import (
    energy_budget,
    logdet_floor,
    mean_penalty,
    moments,
    projection_count,
    variance_floor,
)
from hamjepa_audit.objectives.prediction import lejepa_prediction, phase_space_prediction
from hamjepa_audit.objectives.projected_spectrum import projected_spectrum
from hamjepa_audit.objectives.sigreg import epps_pulley, sigreg
from hamjepa_audit.params.arms import (
    BudgetParams,
    HamiltonianParams,
    LogDetFloorParams,
    MeanPenaltyParams,
    PhaseSpaceObjectiveParams,
    PotentialParams,
    PredictionParams,
    SIGRegObjectiveParams,
    SpectralLimits,
    VarianceFloorParams,
)
from hamjepa_audit.params.studies import EncoderParams
from hamjepa_audit.training.schedule import learning_rate
from tests.golden.harness import Case

NO_PARTICIPATION_FLOOR = 0.0
NO_TOP_CEILING = 1.0


def _epps_pulley(case: Case) -> None:
    x = case.tensor("in_x", requires_grad=True)
    columns = x.unsqueeze(-1) if x.ndim == 1 else x
    statistic = epps_pulley(columns, case.scalars["n_points"], case.scalars["t_max"])
    case.check("exp_stat", statistic.reshape(case.arrays["exp_stat"].shape))
    _backward(statistic.flatten(), case.tensor("cot_stat").flatten())
    case.check("grad_in_x", x.grad)


def _sigreg(case: Case) -> None:
    z = case.tensor("in_z", requires_grad=True)
    directions = case.tensor("param_A")
    knots, limit = case.scalars["n_points"], case.scalars["t_max"]
    statistic = epps_pulley(z @ directions, knots, limit)
    match case.scalars["reduction"]:
        case "mean":
            loss = sigreg(z, directions, knots, limit)
            case.check("exp_loss", loss)
            loss.backward()
        case "sum":
            case.check("exp_loss", statistic.sum())
            statistic.sum().backward()
        case None:
            case.check("exp_stat", statistic)
            _backward(statistic, case.tensor("cot_stat"))
    case.check("grad_in_z", z.grad)


def _budget(case: Case) -> None:
    z = case.tensor("in_z", requires_grad=True)
    halves = moments(z.flatten(0, -2).unflatten(-1, (2, -1)))
    loss = energy_budget(halves, case.scalars["q_target"], case.scalars["p_target"])
    _check_loss(case, loss, in_z=z)


def _variance_floor(case: Case) -> None:
    x = case.tensor("in_x", requires_grad=True)
    rows = x.flatten(0, -2)
    loss = variance_floor(moments(rows), case.scalars["std_floor"], case.scalars["eps"])
    case.check("exp_std", torch.sqrt(rows.var(dim=0, correction=0) + case.scalars["eps"]))
    _check_loss(case, loss, in_x=x)


def _logdet_floor(case: Case) -> None:
    x = case.tensor("in_x", requires_grad=True)
    scalars = case.scalars
    limits = SpectralLimits(
        minimum_logdet=scalars["logdet_floor"],
        minimum_participation=_or(scalars["pr_norm_floor"], NO_PARTICIPATION_FLOOR),
        maximum_top_share=_or(scalars["eigmax_frac_ceiling"], NO_TOP_CEILING),
    )
    if len(x) < 2:
        loss = logdet_floor(torch.stack([x, x]), x, scalars["eps"], (limits, limits))
        _check_loss(case, loss, in_x=x)
        return
    k = projection_count(scalars["proj_dim"], x.shape[1], len(x))
    directions = case.tensor("param_R")
    assert directions.shape == (x.shape[1], k)
    spectrum = projected_spectrum(x, directions, scalars["eps"])
    case.check("exp_logdet_per_dim", spectrum.logdet)
    case.check("exp_pr_norm", spectrum.participation)
    case.check("exp_pr", spectrum.participation * k)
    case.check("exp_eigmax_frac", spectrum.top_share)
    covariance = torch.cov((x @ directions).T).reshape(k, k)
    case.check("exp_trace", covariance.trace() + k * scalars["eps"])
    # Both halves of the state are x, so the floor of one half is half the sum.
    halves, both = torch.stack([x, x]), torch.stack([directions, directions])
    loss = 0.5 * logdet_floor(halves, both, scalars["eps"], (limits, limits))
    _check_loss(case, loss, in_x=x)


def _mean_penalty(case: Case) -> None:
    z = case.tensor("in_z", requires_grad=True)
    _check_loss(case, mean_penalty(moments(z.flatten(0, -2))), in_z=z)


def _hamiltonian(case: Case) -> None:
    potential = _potential(case)
    q = case.tensor("in_q", requires_grad=True)
    states = torch.cat([q, case.tensor("in_p")], dim=-1)
    case.check("exp_V", potential(q))
    case.check("exp_H", energy(potential, states))
    gradient = potential.gradient(q)
    case.check("exp_gradV", gradient)
    _backward(gradient, case.tensor("cot_gradV"))
    case.check("grad_in_q", q.grad)
    _check_weights(case, potential)


def _leapfrog(case: Case) -> None:
    predictor = _leapfrog_predictor(case)
    z = case.tensor("in_z", requires_grad=True)
    rows = z.flatten(0, -2)

    def flow(states: Tensor, direction: int) -> Tensor:
        signs = states.new_full((len(states), 1), direction)
        result: Tensor = predictor(states, signs, 1.0)
        return result

    sign = case.scalars["direction"]
    final = flow(rows, sign)
    case.check("exp_zT", final.reshape(z.shape))
    returned = flow(final, -sign)
    error = (returned - rows).detach().abs().max()
    assert float(error) < 1e-13 * max(1.0, float(rows.detach().abs().max()))
    if "exp_jacobian_row0" in case.arrays:
        first = rows[:1].detach()
        jacobian = torch.autograd.functional.jacobian(lambda x: flow(x, sign), first)
        case.check("exp_jacobian_row0", jacobian[0, :, 0, :])
    _backward(final.reshape(z.shape), case.tensor("cot_zT"))
    case.check("grad_in_z", z.grad)
    _check_weights(case, predictor.potential)


def _consistency(case: Case) -> None:
    scalars = case.scalars
    predictor = _leapfrog_predictor(case)
    a = case.tensor("in_za", requires_grad=True)
    b = case.tensor("in_zb", requires_grad=True)
    two_forward = scalars["symmetrised_by_two_forward_calls"]
    params = PredictionParams(
        matching=scalars["match"],
        momentum_weight=scalars["p_weight"],
        backward="forward" if two_forward else "time_reversed",
    )
    loss = phase_space_prediction(torch.stack([a, b]), predictor, params, 1.0)
    _check_loss(case, loss, in_za=a, in_zb=b)
    _check_weights(case, predictor.potential)


def _lejepa(case: Case) -> None:
    z = case.tensor("in_z", requires_grad=True)
    _check_loss(case, lejepa_prediction(z, case.scalars["num_global_views"]), in_z=z)


def _total_hamjepa(case: Case) -> None:
    imagenet = case.component.endswith("imagenet")
    z = case.tensor("in_z", requires_grad=True)
    objective = PhaseSpaceObjective(_total_params(case, imagenet), z.shape[-1], seed=0).double()
    potential = objective.predictor.potential
    _load_weights(case, potential)
    directions = torch.stack([case.tensor("param_Rq"), case.tensor("param_Rp")])
    terms = objective.terms_given(z, [directions], ramp=1.0)
    case.check("exp_parts", torch.stack(list(terms.values())))
    _check_loss(case, objective.total(terms), in_z=z)
    _check_weights(case, potential)


def _total_params(case: Case, imagenet: bool) -> PhaseSpaceObjectiveParams:
    s = case.scalars
    q = SpectralLimits(
        minimum_logdet=s["ldf"], minimum_participation=s["qpr"], maximum_top_share=s["qe"]
    )
    p = SpectralLimits(
        minimum_logdet=s["ldf"], minimum_participation=s["ppr"], maximum_top_share=s["pe"]
    )
    return PhaseSpaceObjectiveParams(
        kind="phase_space",
        predictor=_leapfrog_params(case, s["s"], s["a"]),
        prediction=PredictionParams(
            matching=s["match"],
            momentum_weight=s["pw"],
            backward="forward" if imagenet else "time_reversed",
        ),
        budget=BudgetParams(weight=s["lb"], q_target=s["q_target"], p_target=s["p_target"]),
        variance_floor=VarianceFloorParams(
            weight=s["lv"],
            minimum_std=s["sf"],
            epsilon=s["veps"],
            parts=("q",) if imagenet else ("q", "p"),
        ),
        logdet_floor=LogDetFloorParams(
            weight=s["ll"],
            directions=s["proj_dim"],
            ridge=s["eps"],
            redraw_every_steps=16,
            q=q,
            p=p,
        ),
        mean_penalty=MeanPenaltyParams(weight=s["lm"]),
    )


def _total_sigreg(case: Case) -> None:
    s = case.scalars
    z = case.tensor("in_z", requires_grad=True)
    assert len(z) == s["num_global_views"]
    directions = case.tensor("param_A")
    params = SIGRegObjectiveParams(
        kind="sigreg",
        weight=s["lambda_reg"],
        prediction_weight=1.0,
        directions=directions.shape[1],
        knots=s["n_points"],
        maximum_frequency=s["t_max"],
    )
    objective = SIGRegObjective(params, seed=0)
    terms = objective.terms_given(z, [directions], ramp=1.0)
    case.check("exp_parts", torch.stack(list(terms.values())))
    _check_loss(case, objective.total(terms), in_z=z)


def _encoder(case: Case) -> None:
    s = case.scalars
    params = EncoderParams(
        stem=s["stem"], width=64, token_channels=s["token_d_f"], token_grid=s["token_hw"]
    )
    encoder = TokenEncoder(params, "joint", torch.Generator()).double()
    _fill_encoder(encoder, s)
    x = case.tensor("in_x", requires_grad=True)
    case.check("exp_z", encoder(x))
    _fill_encoder(encoder, s)  # back to the initial running statistics
    encoder.state = "phase_space"
    states = encoder(x)
    case.check("exp_z_split", states)
    _backward(states, case.tensor("cot_z_split"))
    case.check("grad_conv1_weight", encoder.stem[0].weight.grad)
    case.check("grad_token_conv_weight", encoder.token_proj[0].weight.grad)
    _check_gradient_norms(case, encoder)
    case.check("exp_tokenbn_running_mean", encoder.token_proj[1].running_mean)
    case.check("exp_tokenbn_running_var", encoder.token_proj[1].running_var)
    with torch.no_grad():
        case.check("exp_z_split_eval_after_one_step", encoder.eval()(x))


def _fill_encoder(encoder: TokenEncoder, scalars: dict) -> None:
    """Sets the weights that the cases define by a formula: u = frac(j c1 + c2 (k + 1)), scaled."""
    for layer in encoder.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.reset_running_stats()
    ours = dict(encoder.named_parameters())
    table = {row["name"]: row for row in scalars["param_table"]}
    assert set(ours) == {name for name in table if not name.startswith("layer4")}
    for name, parameter in ours.items():
        row = table[name]
        assert list(parameter.shape) == row["shape"]
        j = torch.arange(1, parameter.numel() + 1, dtype=torch.float64)
        u = j * scalars["c1"] + scalars["c2"] * (row["k"] + 1)
        centred = 2 * (u - u.floor()) - 1
        fan_in = parameter[0].numel()
        values = {
            "conv": centred * (6 / fan_in) ** 0.5,
            "bn_gamma": 1 + 0.2 * centred,
            "bn_beta": 0.2 * centred,
        }[row["kind"]]
        with torch.no_grad():
            parameter.copy_(values.reshape(parameter.shape))


def _check_gradient_norms(case: Case, encoder: TokenEncoder) -> None:
    for name, parameter in encoder.named_parameters():
        expected = case.scalars["grad_norms"][name]
        assert abs(float(parameter.grad.norm()) - expected) <= 1e-6 * expected, name


def _leapfrog_params(case: Case, residual_scale: float, stiffness: float) -> HamiltonianParams:
    first = case.arrays["param_W0"]
    hidden_layers = sum(name.startswith("param_W") for name in case.arrays) - 1
    return HamiltonianParams(
        kind="leapfrog",
        steps=case.scalars.get("steps", 1),
        step_size=case.scalars.get("dt", 1.0),
        potential=PotentialParams(
            stiffness=stiffness,
            hidden_width=first.shape[0],
            hidden_layers=hidden_layers,
            residual_scale=residual_scale,
            residual_ramp_epochs=0,
            trained=True,
        ),
    )


def _leapfrog_predictor(case: Case) -> HamiltonianPredictor:
    params = _leapfrog_params(case, case.scalars["residual_scale"], case.scalars["base_coeff"])
    dimension = case.arrays["param_W0"].shape[1]
    predictor = HamiltonianPredictor(params, 2 * dimension, torch.Generator()).double()
    _load_weights(case, predictor.potential)
    return predictor


def _potential(case: Case) -> Potential:
    return _leapfrog_predictor(case).potential


def _load_weights(case: Case, potential: Potential) -> None:
    with torch.no_grad():
        for index, layer in enumerate(potential.residual.layers):
            layer.weight.copy_(case.tensor(f"param_W{index}"))
            layer.bias.copy_(case.tensor(f"param_b{index}"))


def _check_weights(case: Case, potential: Potential) -> None:
    for index, layer in enumerate(potential.residual.layers):
        for letter, parameter in (("W", layer.weight), ("b", layer.bias)):
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            case.check(f"grad_param_{letter}{index}", gradient)


def _check_loss(case: Case, loss: Tensor, **inputs: Tensor) -> None:
    """Checks a scalar loss and its gradients, which are zero if it has no graph."""
    case.check("exp_loss", loss)
    if loss.requires_grad:
        loss.backward()
    for name, value in inputs.items():
        case.check(f"grad_{name}", torch.zeros_like(value) if value.grad is None else value.grad)


def _backward(output: Tensor, cotangent: Tensor) -> None:
    (output * cotangent).sum().backward()


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _schedule(case: Case) -> None:
    s = case.scalars
    total, warmup = s["epochs"] * s["steps_per_epoch"], s["warmup_epochs"] * s["steps_per_epoch"]
    bases = [s["base_lr"]] + ([s["h_lr"]] if s["h_lr"] is not None else [])
    floor = s["base_lr"] * s["min_lr_ratio"]
    rates = [
        [learning_rate(step, total, warmup, base, 0.01, floor) for base in bases]
        for step in range(total)
    ]
    case.check("exp_lr", torch.tensor(rates, dtype=torch.float64))


RUNNERS: dict[str, Callable[[Case], None]] = {
    "EppsPulley": _epps_pulley,
    "SIGReg": _sigreg,
    "PhaseSpaceEnergyBudget": _budget,
    "VarianceFloor": _variance_floor,
    "ProjectedLogDetFloor": _logdet_floor,
    "MeanPenalty": _mean_penalty,
    "SeparableHamiltonian": _hamiltonian,
    "SeparableLeapfrog": _leapfrog,
    "HamiltonianConsistencyLoss": _consistency,
    "LeJEPAPredictionLoss": _lejepa,
    "HamJEPATotalObjective_cifar": _total_hamjepa,
    "HamJEPATotalObjective_imagenet": _total_hamjepa,
    "SIGRegTotalObjective": _total_sigreg,
    "TokenEncoder": _encoder,
    "LRSchedule": _schedule,
}
