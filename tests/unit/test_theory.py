"""The theorems' checks: each holds, and each fails when its formula is broken on purpose."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.linalg import expm
from torch import Tensor

from hamjepa_audit.cli.main import main
from hamjepa_audit.errors import UserError
from hamjepa_audit.models.integrators import euler, leapfrog, symplectic_euler
from hamjepa_audit.params.claims import ToyTransport, load_claims
from hamjepa_audit.params.theory import TheoryParams, load_theory
from hamjepa_audit.reporting.theory_tables import theory_tables
from hamjepa_audit.theory.checks import all_checks, run_check, run_checks
from hamjepa_audit.theory.covariance import (
    geometry_of,
    optimal_covariance,
    price_of_isotropy,
    worst_task_value,
)
from hamjepa_audit.theory.gibbs import gibbs_states
from hamjepa_audit.theory.instances import (
    Geometry,
    Matrix,
    covariance_on_budget,
    generator_for,
    geometry,
    mechanical_systems,
    positive_definite,
)
from hamjepa_audit.theory.leapfrog import energies
from hamjepa_audit.theory.pictures import area_preservation, defects, energy_drift, reversal
from hamjepa_audit.theory.symplectic import (
    log_abs_determinant,
    reciprocity_defect,
    symplectic_form,
    symplecticity_defect,
)
from hamjepa_audit.theory.transport import (
    Setup,
    compare_setups,
    directions,
    distances_by_direction,
    measure,
)
from hamjepa_audit.theory_numbers import NUMBERS
from tests.tiny import audit, copy_params, edit, files_below

Gradient = Callable[[Tensor], Tensor]


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> TheoryParams:
    return load_theory(copy_params(tmp_path_factory.mktemp("theory") / "params"))


@pytest.fixture(scope="module")
def claim(params_folder: Path) -> ToyTransport:
    toy = load_claims(params_folder / "paper" / "claims.yaml").toy_transport
    assert toy is not None
    return toy


# --- what is broken on purpose -------------------------------------------------------------------


def geometry_instead_of_inverse(geometry: Geometry) -> Matrix:
    """H in the place of H^-1, still on the budget."""
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
    """Volume is kept, the symplectic form isn't: the force has a curl."""
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
    """Of determinant -1."""
    q, p = leapfrog(gradient, q, p, step, steps)
    return q * torch.where(torch.arange(q.shape[-1]) == 0, -1.0, 1.0), p


def off_by_a_tenth(geometry: Geometry) -> Matrix:
    """On the budget, a tenth too much along one axis of H and as much too little along another."""
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
    rows = run_checks(params, said.append)
    assert [row["check"] for row in rows if not row["holds"]] == []
    assert len(said) == len(rows) == len({row["statement"] for row in rows})
    assert all(row["source"] and row["instances"] > 0 for row in rows)


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
    """What searches for the worst task must not share the factor that the formula is made with."""
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
    # Kicks and drifts are shears whatever their signs: other rows have to find this one.
    for check in all_checks(params):
        if check.name in ("symplecticity", "volume", "reciprocal_singular_values"):
            assert run_check(check, params, wrong_sign_in_second_kick)["holds"]


def test_an_error_that_is_not_a_number_does_not_hold(params: TheoryParams) -> None:
    (check,) = (check for check in all_checks(params) if check.name == "cone")
    lost = dataclasses.replace(check, error=lambda *_: math.nan)
    row = run_check(lost, params)
    assert math.isnan(row["worst_error"]) and not row["holds"]


def test_tolerances_are_those_of_the_rows(params: TheoryParams) -> None:
    lacking = {name: value for name, value in params.tolerances.items() if name != "cone"}
    with pytest.raises(UserError, match="tolerances lack the row 'cone'"):
        run_checks(params.model_copy(update={"tolerances": lacking}), print)
    mistyped = lacking | {"con": 1.0}
    with pytest.raises(UserError, match="no row 'con' under tolerances: did you mean 'cone'"):
        run_checks(params.model_copy(update={"tolerances": mistyped}), print)


def test_rows_repeat_and_depend_on_the_seed_alone(params: TheoryParams) -> None:
    (check,) = (check for check in all_checks(params) if check.name == "gibbs_marginal")
    other = params.model_copy(update={"seed": 1})
    first, again = run_check(check, params), run_check(check, params)
    assert first == again
    assert first["worst_error"] != run_check(check, other)["worst_error"]


# --- instances and formulas ----------------------------------------------------------------------


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
    # exp(J S) is symplectic for every symmetric S; determinants and volumes are exact here.
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


# --- the toy experiment --------------------------------------------------------------------------


def test_distances_of_shifted_clouds_are_the_projected_shifts() -> None:
    cloud = np.random.default_rng(0).standard_normal((50, 2))
    angles = directions(8)
    found = distances_by_direction(cloud + np.array([3.0, 4.0]), cloud, angles)
    assert np.allclose(found, np.abs(3 * np.cos(angles) + 4 * np.sin(angles)))
    assert angles[0] == 0 and angles[-1] < math.pi


def test_the_nearest_setup_has_the_papers_four_numbers(
    params_folder: Path, claim: ToyTransport
) -> None:
    full = load_theory(params_folder)
    chosen = full.toy_transport
    nearest = Setup("harmonic and 0.3 sine", (2.0, 0.0), (0.5, 1.0))
    (row,) = measure([nearest], full, claim, chosen.refined_samples, print)
    assert row["worst_deviation"] <= chosen.tolerance
    paper = claim.w1_over_directions["leapfrog"]
    assert row["leapfrog_mean"] == pytest.approx(float(paper.mean), rel=chosen.tolerance)


def test_setups_that_diverge_come_last(params: TheoryParams, claim: ToyTransport) -> None:
    with np.errstate(all="ignore"):
        rows = compare_setups(params, claim, print)
    deviations = [row["worst_deviation"] for row in rows]
    assert len(rows) == 6 and math.isinf(deviations[-1])
    assert rows[-1]["potential"] == "quartic" and math.isnan(rows[-1]["euler_mean"])
    refined = params.toy_transport.refined
    assert deviations[:refined] == sorted(deviations[:refined])
    assert [row["samples"] for row in rows] == [512] * refined + [256] * (6 - refined)
    names = {(row["potential"], row["centre_q"]) for row in rows}
    assert len(names) == 6


# --- what the figures show -----------------------------------------------------------------------


def test_pictures_show_what_leapfrog_keeps(params: TheoryParams) -> None:
    area = pd.DataFrame(area_preservation(params))
    last = area[area["steps"] == area["steps"].max()].groupby("integrator")["area_ratio"].first()
    assert last["leapfrog"] == pytest.approx(1, abs=0.01)
    assert last["symplectic_euler"] == pytest.approx(1, abs=0.01)
    assert last["explicit_euler"] > 1.3
    drift = pd.DataFrame(energy_drift(params)).groupby("integrator")["drift"].median()
    assert drift["leapfrog"] < drift["symplectic_euler"] / 3 < drift["explicit_euler"] / 3
    back = pd.DataFrame(reversal(params)).groupby("integrator")["error"].max()
    assert back["leapfrog"] < 1e-10 and back["symplectic_euler"] > 1e-3
    defect = pd.DataFrame(defects(params)).groupby(["integrator", "precision"])["defect"].max()
    assert defect["leapfrog", "float64"] < 1e-13 < 1e-9 < defect["leapfrog", "float32"] < 1e-5
    assert defect["explicit_euler", "float64"] > 1e-2


# --- commands ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which both commands have run on the tiny parameters."""
    folder = tmp_path_factory.mktemp("reported")
    copy_params(folder / "params")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in (["theory", "--threads", "1"], ["theory-report"]):
            patch.setattr("sys.argv", ["hamjepa-audit", *command])
            with pytest.raises(SystemExit) as stopped:
                main()
            assert not stopped.value.code
    return folder / "results" / "theory"


def test_the_report_has_every_row_in_every_format(reported: Path, params: TheoryParams) -> None:
    table = pd.read_csv(reported / "theory.csv")
    assert table["check"].tolist() == [check.name for check in all_checks(params)]
    assert table["holds"].all() and (table["worst_error"] <= table["tolerance"]).all()
    markdown = (reported / "theory.md").read_text().splitlines()
    assert markdown[0].split("|")[1].strip() == "Statement" and len(markdown) == len(table) + 2
    assert all("yes" in line for line in markdown[2:])
    assert (reported / "theory.tex").read_text().count(r"\\") == len(table) + 1
    assert len(pd.read_parquet(reported / "theory.parquet")) == len(table)
    figures = {name for name in files_below(reported) if name.endswith((".png", ".pdf"))}
    assert len(figures) == 10 and all((reported / name).stat().st_size > 5000 for name in figures)


def test_the_report_says_how_many_setups_were_tried(reported: Path) -> None:
    compared = pd.read_csv(reported / "toy_transport.csv")
    assert compared["paper"].tolist() == [4.901, 7.215, 0.0137, 0.0206]
    assert set(compared["tried"]) == {6} and set(compared["finite"]) == {4}
    assert np.allclose(compared["ours"] / compared["paper"] - 1, compared["deviation"])
    assert (compared["within"] == (compared["deviation"].abs() <= compared["tolerance"])).all()
    everything = pd.read_csv(reported / "toy_transport_setups.csv")
    within = everything["worst_deviation"] <= compared["tolerance"].iloc[0]
    assert set(compared["all_within"]) == {within.sum()}
    first, second = (reported / "toy_transport_setups.md").read_text().splitlines()[2:4]
    assert "4.901" in first and "paper" in first and "0.3 sine" in second


def test_a_row_that_fails_is_shouted(reported: Path, tmp_path: Path, claim: ToyTransport) -> None:
    numbers = {
        name: pd.read_parquet(reported / "numbers" / f"{name}.parquet")
        for name in ("checks", "toy_transport_setups")
    }
    numbers["checks"].loc[0, ["worst_error", "holds"]] = [1.0, False]
    toy = load_theory(reported.parents[1] / "params").toy_transport
    theory_tables(numbers, claim, toy, tmp_path)
    lines = (tmp_path / "theory.md").read_text().splitlines()
    assert "NO" in lines[2] and not any("| NO" in line for line in lines[3:])


def test_a_row_that_fails_is_told_when_everything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_params(tmp_path / "params")
    for name in ("cone", "volume"):
        edit(folder / "theory.yaml", f"tolerances.{name}", 1e-30)
    monkeypatch.chdir(tmp_path)
    status, error = audit(monkeypatch, capsys, "theory")
    assert status == 1
    last = error.splitlines()[-1]
    assert last.startswith("error: 2 of 23 theorems' checks fail: cone, volume; ")
    written = tmp_path / "results" / "theory" / "numbers"
    assert {path.stem for path in written.glob("*.parquet")} == set(NUMBERS)
    checks = pd.read_parquet(written / "checks.parquet")
    assert checks.loc[~checks["holds"], "check"].tolist() == ["cone", "volume"]


@pytest.mark.slow
def test_every_row_holds_with_the_parameters_as_shipped(params_folder: Path) -> None:
    rows = run_checks(load_theory(params_folder), print)
    assert [row["check"] for row in rows if not row["holds"]] == []


def test_claims_without_the_experiment_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_params(tmp_path / "params")
    claims = folder / "paper" / "claims.yaml"
    claims.write_text(claims.read_text().partition("toy_transport:")[0])
    monkeypatch.chdir(tmp_path)
    status, error = audit(monkeypatch, capsys, "theory")
    assert status == 2 and "has no toy_transport" in error and error.count("\n") == 1
    edit(folder / "theory.yaml", "gibbs.coordinate", 3)
    status, error = audit(monkeypatch, capsys, "theory")
    assert status == 2 and "did you mean 'coordinates'?" in error
    assert not (tmp_path / "results").exists()
