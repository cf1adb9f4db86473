"""The inventory of results: listing, showing, comparing, and careful pruning."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hamjepa_audit.bookkeeping.inventory import (
    Entry,
    Standing,
    delete,
    prunable,
    take_inventory,
)
from hamjepa_audit.bookkeeping.states import write_state
from hamjepa_audit.cli.main import main
from hamjepa_audit.errors import UserError
from hamjepa_audit.files import read_json, write_sealed_json
from hamjepa_audit.layout import Layout
from hamjepa_audit.locking import sole_process
from tests.tiny import ARMS, SEEDS, STUDY, copy_params, edit, files_below
from tests.unit.fabricated import plan_of, write_results

LAYOUT = Layout()
RUNS = len(ARMS) * len(SEEDS)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the tiny study's results, as the working directory."""
    copy_params(tmp_path / "params")
    monkeypatch.chdir(tmp_path)
    write_results(plan_of(LAYOUT, STUDY))
    return tmp_path


def run_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of hamjepa-audit."""
    monkeypatch.setattr(sys, "argv", ["hamjepa-audit", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    printed = capsys.readouterr()
    return int(stopped.value.code or 0), printed.out, printed.err


def states(entries: list[Entry]) -> dict[tuple[str, str], int]:
    pairs = [(entry.kind, entry.state) for entry in entries]
    return {pair: pairs.count(pair) for pair in pairs}


def test_what_the_parameters_ask_for_is_current(place: Path) -> None:
    entries = take_inventory(LAYOUT)
    assert states(entries) == {("run", "current"): RUNS, ("evaluation", "current"): len(ARMS)}
    assert prunable(entries) == []
    assert take_inventory(LAYOUT, [STUDY]) == entries
    assert take_inventory(LAYOUT, ["cifar100"]) == []


def test_a_changed_arm_leaves_its_runs_over(place: Path) -> None:
    edit(place / "params/arms/sigreg.yaml", "objective.weight", 0.05)
    entries = take_inventory(LAYOUT)
    assert states(entries) == {
        ("run", "current"): RUNS - len(SEEDS), ("run", "left over"): len(SEEDS),
        ("evaluation", "current"): len(ARMS) - 1, ("evaluation", "left over"): 1,
    }  # fmt: skip
    assert {entry.path.name.split("-")[1] for entry in prunable(entries)} == {"sigreg"}


def test_another_way_of_measuring_leaves_measurements_over(place: Path) -> None:
    edit(place / f"params/studies/{STUDY}.yaml", "evaluation.probe.epochs", 3)
    entries = take_inventory(LAYOUT)
    assert states(entries) == {
        ("run", "current"): RUNS,
        ("evaluation", "incomplete"): len(ARMS), ("measurement", "left over"): len(ARMS),
    }  # fmt: skip
    assert {entry.path.name.split("-")[0] for entry in prunable(entries)} == {"probe"}


def test_features_of_other_views_are_left_over_and_those_of_these_are_not(place: Path) -> None:
    batch = next(iter(plan_of(LAYOUT, STUDY).batches.values()))
    batch.features.mkdir()
    assert prunable(take_inventory(LAYOUT)) == []
    edit(place / f"params/studies/{STUDY}.yaml", "evaluation.view_seed", 7)
    (left,) = [entry for entry in prunable(take_inventory(LAYOUT)) if entry.kind == "features"]
    assert left.path == batch.features
    delete(left)
    assert not left.path.exists() and left.path.parent.exists()


def test_a_run_without_a_record_is_incomplete_and_kept(place: Path) -> None:
    run = next(iter(plan_of(LAYOUT, STUDY).runs))
    LAYOUT.record(run).unlink()
    entries = take_inventory(LAYOUT)
    assert [entry.path.name for entry in entries if entry.state == "incomplete"] == [run]
    assert prunable(entries) == []


@pytest.mark.parametrize("standing", ["current", "left over", "unknown data", "unknown study"])
def test_what_is_not_whole_is_incomplete_whether_it_is_asked_for_or_not(
    standing: Standing,
) -> None:
    assert Entry("run", LAYOUT.runs(), STUDY, standing, complete=False).state == "incomplete"


@pytest.mark.parametrize("part", [LAYOUT.run_history, LAYOUT.checkpoint])
def test_a_run_without_one_of_its_files_is_incomplete(
    place: Path, part: Callable[[str], Path]
) -> None:
    run = next(iter(plan_of(LAYOUT, STUDY).runs))
    part(run).unlink()
    entries = take_inventory(LAYOUT)
    assert [entry.path.name for entry in entries if entry.state == "incomplete"] == [run]


@pytest.mark.faults
def test_states_of_a_run_that_is_being_trained_are_not_deleted(place: Path) -> None:
    run = next(iter(plan_of(LAYOUT, STUDY).runs))
    write_state(LAYOUT.state(run), 3, {"step": 3}, b"tensors")
    (entry,) = (entry for entry in take_inventory(LAYOUT) if entry.kind == "state")
    with (
        sole_process(LAYOUT.run_lock(run), "training"),
        pytest.raises(UserError, match=r"process \d+ on .* is working on it"),
    ):
        delete(entry)
    assert len(list(LAYOUT.state(run).iterdir())) == 2


def test_measurements_of_other_checkpoints_than_the_runs_are_incomplete(place: Path) -> None:
    run = next(iter(plan_of(LAYOUT, STUDY).runs))
    record = {key: value for key, value in read_json(LAYOUT.record(run)).items() if key != "sha256"}
    files = record["files"] | {LAYOUT.checkpoint(run).name: "0" * 64}
    write_sealed_json(LAYOUT.record(run), record | {"files": files})
    assert states(take_inventory(LAYOUT)) == {
        ("run", "current"): RUNS,
        ("evaluation", "current"): len(ARMS) - 1, ("evaluation", "incomplete"): 1,
    }  # fmt: skip


def test_states_are_listed_and_pruned_once_no_run_needs_them(place: Path) -> None:
    finished, unfinished, *_ = plan_of(LAYOUT, STUDY).runs
    for name in (finished, unfinished):
        write_state(LAYOUT.state(name), 3, {"step": 3}, b"tensors")
    LAYOUT.record(unfinished).unlink()
    found = {entry.path.name: entry for entry in take_inventory(LAYOUT) if entry.kind == "state"}
    assert (found[finished].state, found[unfinished].state) == ("left over", "current")
    assert prunable(list(found.values())) == [found[finished]]
    delete(found[finished])
    assert [path.name for path in LAYOUT.states().iterdir()] == [unfinished]


def forget_study(place: Path) -> None:
    for name in (STUDY, f"{STUDY}_controls"):  # the second extends the first
        (place / f"params/studies/{name}.yaml").unlink()


def test_runs_of_a_study_that_is_gone_are_of_an_unknown_one_and_foreign_folders_are_not(
    place: Path,
) -> None:
    (LAYOUT.runs() / "notes").mkdir()
    finished = next(iter(plan_of(LAYOUT, STUDY).runs))
    write_state(LAYOUT.state(finished), 3, {"step": 3}, b"tensors")
    forget_study(place)
    entries = take_inventory(LAYOUT)
    assert states(entries) == {
        ("run", "unknown study"): RUNS, ("evaluation", "unknown study"): len(ARMS),
        ("state", "unknown study"): 1, ("report", "unknown study"): 1,
    }  # fmt: skip
    assert take_inventory(LAYOUT, [STUDY]) == entries
    with pytest.raises(UserError, match="no study 'digit' in params/studies"):
        take_inventory(LAYOUT, ["digit"])


def test_runs_of_a_study_that_is_gone_are_pruned_only_where_it_is_named(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forget_study(place)
    before = files_below(place)
    status, listed, stderr = run_command(monkeypatch, capsys, "runs", "prune", "--yes")
    assert (status, listed) == (0, "state\tkind\tpath\n")
    assert f"of {STUDY}, without a parameter file in params/studies" in stderr
    assert f"to delete them, add --study {STUDY}" in stderr
    assert files_below(place) == before
    status, listed, stderr = run_command(
        monkeypatch, capsys, "runs", "prune", "--yes", "--study", STUDY
    )
    deleted = RUNS + len(ARMS) + 1  # with the folder of the selection
    assert status == 0 and listed.count("unknown study\t") == deleted
    assert stderr == f"deleted {deleted}\n"
    assert take_inventory(LAYOUT) == []


def test_tables_of_a_study_that_is_gone_are_pruned_with_its_runs(place: Path) -> None:
    folders = [LAYOUT.selection(STUDY).parent, LAYOUT.tables(STUDY), LAYOUT.figures(STUDY)]
    kept = [LAYOUT.tables("My notes"), LAYOUT.figures(f"{STUDY}_controls")]
    for folder in (*folders, *kept):
        folder.mkdir(parents=True, exist_ok=True)
    assert "report" not in {entry.kind for entry in take_inventory(LAYOUT)}
    (place / f"params/studies/{STUDY}_controls.yaml").write_text("title: Of its own\n")
    (place / f"params/studies/{STUDY}.yaml").unlink()
    entries = take_inventory(LAYOUT, [STUDY])
    assert prunable([entry for entry in entries if entry.kind == "report"]) == []
    for entry in prunable(entries, [STUDY]):
        delete(entry)
    assert not any(folder.exists() for folder in folders) and all(x.exists() for x in kept)


@pytest.mark.faults
@pytest.mark.parametrize("folder", ["parms", "results"])
@pytest.mark.parametrize("study", [(), ("--study", STUDY)])
def test_nothing_is_pruned_by_a_folder_that_holds_no_parameters(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    folder: str,
    study: tuple[str, ...],
) -> None:
    before = files_below(place)
    arguments = ("--params", folder, "runs", "prune", "--yes", *study)
    status, printed, stderr = run_command(monkeypatch, capsys, *arguments)
    assert (status, printed) == (2, "")
    assert f"there are no parameters in {place / folder}: correct --params" in stderr
    assert files_below(place) == before


def test_runs_on_unknown_data_are_never_pruned(place: Path) -> None:
    edit(place / f"params/studies/{STUDY}.yaml", "data.digest", None)
    entries = take_inventory(LAYOUT)
    assert {entry.state for entry in entries} == {"unknown data"}
    assert prunable(entries) == []


def test_prune_deletes_what_it_lists_and_only_when_told(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(place / "params/arms/sigreg.yaml", "objective.weight", 0.05)
    before = files_below(place)
    status, listed, stderr = run_command(monkeypatch, capsys, "runs", "prune")
    assert status == 0 and "--yes" in stderr
    assert listed.count("sigreg") == len(SEEDS) + 1 and "hamjepa-e" not in listed
    assert files_below(place) == before
    assert run_command(monkeypatch, capsys, "runs", "prune", "--yes")[:2] == (0, listed)
    gone = before - files_below(place)
    assert len(gone) == 3 * len(SEEDS) + 4 and all("sigreg" in path for path in gone)
    assert not list(LAYOUT.runs().glob(f"{STUDY}-sigreg-*"))
    assert prunable(take_inventory(LAYOUT)) == []


@pytest.mark.faults
def test_a_run_that_is_deleted_by_half_is_no_run(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    entry, *_ = take_inventory(LAYOUT)
    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(UserError, match=f"can't delete {entry.path}: Permission denied"):
        delete(entry)
    assert not LAYOUT.record(entry.path.name).exists()
    assert {e.path: e.state for e in take_inventory(LAYOUT)}[entry.path] == "incomplete"


@pytest.mark.faults
@pytest.mark.parametrize("command", [("verify",), ("runs", "list"), ("runs", "show", "digits")])
def test_a_folder_that_can_not_be_listed_is_not_taken_for_an_empty_one(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: tuple[str, ...],
) -> None:
    hidden, scandir = LAYOUT.runs(), os.scandir

    def refuse(folder: Any) -> Any:
        if Path(folder) == hidden:
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    told = f"error: can't list {hidden}: Permission denied; check its permissions and the disk\n"
    assert run_command(monkeypatch, capsys, *command) == (2, "", told)


def test_list_is_plain_text_where_no_terminal_is(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, listed, _ = run_command(monkeypatch, capsys, "runs", "list", "--study", STUDY)
    heading, *lines = listed.splitlines()
    assert status == 0 and heading.split("\t") == ["state", "kind", "path"]
    assert len(lines) == RUNS + len(ARMS)
    assert all(line.split("\t")[0] == "current" for line in lines)


def test_what_is_of_other_studies_is_neither_listed_nor_pruned(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(place / "params/arms/sigreg.yaml", "objective.weight", 0.05)
    before = files_below(place)
    for command in (("list",), ("prune", "--yes")):
        status, listed, _ = run_command(
            monkeypatch, capsys, "runs", *command, "--study", "cifar100"
        )
        assert (status, listed) == (0, "state\tkind\tpath\n")
    assert files_below(place) == before


def test_a_terminal_shows_all_of_a_table_whatever_stands_in_it(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """This includes brackets, which the drawing library would interpret as markup."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    _, listed, _ = run_command(monkeypatch, capsys, "runs", "list")
    runs = list(plan_of(LAYOUT, STUDY).runs)
    assert all(str(LAYOUT.run(name)) in listed for name in runs)
    record = {key: x for key, x in read_json(LAYOUT.record(runs[0])).items() if key != "sha256"}
    write_sealed_json(LAYOUT.record(runs[0]), record | {"packages": [True]})
    _, printed, _ = run_command(monkeypatch, capsys, "runs", "diff", *runs[:2])
    assert "[true]" in printed


def test_verify_names_the_damaged_files_of_a_study(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The names are on stdout, and their number in the error message."""
    record = LAYOUT.record(next(iter(plan_of(LAYOUT, STUDY).runs)))
    record.write_text(record.read_text().replace("sigreg", "sigrge", 1))
    status, named, stderr = run_command(monkeypatch, capsys, "verify", "--study", STUDY)
    assert status == 2 and str(record) in named
    assert f"error: mismatches below results: {len(named.splitlines())};" in stderr
    named = run_command(monkeypatch, capsys, "verify", "--study", f"{STUDY}_controls")[1]
    assert str(record) not in named


def test_show_prints_the_record(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = next(iter(plan_of(LAYOUT, STUDY).runs))
    status, shown, _ = run_command(monkeypatch, capsys, "runs", "show", run)
    expected = read_json(LAYOUT.record(run))
    assert status == 0
    assert yaml.safe_load(shown) == {key: expected[key] for key in expected if key != "sha256"}
    for name in (str(LAYOUT.run(run)), run[:-1]):
        assert run_command(monkeypatch, capsys, "runs", "show", name)[:2] == (0, shown)
    LAYOUT.run(f"{run}-before").mkdir()
    assert run_command(monkeypatch, capsys, "runs", "show", run)[:2] == (0, shown)
    LAYOUT.run(f"{run}-before").rmdir()
    status, _, stderr = run_command(monkeypatch, capsys, "runs", "show", f"{run[:-1]}x")
    assert status == 2 and f"did you mean '{run}'?" in stderr
    status, _, stderr = run_command(monkeypatch, capsys, "runs", "show", STUDY)
    assert status == 2 and f"is a prefix of {RUNS} runs" in stderr
    for there_are_none in (lambda: None, LAYOUT.runs().mkdir):
        shutil.rmtree(LAYOUT.runs(), ignore_errors=True)
        there_are_none()
        status, _, stderr = run_command(monkeypatch, capsys, "runs", "show", run)
        assert status == 2 and "there are none yet" in stderr


@pytest.mark.parametrize("command", [("verify",), ("runs", "list")])
def test_nothing_is_not_taken_for_all_is_well(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: tuple[str, ...],
) -> None:
    arguments = ("--results", "resutls", *command)
    status, printed, stderr = run_command(monkeypatch, capsys, *arguments)
    assert (status, printed) == (2, "")
    assert f"there are no results in {place / 'resutls'}" in stderr


def test_diff_names_the_keys_and_both_values(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = plan_of(LAYOUT, STUDY).runs
    arm = [name for name, run in runs.items() if run.arm.name == "sigreg"]
    status, printed, _ = run_command(monkeypatch, capsys, "runs", "diff", *arm)
    assert status == 0
    assert printed.splitlines()[1:] == [f"params.seed\t{SEEDS[0]}\t{SEEDS[1]}"]
    again = run_command(monkeypatch, capsys, "runs", "diff", arm[0], arm[0])
    assert again == (0, "", "nothing differs\n")
    other = next(name for name, run in runs.items() if run.arm.name == "hamjepa")
    _, printed, _ = run_command(monkeypatch, capsys, "runs", "diff", arm[0], other)
    rows = dict(line.split("\t", 1) for line in printed.splitlines()[1:])
    assert rows["params.title"] == f"{json.dumps('SIGReg')}\t{json.dumps('HamJEPA')}"
    assert rows["params.arm.objective.predictor.steps"] == "-\t2"
    assert not any(key.startswith(("params.encoder", "data_digest")) for key in rows)
