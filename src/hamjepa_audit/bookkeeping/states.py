"""States of unfinished runs, on the disk: what a killed training goes on from.

A run's folder of states holds, for each of its last few states, `step-N.safetensors` and
`step-N.json`, which is written last, seals itself and names the digest of the first. Nothing here
needs PyTorch.
"""

import hashlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hamjepa_audit.errors import UserError
from hamjepa_audit.files import read_sealed_json, sha256_file, write_bytes, write_sealed_json
from hamjepa_audit.layout import Layout

SCHEMA = 2
"""Raised by hand when other things are kept, or under other names."""

KEPT = 2
"""States of a run: the last, and the one before it in case that is damaged."""

UNUSED = "unused-"
"""What the names of states begin with that were set aside."""

_RECORD = re.compile(r"step-(\d+)\.json")


class SavedState(NamedTuple):
    """The files of a state, and how many steps were done."""

    step: int
    record: Path
    tensors: Path


def saved_states(folder: Path) -> list[SavedState]:
    """The states in a run's folder, the last first."""
    matches = [_RECORD.fullmatch(path.name) for path in folder.glob("step-*.json")]
    return sorted((_saved(folder, int(match[1])) for match in matches if match), reverse=True)


def _saved(folder: Path, step: int) -> SavedState:
    name = f"step-{step:010d}"
    return SavedState(step, folder / f"{name}.json", folder / f"{name}.safetensors")


def write_state(folder: Path, step: int, content: dict[str, Any], tensors: bytes) -> None:
    """Writes a state, then removes those that it makes needless.

    Args:
        folder: of the run's states; its name is the run id.
        step: how many steps were done.
        content: what `read_state` gives back.
        tensors: of a safetensors file.

    Raises:
        UserError: the disk is full or can't be written to; the states before are as they were.
    """
    state = _saved(folder, step)
    # Without waiting for the disk: what a power failure cuts short is known by its digest.
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
    """What was kept besides the tensors, once every byte of both files is what was written.

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
            f"{state.record} is of version {content['schema']} of states, not {SCHEMA}; delete it"
        )
    if sha256_file(state.tensors) != content["tensors"]:
        raise UserError(
            f"{state.tensors} was changed or damaged since it was written: it has not the SHA-256 "
            f"that {state.record.name} names; delete both"
        )
    return content


def require_checkpoints(layout: Layout, run_id: str, checkpoints: Mapping[str, str]) -> None:
    """Checks the checkpoints along training that lie with a run's states, or already in its folder.

    Args:
        layout: where.
        run_id: the run.
        checkpoints: the SHA-256 that a state names of each, by file name.

    Raises:
        UserError: one is missing, changed or damaged.
    """
    for name, recorded in checkpoints.items():
        places = [folder / name for folder in (layout.state(run_id), layout.run(run_id))]
        path = next((path for path in places if path.exists()), places[0])
        remedy = f"delete {layout.state(run_id)}, and {run_id} starts anew"
        if not path.exists():
            raise UserError(f"missing checkpoint {path}, which a state of its run names; {remedy}")
        if sha256_file(path) != recorded:
            raise UserError(
                f"{path} was changed or damaged since it was written: it has not the SHA-256 that "
                f"a state of its run names; {remedy}"
            )


def set_aside(state: SavedState) -> Path:
    """Renames the files of a state, so that it is not tried again; the new name of its record."""
    for path in (state.record, state.tensors):
        if path.exists():
            path.replace(path.with_name(UNUSED + path.name))
    return state.record.with_name(UNUSED + state.record.name)


def remove_states(folder: Path) -> None:
    """Deletes a run's states; the records first, without which the rest is nothing.

    Raises:
        UserError: they can't be deleted.
    """
    try:
        for state in saved_states(folder):
            state.record.unlink()
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise UserError(
            f"can't delete {folder}: {error.strerror}; check the folder's permissions"
        ) from error
