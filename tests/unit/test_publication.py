"""Results without weights: what is published verifies, and is adopted where it is asked for."""

import json
import shutil
from pathlib import Path

import pytest

from hamjepa_audit.errors import UserError
from hamjepa_audit.files import write_json
from hamjepa_audit.inventory import take_inventory
from hamjepa_audit.layout import Layout
from hamjepa_audit.publication import adopt, publish
from hamjepa_audit.verification import verify_results
from tests.tiny import SEEDS, STUDY, audit, edit, files_below
from tests.unit import whole_results
from tests.unit.fabricated import plan_of
from tests.unit.whole_results import LAYOUT

whole, place = whole_results.whole, whole_results.place
PUBLISHED = Path("published")


@pytest.fixture
def published(place: Path) -> Layout:
    """The study, published; what it was made of is gone, and so are the data."""
    publish(plan_of(LAYOUT, STUDY), PUBLISHED)
    shutil.rmtree(LAYOUT.results)
    shutil.rmtree(LAYOUT.data)
    return Layout(results=PUBLISHED)


def test_what_is_published_verifies_without_weights(
    published: Layout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not [path for path in files_below(PUBLISHED) if path.endswith((".safetensors", ".pdf"))]
    status, stderr = audit(monkeypatch, capsys, "--results", str(PUBLISHED), "verify")
    assert status == 0 and "not checked: checkpoints of 8 runs" in stderr
    checked = verify_results(published).checked
    plan = plan_of(published, STUDY)
    assert checked["runs"] == checked["files of runs"] == len(plan.runs)
    history = published.run_history(next(iter(plan.runs)))
    history.write_bytes(history.read_bytes()[:-1])
    assert any(str(history) in problem for problem in verify_results(published).problems)


def test_published_runs_are_adopted_as_done(
    published: Layout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(LAYOUT, STUDY)
    there = ("adopt", "--study", STUDY, "--from", str(PUBLISHED))
    status, stderr = audit(monkeypatch, capsys, *there)
    assert (status, stderr) == (0, f"took over {len(plan.runs)} of {len(plan.runs)} runs\n")
    files = plan.measurements("knn", "probe", "geometry", "curves") + plan.histories()
    assert all(path.exists() for path in [*files, *map(LAYOUT.record, plan.runs)])
    assert verify_results(LAYOUT).problems == []
    assert {entry.state for entry in take_inventory(LAYOUT)} == {"current"}
    assert audit(monkeypatch, capsys, *there)[1].startswith("took over 0 of")


def test_only_what_the_parameters_ask_for_is_adopted(published: Layout) -> None:
    edit(LAYOUT.params / "arms/sigreg.yaml", "objective.weight", 0.05)
    plan = plan_of(LAYOUT, STUDY)
    assert adopt(plan, PUBLISHED) == len(plan.runs) - len(SEEDS)
    assert not list(LAYOUT.runs().glob("*-sigreg-*"))
    assert not list(LAYOUT.evaluations().glob("*-sigreg-*"))


def test_what_is_damaged_or_of_another_study_is_not_adopted(published: Layout) -> None:
    plan = plan_of(LAYOUT, STUDY)
    record = published.record(list(plan.runs)[-1])
    content = json.loads(record.read_text())
    record.write_text(json.dumps(content | {"ended": "yesterday"}))
    with pytest.raises(UserError, match=r"run\.json"):
        adopt(plan, PUBLISHED)
    assert not LAYOUT.record(record.parent.name).exists()
    other = plan_of(LAYOUT, f"{STUDY}_controls")
    with pytest.raises(UserError, match=f"is of the study '{STUDY}', not of"):
        adopt(other, PUBLISHED)
    with pytest.raises(UserError, match=r"missing file .*published\.json"):
        adopt(plan, Path("nowhere"))


def test_tables_of_several_studies_or_damaged_results_are_not_published(place: Path) -> None:
    plan = plan_of(LAYOUT, STUDY)
    PUBLISHED.mkdir()
    (PUBLISHED / "kept").touch()
    write_json(LAYOUT.studies(), [STUDY, "cifar100"])
    with pytest.raises(UserError, match="alone"):
        publish(plan, PUBLISHED)
    write_json(LAYOUT.studies(), [STUDY])
    history = LAYOUT.run_history(next(iter(plan.runs)))
    history.write_bytes(history.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"can't be published: .*{history.name}"):
        publish(plan, PUBLISHED)
    assert [path.name for path in PUBLISHED.iterdir()] == ["kept"]
