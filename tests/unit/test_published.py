"""Published results are complete, and match the repository's code and parameters."""

from pathlib import Path

import pandas as pd
import pytest

from hamjepa_audit.bookkeeping.verification import verify_results
from hamjepa_audit.files import read_json, read_sealed_json
from hamjepa_audit.layout import Layout
from hamjepa_audit.params import load_study
from hamjepa_audit.params.loading import validate
from hamjepa_audit.params.reading import read_yaml
from hamjepa_audit.params.theory import TheoryParams
from hamjepa_audit.plans.study import ALL_STEPS, StudyPlan
from tests.conftest import REPOSITORY

PUBLISHED = REPOSITORY / "results" / "published"
STUDIES = sorted(path.parent for path in PUBLISHED.glob("*/published.json"))


def test_a_study_is_published() -> None:
    assert PUBLISHED / "digits" in STUDIES


@pytest.fixture(params=STUDIES, ids=lambda folder: folder.name)
def plan(request: pytest.FixtureRequest, params_folder: Path, tmp_path: Path) -> StudyPlan:
    """Plan of a published study with the current parameters and the original data's digest."""
    layout = Layout(params=params_folder, data=tmp_path, results=request.param)
    study = load_study(params_folder, request.param.name)
    digest = read_json(layout.selection(study.name))["data_digest"]
    assert study.data.digest in (None, digest)
    return StudyPlan(layout, study, digest)


def test_published_runs_are_those_that_the_parameters_ask_for(plan: StudyPlan) -> None:
    assert read_sealed_json(plan.layout.publication())["runs"] == sorted(plan.runs)
    verified = verify_results(plan.layout)
    assert verified.problems == []
    assert verified.checked["runs"] == len(plan.runs)


def test_published_measurements_are_those_that_the_parameters_ask_for(plan: StudyPlan) -> None:
    asked = plan.measurements(*ALL_STEPS)
    assert [path.name for path in asked if not path.exists()] == []


def test_the_published_theory_has_the_tolerances_of_the_parameters(params_folder: Path) -> None:
    path = params_folder / "theory.yaml"
    tolerances = validate(TheoryParams, read_yaml(path), str(path)).tolerances
    lines = (PUBLISHED / "theory" / "theory.md").read_text().splitlines()
    rows = [[field.strip() for field in line.split(" | ")] for line in lines if "| yes" in line]
    assert sorted(float(row[-2]) for row in rows) == sorted(tolerances.values())


def test_the_readme_quotes_the_published_differences_on_tiny_imagenet() -> None:
    tables = PUBLISHED / "tinyimagenet100" / "tables"
    text = " ".join((REPOSITORY / "README.md").read_text().split())
    gain = pd.read_csv(tables / "tinyimagenet100" / "gain.csv").set_index(["arm", "readout"])

    def quoted(words: str, row: tuple[str, str], column: str, sign: int = 1) -> str:
        value, *ends = (
            sign * gain.loc[row, f"{column}{end}"] for end in ("", "_ci_low", "_ci_high")
        )
        low, high = sorted(ends)
        return f"{words.format(value)} [{low:.1f}, {high:.1f}]"

    q, mlp = ("hamjepa", "q"), ("mlp", "qp")
    for expected in (
        quoted("{:.1f} points of kNN", q, "knn_top1@20_minus_sigreg"),
        quoted("and {:.1f} of the linear probe", q, "linear_probe_top1_minus_sigreg"),
        quoted("{:.1f} points worse than HamJEPA's", mlp, "knn_top1@20_minus_hamjepa", -1),
        quoted("probe {:.1f} points better", mlp, "linear_probe_top1_minus_hamjepa"),
        f"the error is {-100 * gain.loc[q, 'map_error_removed']:.1f}% larger",
    ):
        assert expected in text
    equal = gain.loc["identity"]
    for column in ("knn_top1@20", "linear_probe_top1"):
        assert set(equal[f"{column}_minus_hamjepa_reading"]) == {"within margin"}
