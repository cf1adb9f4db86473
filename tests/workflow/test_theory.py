"""The theory's target: needs no run, and is remade when its parameters change."""

from pathlib import Path

import pandas as pd
import pytest

from hamjepa_audit.bookkeeping.verification import verify_results
from hamjepa_audit.layout import PROVENANCE, Layout
from hamjepa_audit.plans.theory import theory_files, theory_numbers
from tests.tiny import edit
from tests.unit.fabricated import flip_bit
from tests.workflow.conftest import checkout, snakemake

pytestmark = pytest.mark.workflow


def test_the_target_needs_no_run_and_follows_its_parameters(tmp_path: Path) -> None:
    folder = checkout(tmp_path)
    snakemake(folder, "results/theory")
    table = folder / "results/theory/theory.csv"
    assert pd.read_csv(table)["holds"].all()
    assert (folder / "results/theory/toy_transport.png").exists()
    assert not (folder / "results/runs").exists()
    assert "holds" in (folder / "results/logs/theory.log").read_text()
    assert "Nothing to be done" in snakemake(folder, "results/theory")
    # The selections of studies are written only for targets that need them.
    assert not (folder / "results/studies").exists()
    layout = Layout(data=folder / "data", results=folder / "results")
    verified = verify_results(layout)
    assert (verified.problems, verified.unchecked) == ([], []) and verified.checked["provenances"]
    # The checks don't depend on the paper's other claims.
    edit(folder / "params/paper/claims.yaml", "paper.version", 2)
    assert "Nothing to be done" in snakemake(folder, "-n", "results/theory")
    edit(folder / "params/theory.yaml", "spectra.instances", 1)
    assert "theory_report" in snakemake(folder, "-n", "results/theory")
    flip_bit(folder / "results/theory/toy_transport.tex", 10, 0)
    (line,) = verify_results(layout).problems
    assert "toy_transport.tex has the SHA-256" in line


@pytest.mark.faults
def test_a_check_that_fails_fails_the_target_and_what_was_made_stays(tmp_path: Path) -> None:
    folder = checkout(tmp_path)
    edit(folder / "params/theory.yaml", "tolerances.cone", 1e-30)
    said = snakemake(folder, "results/theory", succeeds=False)
    assert "Error in rule theory_verdict" in said
    assert "error: 1 of 23 checks of theorems fail: cone; " in said
    layout = Layout(data=folder / "data", results=folder / "results")
    made = [*theory_numbers(layout), *theory_files(layout), *layout.provenances()]
    assert all(path.exists() for path in made) and layout.theory() / PROVENANCE in made
    verified = verify_results(layout)
    assert (verified.problems, verified.unchecked) == ([], [])
    said = snakemake(folder, "results/theory", succeeds=False)
    assert "1 of 23 checks of theorems fail" in said and "rule theory_report" not in said
