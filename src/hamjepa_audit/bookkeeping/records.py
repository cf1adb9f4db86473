"""Run records, read back: what a run was made of and on."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from hamjepa_audit.errors import UserError
from hamjepa_audit.files import read_sealed_json
from hamjepa_audit.layout import Layout
from hamjepa_audit.plans.identity import run_prefix, training_digest

Record = dict[str, Any]

COMPARED = (
    "params", "data_digest", "training_numerics",
    "version", "commit", "uncommitted_changes", "lock_sha256", "python", "packages", "platform",
    "device", "determinism", "runs_per_gpu",
)  # fmt: skip
"""What two runs may be told apart by: what decides their numbers, then what they ran on."""

ABSENT = object()
"""Stands for the value of a key that a record doesn't have."""


class Difference(NamedTuple):
    """A dotted key that two records have different values of; ABSENT where one lacks it."""

    key: str
    first: Any
    second: Any


def read_record(layout: Layout, run_id: str) -> Record:
    """The record of a run.

    Raises:
        UserError: it is missing, was changed or damaged, or is another run's.
    """
    path = layout.record(run_id)
    record = read_sealed_json(path)
    if recorded_run_id(record) != run_id or record["run_id"] != run_id:
        raise UserError(
            f"{path} is the record of a run that is named {recorded_run_id(record)} by its "
            f"parameters and data; move it to that run, or delete its folder and pretrain again"
        )
    return record


def require_one_kind_of_device(layout: Layout, run_ids: Iterable[str]) -> None:
    """Runs that are compared must have been trained on one kind of device.

    A GPU trains in bf16 and draws other directions for SIGReg: seeds of both don't make a mean.

    Raises:
        UserError: some ran on a CPU, some on a GPU, or a record can't be read.
    """
    kinds: dict[str, str] = {}
    for run_id in run_ids:
        kinds.setdefault(read_record(layout, run_id)["device"]["type"], run_id)
    if len(kinds) > 1:
        examples = ", ".join(f"{run_id} on {kind}" for kind, run_id in sorted(kinds.items()))
        raise UserError(
            f"runs of different kinds of device can't be compared: {examples}; delete the folders "
            f"of the ones and run them again where the others ran"
        )


def recorded_run_id(record: Record) -> str:
    """The run id that a record's parameters, data digest and numerics give."""
    params = record["params"]
    content = {key: value for key, value in params.items() if key != "title"}
    digest = training_digest(content, record["data_digest"], record["training_numerics"])
    prefix = run_prefix(record["study"], record["arm"], params["epochs"], params["seed"])
    return f"{prefix}-{digest}"


def differences(first: Record, second: Record) -> list[Difference]:
    """What two runs were made of or on differently, key by key."""
    flat = [
        {key: value for name in COMPARED for key, value in _leaves(name, record[name])}
        for record in (first, second)
    ]
    return [
        Difference(key, flat[0].get(key, ABSENT), flat[1].get(key, ABSENT))
        for key in dict.fromkeys([*flat[0], *flat[1]])
        if flat[0].get(key, ABSENT) != flat[1].get(key, ABSENT)
    ]


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The values below a key that aren't mappings, by dotted key."""
    if isinstance(value, dict) and value:
        for name, below in sorted(value.items()):
            yield from _leaves(f"{key}.{name}", below)
    else:
        yield key, value
