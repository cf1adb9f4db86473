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
    tables = PUBLISHED / "tinyimagenet100" / "tables" / "tinyimagenet100"
    text = " ".join((REPOSITORY / "README.md").read_text().replace("−", "-").split())
    gain = pd.read_csv(tables / "gain.csv").set_index(["arm", "readout"])
    knn, probe = "knn_top1@20_minus", "linear_probe_top1_minus"

    def quoted(words: str, row: tuple[str, str], column: str) -> str:
        value, low, high = (gain.loc[row, f"{column}{end}"] for end in ("", "_ci_low", "_ci_high"))
        return words.format(f"{value:.1f}", f"[{low:.1f}, {high:.1f}]")

    q, of_mlp = ("hamjepa", "q"), gain.loc["mlp"]
    below, above = -of_mlp[f"{knn}_hamjepa"], of_mlp[f"{probe}_hamjepa"]
    for expected in (
        quoted("{} points of kNN {}", q, f"{knn}_sigreg"),
        quoted("and {} of the linear probe {}", q, f"{probe}_sigreg"),
        quoted("kNN from p, {} {}", ("identity", "p"), f"{knn}_hamjepa"),
        quoted("q keeps {} {}", ("mlp", "q"), f"{knn}_sigreg"),
        f"kNN is {below.min():.1f} to {below.max():.1f} points below HamJEPA's",
        f"the probe {above.min():.1f} to {above.max():.1f} points above",
        f"moves q by {gain.loc[q, 'map_displacement_share']:.0%} of the distance",
        f"predicting q is {-gain.loc[q, 'map_error_removed']:.1%} larger",
    ):
        assert expected in text, expected
    statements = pd.read_csv(tables.parent / "statements.csv").query("study == 'tinyimagenet100'")
    verdicts = statements.set_index("statement")
    assert verdicts.loc["knn-decays-for-sigreg", "verdict"] in text
    narrow = verdicts.loc["q-is-content"]
    assert f"{narrow['verdict']} narrowly (p = {narrow['p_h0_fails_holm']:.3f})" in text
    for column in (f"{knn}_hamjepa_reading", f"{probe}_hamjepa_reading"):
        assert set(gain.loc["identity"][column]) == {"within margin"}
        assert set(of_mlp[column]) == {"differs"}
