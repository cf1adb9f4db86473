"""The saved states of unfinished runs, from which a killed training resumes.

A run's folder of states contains, for each of its last few states, `step-N.safetensors` and
`step-N.json`. The latter is written last, is sealed, and contains the digest of the former.
Nothing here needs PyTorch.
"""

import hashlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hamjepa_audit.errors import UserError, explained
from hamjepa_audit.files import read_sealed_json, require_sha256, write_bytes, write_sealed_json
from hamjepa_audit.layout import Layout

SCHEMA = 2
"""The version of the format, to be raised when content or names change."""

KEPT = 2
"""The number of states kept per run: the last, and the one before in case the last is damaged."""

UNUSED = "unused-"
"""The prefix of the names of states that were set aside."""

_RECORD = re.compile(r"step-(\d+)\.json")


class SavedState(NamedTuple):
    """The files of a state, and the number of steps done."""

    step: int
    record: Path
    tensors: Path


def saved_states(folder: Path) -> list[SavedState]:
    """The states in a run's folder, the newest first."""
    matches = [_RECORD.fullmatch(path.name) for path in folder.glob("step-*.json")]
    return sorted((_saved(folder, int(match[1])) for match in matches if match), reverse=True)


def _saved(folder: Path, step: int) -> SavedState:
    name = f"step-{step:010d}"
    return SavedState(step, folder / f"{name}.json", folder / f"{name}.safetensors")


def write_state(folder: Path, step: int, content: dict[str, Any], tensors: bytes) -> None:
    """Writes a state after `step` steps, then deletes all but the last KEPT.

    The folder's name is the run id. `content` is JSON, which `read_state` returns; `tensors` is
    that of a safetensors file.

    Raises:
        UserError: the disk is full or can't be written to; earlier states are unchanged.
    """
    state = _saved(folder, step)
    # Without waiting for the disk: a file truncated by a power failure is detected by its digest.
    write_bytes(state.tensors, tensors, durable=False)
    seals = {
        "schema": SCHEMA,
        "run_id": folder.name,
        "tensors": hashlib.sha256(tensors).hexdigest(),
    }
    write_sealed_json(state.record, content | seals, durable=False)
    kept = {path for one in saved_states(folder)[:KEPT] for path in (one.record, one.tensors)}
    for path in sorted(folder.glob("step-*")):
        if path not in kept:
            path.unlink()


def read_state(state: SavedState) -> dict[str, Any]:
    """Verifies both files of a state and returns the JSON content.

    Raises:
        UserError: a file is missing, changed or damaged, or belongs to another run or version.
    """
    content = read_sealed_json(state.record)
    run_id = state.record.parent.name
    if content["run_id"] != run_id or content["step"] != state.step:
        raise UserError(
            f"{state.record} is step {content['step']} of {content['run_id']}, not step "
            f"{state.step} of {run_id}; move it back, or delete it"
        )
    if content["schema"] != SCHEMA:
        raise UserError(
            f"{state.record} has format version {content['schema']}, not {SCHEMA}; delete it"
        )
    require_sha256(state.tensors, content["tensors"], state.record.name, "delete both")
    return content


def require_checkpoints(layout: Layout, run_id: str, checkpoints: Mapping[str, str]) -> None:
    """Checks a run's intermediate checkpoints, beside its states or already in the run's folder.

    `checkpoints` holds the SHA-256 that a state has for each, by file name.

    Raises:
        UserError: one is missing, changed or damaged.
    """
    for name, recorded in checkpoints.items():
        places = [folder / name for folder in (layout.state(run_id), layout.run(run_id))]
        path = next((path for path in places if path.exists()), places[0])
        remedy = f"delete {layout.state(run_id)}, so that {run_id} starts over"
        if not path.exists():
            raise UserError(f"missing checkpoint {path}, which a state of its run names; {remedy}")
        require_sha256(path, recorded, "a state of its run", remedy)


def set_aside(state: SavedState) -> Path:
    """Renames the files of a state, so that it is not used again; returns its record's new path."""
    for path in (state.record, state.tensors):
        if path.exists():
            path.replace(path.with_name(UNUSED + path.name))
    return state.record.with_name(UNUSED + state.record.name)


def remove_states(folder: Path) -> None:
    """Deletes a run's states; the records first, without which the other files are ignored.

    Raises:
        UserError: they can't be deleted.
    """
    with explained(f"delete {folder}", "check the folder's permissions"):
        for state in saved_states(folder):
            state.record.unlink()
        if folder.exists():
            shutil.rmtree(folder)
