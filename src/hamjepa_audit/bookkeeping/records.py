"""Reads and compares run records, which contain a run's parameters, data, code and device."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hamjepa_audit.errors import UserError
from hamjepa_audit.files import read_sealed_json, require_sha256
from hamjepa_audit.layout import Layout
from hamjepa_audit.plans.identity import run_prefix, training_digest

Record = dict[str, Any]

COMPARED = (
    "params", "data_digest", "training_numerics",
    "version", "commit", "uncommitted_changes", "lock_sha256", "python", "packages", "platform",
    "device", "determinism", "runs_per_gpu",
)  # fmt: skip
"""The keys in which runs are compared: what determines their numbers, then the environment."""

ABSENT = object()
"""Stands for the value of a key that a record lacks."""


class Difference(NamedTuple):
    """A dotted key with different values in two records; ABSENT if one of them lacks it."""

    key: str
    first: Any
    second: Any


def read_record(layout: Layout, run_id: str) -> Record:
    """The record of a run.

    Raises:
        UserError: it is missing, was changed or damaged, or belongs to another run.
    """
    path = layout.record(run_id)
    record = read_sealed_json(path)
    if recorded_run_id(record) != run_id or record["run_id"] != run_id:
        raise UserError(
            f"{path} is the record of {recorded_run_id(record)}, according to its parameters and "
            f"data; move it to that run's folder, or delete its folder and pretrain again"
        )
    return record


def is_complete(layout: Layout, run_id: str) -> bool:
    """Whether a run has its record, its history, and weights unless it was adopted without."""
    files = (layout.record(run_id), layout.run_history(run_id))
    weights = layout.checkpoint(run_id).exists() or layout.is_without_weights(run_id)
    return weights and all(file.exists() for file in files)


def require_recorded(path: Path, recorded: str) -> None:
    """Checks that a file of a run has the SHA-256 that the run's record has for it.

    Raises:
        UserError: it is missing, or was changed or damaged.
    """
    remedy = "fetch it again, or delete its folder and pretrain again"
    require_sha256(path, recorded, "its run's record", remedy)


def require_one_kind_of_device(layout: Layout, run_ids: Iterable[str]) -> None:
    """Checks that runs that are to be compared were trained on one kind of device.

    A GPU trains in bf16 and draws other directions for SIGReg, so that runs on CPUs and GPUs must
    not be averaged.

    Raises:
        UserError: some runs used a CPU and others a GPU, or a record can't be read.
    """
    kinds: dict[str, str] = {}
    for run_id in run_ids:
        kinds.setdefault(read_record(layout, run_id)["device"]["type"], run_id)
    if len(kinds) > 1:
        examples = ", ".join(f"{run_id} on {kind}" for kind, run_id in sorted(kinds.items()))
        raise UserError(
            f"runs on different kinds of device can't be compared: {examples}; delete the folders "
            f"of the runs on one kind, and train them again on the other"
        )


def recorded_run_id(record: Record) -> str:
    """The run id that follows from a record's parameters, data digest and training numerics."""
    params = record["params"]
    content = {key: value for key, value in params.items() if key != "title"}
    digest = training_digest(content, record["data_digest"], record["training_numerics"])
    prefix = run_prefix(record["study"], record["arm"], params["epochs"], params["seed"])
    return f"{prefix}-{digest}"


def differences(first: Record, second: Record) -> list[Difference]:
    """The keys of COMPARED, and of the mappings below them, in which two records differ."""
    compared = ({name: record[name] for name in COMPARED} for record in (first, second))
    return leaf_differences(*compared)


def leaf_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    """The keys, also of mappings within mappings, in which two mappings differ; dotted."""
    flat = [
        {key: value for name in mapping for key, value in _leaves(name, mapping[name])}
        for mapping in (first, second)
    ]
    return [
        Difference(key, flat[0].get(key, ABSENT), flat[1].get(key, ABSENT))
        for key in dict.fromkeys([*flat[0], *flat[1]])
        if flat[0].get(key, ABSENT) != flat[1].get(key, ABSENT)
    ]


def shown(value: Any) -> str:
    """A value of a Difference as text: JSON, or a dash for one that is absent."""
    return "-" if value is ABSENT else json.dumps(value)


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yields the values below a key that are not mappings, with their dotted keys."""
    if isinstance(value, dict) and value:
        for name, below in sorted(value.items()):
            yield from _leaves(f"{key}.{name}", below)
    else:
        yield key, value
