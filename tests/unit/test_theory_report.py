"""The theory's report: pictures, tables and messages of the commands."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hamjepa_audit.bookkeeping.table_provenance import sealed_files
from hamjepa_audit.cli.main import main
from hamjepa_audit.layout import PROVENANCE, Layout
from hamjepa_audit.params.claims import ToyTransport
from hamjepa_audit.params.theory import TheoryParams, load_theory
from hamjepa_audit.reporting.theory_tables import theory_tables
from hamjepa_audit.theory.pictures import area_preservation, defects, energy_drift, reversal
from hamjepa_audit.theory.theorems import all_checks
from hamjepa_audit.theory_schemas import NUMBERS
from tests.tiny import audit, copy_params, edit, files_below
from tests.unit import tiny_theory

params, claim = tiny_theory.params, tiny_theory.claim


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


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of both commands on the tiny parameters."""
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


def test_provenance_seals_everything_that_is_reported_and_its_numbers(reported: Path) -> None:
    assert Layout(results=reported.parent).provenances() == [reported / PROVENANCE]
    sealed = {path.relative_to(reported).as_posix() for path in sealed_files(reported / PROVENANCE)}
    assert sealed == files_below(reported) - {PROVENANCE, "selection.json"}


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
    assert last.startswith("error: 2 of 23 checks of theorems fail: cone, volume; ")
    written = tmp_path / "results" / "theory" / "numbers"
    assert {path.stem for path in written.glob("*.parquet")} == set(NUMBERS)
    checks = pd.read_parquet(written / "checks.parquet")
    assert checks.loc[~checks["holds"], "check"].tolist() == ["cone", "volume"]
    assert audit(monkeypatch, capsys, "theory-verdict") == (1, f"{last}\n")
    status, error = audit(monkeypatch, capsys, "theory", "--no-verdict")
    assert status == 0 and "cone: FAILS" in error


def test_without_numbers_or_failing_rows_the_verdict_says_so(
    reported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    results = ("--results", str(reported.parent))
    assert audit(monkeypatch, capsys, *results, "theory-verdict") == (0, "")
    status, error = audit(monkeypatch, capsys, "--results", str(tmp_path), "theory-verdict")
    assert status == 2 and "checks.parquet" in error and error.count("\n") == 1


def test_claims_without_the_experiment_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_params(tmp_path / "params")
    claims = folder / "paper" / "claims.yaml"
    claims.write_text(claims.read_text().partition("toy_transport:")[0])
    monkeypatch.chdir(tmp_path)
    status, error = audit(monkeypatch, capsys, "theory")
    assert status == 2 and "has no toy_transport" in error and error.count("\n") == 1
    assert audit(monkeypatch, capsys, "theory-report")[1] == error
    # Claims of another file are used if it is given.
    others = tmp_path / "others.yaml"
    others.write_text("paper: {}")
    for command in ("theory", "theory-report"):
        status, error = audit(monkeypatch, capsys, command, "--claims", str(others))
        assert status == 2 and str(others) in error
    edit(folder / "theory.yaml", "gibbs.coordinate", 3)
    status, error = audit(monkeypatch, capsys, "theory")
    assert status == 2 and "did you mean 'coordinates'?" in error
    assert not (tmp_path / "results").exists()
