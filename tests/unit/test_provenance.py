"""Provenance: the tables, and the runs and selections that they are made from."""

import shutil
import subprocess
from pathlib import Path

import pytest

import hamjepa_audit
from hamjepa_audit.bookkeeping import provenance
from hamjepa_audit.bookkeeping.table_provenance import (
    check_selections,
    outdated_tables,
    write_study_provenance,
)
from hamjepa_audit.bookkeeping.verification import verify_results
from hamjepa_audit.errors import UserError
from hamjepa_audit.files import (
    digest_of,
    read_json,
    read_sealed_json,
    sha256_file,
    write_sealed_json,
    write_text,
)
from hamjepa_audit.layout import PROVENANCE
from hamjepa_audit.plans.audit import AuditPlan
from hamjepa_audit.plans.figures import figure_files
from hamjepa_audit.plans.identity import TRAINING_NUMERICS
from tests.conftest import REPOSITORY
from tests.tiny import STUDY, audit, edit
from tests.unit import whole_results
from tests.unit.fabricated import plan_of
from tests.unit.whole_results import LAYOUT, TABLES, problems

whole, place = whole_results.whole, whole_results.place


def test_provenance_says_what_tables_are_made_of(place: Path) -> None:
    plan = plan_of(LAYOUT, STUDY)
    content = read_sealed_json(LAYOUT.tables(STUDY) / "provenance.json")
    assert set(content["runs"]) == set(plan.runs)
    assert content["params"] == {STUDY: plan.study.model_dump(mode="json")}
    assert {"commit", "uncommitted_changes", "lock_sha256", "packages"} <= set(content["made_with"])
    (environment,) = content["environments"]
    assert environment["packages"] == {"torch": "2.14.1"}
    for name, run in content["runs"].items():
        assert (run["arm"], run["seed"]) == (plan.runs[name].arm.name, plan.runs[name].seed)
        assert run["environment"] == 0 and run["data_digest"] == plan.data_digest
        assert run["started"] < run["ended"]
    before = sha256_file(LAYOUT.tables(STUDY) / "provenance.json")
    assert sha256_file(write_study_provenance(plan, AuditPlan.load(LAYOUT))) == before
    LAYOUT.record(next(iter(plan.runs))).unlink()
    with pytest.raises(UserError, match="missing file results/runs"):
        write_study_provenance(plan, AuditPlan.load(LAYOUT))


def test_a_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "PACKAGES", ("torch", "no-such-package"))
    found = provenance.code_and_environment()["packages"]
    assert found["torch"] and found["no-such-package"] is None


def test_provenance_names_every_selection_that_tables_are_made_of(place: Path) -> None:
    of_study = {f"studies/{STUDY}/selection.json"}
    joint = {"studies/selection.json", "studies/claims.json"}
    for folder, expected in (
        (LAYOUT.tables(STUDY), of_study),
        (LAYOUT.audit_tables(), of_study | joint),
    ):
        selections = read_sealed_json(folder / PROVENANCE)["selections"]
        assert set(selections) == expected
        for name, digest in selections.items():
            assert digest == digest_of(read_json(LAYOUT.results / name))


def test_a_selection_that_is_not_there_is_not_compared(place: Path) -> None:
    LAYOUT.selection(STUDY).unlink()
    for path in LAYOUT.provenances():
        check_selections(LAYOUT, path)


def test_each_run_names_the_environment_that_it_ran_in(place: Path) -> None:
    plan = plan_of(LAYOUT, STUDY)
    *others, last = plan.runs
    record = read_sealed_json(LAYOUT.record(last))
    write_sealed_json(LAYOUT.record(last), record | {"packages": {"torch": "2.15"}})
    content = read_sealed_json(write_study_provenance(plan, AuditPlan.load(LAYOUT)))
    versions = [environment["packages"]["torch"] for environment in content["environments"]]
    assert versions == ["2.14.1", "2.15"]
    numerics = {environment["training_numerics"] for environment in content["environments"]}
    assert numerics == {TRAINING_NUMERICS}
    assert [content["runs"][name]["environment"] for name in (*others, last)] == [
        *(0 for _ in others), 1,
    ]  # fmt: skip


def test_provenance_names_the_tables_of_the_plan_and_removes_others(place: Path) -> None:
    folder, foreign = LAYOUT.tables(STUDY), LAYOUT.tables(STUDY) / "notes.md"
    write_text(foreign, "mine")
    assert any("1 files in" in x and str(foreign) in x for x in verify_results(LAYOUT).unchecked)
    edit(LAYOUT.params / "studies" / f"{STUDY}.yaml", "arms", ["sigreg", "identity"])
    plan = plan_of(LAYOUT, STUDY)
    with pytest.raises(UserError, match=r"selection.json does not match the current parameters"):
        write_study_provenance(plan, AuditPlan.load(LAYOUT))
    assert list(folder.glob("gain.*"))  # nothing is deleted
    plan.write_selection()
    content = read_sealed_json(write_study_provenance(plan, AuditPlan.load(LAYOUT)))
    assert set(content["files"]) == {path.name for path in plan.tables()}
    assert not list(folder.glob("gain.*")) and foreign.exists()


def test_figures_that_are_no_longer_planned_are_removed(place: Path) -> None:
    plan, folder = plan_of(LAYOUT, STUDY), LAYOUT.figures(STUDY)
    audit_plan = AuditPlan.load(LAYOUT)
    foreign = [folder / name for name in ("my_figure_e2.png", "seeds_e9.svg", "notes.png")]
    stale = [folder / name for name in ("seeds_e9.png", "seeds_e9.pdf", "power_e10.png")]
    for path in (*foreign, *stale):
        path.write_bytes(b"")
    write_study_provenance(plan, audit_plan)
    assert {*folder.iterdir()} == {*foreign, *figure_files(plan.study, audit_plan)}


def test_without_a_provenance_tables_are_said_to_be_unchecked(place: Path) -> None:
    (LAYOUT.audit_tables() / PROVENANCE).unlink()
    (line,) = verify_results(LAYOUT).unchecked
    assert line.startswith("16 files in results/tables, such as results/tables/claim_differences")


def test_another_selection_makes_tables_stale_and_is_not_dated(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(monkeypatch, capsys, "restore")[0] == 0
    edit(LAYOUT.params / "studies" / f"{STUDY}.yaml", "statistics.confidence", 0.9)
    selection = plan_of(LAYOUT, STUDY).write_selection()
    written = selection.stat().st_mtime_ns
    status, stderr = audit(monkeypatch, capsys, "restore")
    assert status == 2 and stderr.count("\n") == 1
    assert f"were not made from {selection} as it is now" in stderr
    assert selection.stat().st_mtime_ns == written
    assert any(f"{TABLES} were not made from {selection}" in line for line in problems())
    assert any(f"results/tables were not made from {selection}" in line for line in problems())


def test_outdated_tables_are_all_that_a_provenance_names_and_itself(place: Path) -> None:
    plan, path = plan_of(LAYOUT, STUDY), LAYOUT.selection(STUDY)
    content = plan.selection()
    assert outdated_tables(LAYOUT, path, content) == []
    outdated = outdated_tables(LAYOUT, path, content | {"report_version": 0})
    ours = [folder / PROVENANCE for folder in (LAYOUT.tables(STUDY), LAYOUT.audit_tables())]
    found = {file.resolve() for file in outdated}
    assert {file.resolve() for file in (*plan.tables(), *ours)} <= found


def test_provenance_of_an_older_version_is_refused(place: Path) -> None:
    path = LAYOUT.audit_tables() / PROVENANCE
    write_sealed_json(path, read_sealed_json(path) | {"schema": 1})
    with pytest.raises(UserError, match="has format version 1, not"):
        check_selections(LAYOUT, path)


def test_only_changes_of_what_determines_results_count_and_without_git_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_a_repository(tmp_path, monkeypatch)
    write_text(tmp_path / "pyproject.toml", '[project]\nname = "hamjepa-audit"\n')
    write_text(tmp_path / "src/code.py", "")
    shutil.copy(REPOSITORY / provenance.LOCK, tmp_path)
    git = ("git", "-C", str(tmp_path), *AUTHOR)
    subprocess.run([*git, "add", "--all"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "all"], check=True)
    for name, changed in (("README.md", False), ("src/code.py", True)):
        write_text(tmp_path / name, "other")
        assert provenance.code_and_environment()["uncommitted_changes"] is changed
    monkeypatch.setenv("PATH", "")
    said = provenance.code_and_environment()
    assert said["commit"] is None and said["uncommitted_changes"] is None


AUTHOR = (
    "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false",
    "-c", "core.hooksPath=/dev/null",
)  # fmt: skip
"""Settings of git in a test's repository, whatever the user's own are."""


def in_a_repository(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretends that the package is two folders below a git repository with a commit."""
    git = ("git", "-C", str(folder), *AUTHOR)
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", "theirs"], check=True)
    package = folder / "site-packages" / "hamjepa_audit" / "__init__.py"
    monkeypatch.setattr(hamjepa_audit, "__file__", str(package))


@pytest.mark.parametrize("lock", [True, False])
@pytest.mark.parametrize("project", ["hamjepa-audit", "another", None])
def test_a_foreign_repository_around_the_package_is_not_taken_for_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project: str | None, lock: bool
) -> None:
    in_a_repository(tmp_path, monkeypatch)
    if project is not None:
        write_text(tmp_path / "pyproject.toml", f'[project]\nname = "{project}"\n')
    if lock:
        shutil.copy(REPOSITORY / provenance.LOCK, tmp_path)
    said = provenance.code_and_environment()
    of_checkout = [said["commit"], said["uncommitted_changes"], said["lock_sha256"]]
    if project == "hamjepa-audit" and lock:
        assert None not in of_checkout
        assert said["lock_sha256"] == sha256_file(REPOSITORY / provenance.LOCK)
    else:
        assert of_checkout == [None, None, None]
