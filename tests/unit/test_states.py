"""States on disk: which are kept, which are refused, and how they are set aside or removed."""

import re
import shutil
from pathlib import Path

import pytest

from hamjepa_audit.bookkeeping.states import (
    SCHEMA,
    read_state,
    remove_states,
    require_checkpoints,
    saved_states,
    set_aside,
    write_state,
)
from hamjepa_audit.errors import UserError
from hamjepa_audit.files import read_sealed_json, sha256_file, write_sealed_json
from hamjepa_audit.layout import Layout
from tests.tiny import files_below

pytestmark = pytest.mark.faults
RUN = "a-run"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a run's states after four steps."""
    for step in (1, 2, 3, 4):
        write_state(tmp_path / RUN, step, {"step": step}, f"tensors {step}".encode())
    return tmp_path / RUN


def test_the_last_two_states_are_kept_and_the_last_comes_first(folder: Path) -> None:
    (folder / "step-by-step.json").write_text("notes")
    states = saved_states(folder)
    assert [state.step for state in states] == [4, 3]
    assert [state.tensors.read_text() for state in states] == ["tensors 4", "tensors 3"]
    assert files_below(folder) == {
        "step-by-step.json", *(path.name for state in states for path in state[1:])
    }  # fmt: skip
    assert read_state(states[0])["step"] == 4


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"run_id": "another"}, f"is step 4 of another, not step 4 of {RUN}; move it back"),
        ({"step": 5}, f"is step 5 of {RUN}, not step 4 of {RUN}; move it back"),
        ({"schema": SCHEMA - 1}, f"has format version {SCHEMA - 1}, not {SCHEMA}"),
        ({"schema": SCHEMA + 1}, f"has format version {SCHEMA + 1}, not {SCHEMA}"),
        ({"tensors": 64 * "0"}, "but step-0000000004.json says"),
    ],
)
def test_a_state_of_another_run_step_or_version_or_with_other_tensors_is_refused(
    folder: Path, content: dict[str, object], told: str
) -> None:
    last, _ = saved_states(folder)
    write_sealed_json(last.record, read_sealed_json(last.record) | content)
    with pytest.raises(UserError, match=re.escape(told)):
        read_state(last)


def test_checkpoints_along_training_are_with_the_states_or_with_the_run_already(
    folder: Path,
) -> None:
    layout = Layout(results=folder.parent / "results")
    early, late = (layout.unfinished_checkpoint(RUN, epoch) for epoch in (1, 2))
    moved = layout.run(RUN) / late.name
    for path in (early, moved):
        path.parent.mkdir(parents=True)
        path.write_text(path.name)
    recorded = {path.name: sha256_file(path) for path in (early, moved)}
    require_checkpoints(layout, RUN, recorded)
    for path in (early, moved):
        path.write_text("another")
        with pytest.raises(
            UserError, match=f"^{path} has the SHA-256 .*: it was changed or damaged"
        ):
            require_checkpoints(layout, RUN, recorded)
        path.unlink()
        missing = layout.state(RUN) / path.name
        with pytest.raises(UserError, match=f"^missing checkpoint {missing}, which a state of"):
            require_checkpoints(layout, RUN, recorded)
        path.write_text(path.name)


def test_a_state_that_is_set_aside_is_no_state_whatever_is_left_of_it(folder: Path) -> None:
    last, before = saved_states(folder)
    last.tensors.unlink()
    assert [set_aside(state).name for state in (last, before)] == [
        f"unused-{state.record.name}" for state in (last, before)
    ]
    assert saved_states(folder) == []
    assert all(name.startswith("unused-step-") for name in files_below(folder))


def test_states_that_are_removed_by_half_are_no_states(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refuse)
        with pytest.raises(UserError, match=f"can't delete {folder}: Permission denied; check"):
            remove_states(folder)
    assert saved_states(folder) == [] and folder.exists()
    remove_states(folder)
    assert not folder.exists()
    remove_states(folder)
