"""What is published is whole, and what the code and the parameters of this repository give."""

from pathlib import Path

import pytest

from hamjepa_audit.files import read_sealed_json
from hamjepa_audit.layout import Layout
from hamjepa_audit.params import load_study
from hamjepa_audit.params.loading import read_yaml, validate
from hamjepa_audit.params.theory import TheoryParams
from hamjepa_audit.plan import ALL_STEPS, plan_study
from hamjepa_audit.verification import verify_results
from tests.conftest import REPOSITORY

PUBLISHED = REPOSITORY / "results" / "published"
STUDIES = sorted(path.parent for path in PUBLISHED.glob("*/published.json"))


def test_a_study_is_published() -> None:
    assert PUBLISHED / "digits" in STUDIES


@pytest.mark.parametrize("folder", STUDIES, ids=lambda folder: folder.name)
def test_published_runs_are_those_that_the_parameters_ask_for(
    folder: Path, params_folder: Path, tmp_path: Path
) -> None:
    layout = Layout(params=params_folder, data=tmp_path, results=folder)
    study = load_study(params_folder, folder.name)
    if study.data.digest is None:
        pytest.skip("its data aren't pinned, so that its run ids aren't known")
    assert read_sealed_json(layout.publication())["runs"] == sorted(plan_study(layout, study).runs)
    verified = verify_results(layout)
    assert verified.problems == []
    assert verified.checked["runs"] == len(plan_study(layout, study).runs)


@pytest.mark.parametrize("folder", STUDIES, ids=lambda folder: folder.name)
def test_published_measurements_are_those_that_the_parameters_ask_for(
    folder: Path, params_folder: Path, tmp_path: Path
) -> None:
    layout = Layout(params=params_folder, data=tmp_path, results=folder)
    study = load_study(params_folder, folder.name)
    if study.data.digest is None:
        pytest.skip("its data aren't pinned, so that its run ids aren't known")
    asked = plan_study(layout, study).measurements(*ALL_STEPS)
    assert [path.name for path in asked if not path.exists()] == []


def test_the_published_theory_has_the_tolerances_of_the_parameters(params_folder: Path) -> None:
    path = params_folder / "theory.yaml"
    tolerances = validate(TheoryParams, read_yaml(path), str(path)).tolerances
    lines = (PUBLISHED / "theory" / "theory.md").read_text().splitlines()
    rows = [[field.strip() for field in line.split(" | ")] for line in lines if "| yes" in line]
    assert sorted(float(row[-2]) for row in rows) == sorted(tolerances.values())
