"""Verifies prepared data and results by recomputing every digest."""

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hamjepa_audit.bookkeeping.measurements import require_origin
from hamjepa_audit.bookkeeping.records import read_record, require_recorded
from hamjepa_audit.bookkeeping.row_verification import verify_joint_metrics, verify_study_tables
from hamjepa_audit.bookkeeping.states import (
    SavedState,
    read_state,
    require_checkpoints,
    saved_states,
)
from hamjepa_audit.bookkeeping.table_provenance import (
    check_selections,
    check_table_provenance,
    sealed_files,
)
from hamjepa_audit.bookkeeping.verification_result import Verification
from hamjepa_audit.data.store import array_file, verify_store
from hamjepa_audit.errors import UserError
from hamjepa_audit.files import read_sealed_json, require_sha256
from hamjepa_audit.layout import CHECKPOINT_SUFFIX, PROVENANCE, Layout
from hamjepa_audit.metrics import CURVES_SCHEMA, METRICS_SCHEMA
from hamjepa_audit.params import load_study
from hamjepa_audit.parquet import read_parquet
from hamjepa_audit.plans.identity import batch_id, run_prefix
from hamjepa_audit.plans.study import ALL_STEPS

_MEASUREMENT = re.compile(rf"({'|'.join(ALL_STEPS)})-[0-9a-f]{{12}}\.parquet")


def verify_results(layout: Layout, studies: Sequence[str] | None = None) -> Verification:
    """Recomputes every digest of the prepared data and of the results, or of those of some studies.

    Without `studies`, of everything that exists, whatever the parameters.

    Raises:
        UserError: there is no such study, or its parameters are invalid.
    """
    result = Verification()
    for folder in _stores(layout, studies):
        if folder.exists():
            result.check("stores", verify_store, folder)
        else:
            result.unchecked.append(f"the data in {folder}, which are not prepared")
    runs = list(_of_studies(layout.runs(), studies))
    for folder in runs:
        _verify_run(result, layout, folder)
    bare = sum(layout.is_without_weights(folder.name) for folder in runs)
    if bare:
        result.unchecked.append(f"checkpoints of {bare} runs, which were published without them")
    for folder in _of_studies(layout.states(), studies):
        for state in saved_states(folder):
            result.check("states", _check_state, layout, state)
    for folder in _of_studies(layout.evaluations(), studies):
        for file in sorted(folder.glob("*.parquet")):
            result.check("measurements", _check_measurement, layout, file)
    for folder in _folders(layout.studies()):
        if studies is None or folder.name in studies:
            verify_study_tables(result, layout, folder.name)
    if studies is None:
        verify_joint_metrics(result, layout)
    for file in _below(layout.results, PROVENANCE):
        if studies is None or file.parent.name in studies:
            result.check("provenances", check_table_provenance, file)
            if file in layout.provenances():
                result.check("selections", check_selections, layout, file)
    if layout.publication().exists():
        _verify_publication(result, layout)
    result.unchecked += _unsealed(layout, studies)
    for file in _other_tables(layout, studies):
        result.check("tables", _read_sealed, file)
    return result


def _stores(layout: Layout, studies: Sequence[str] | None) -> list[Path]:
    if studies is not None:
        names = [load_study(layout.params, study).data.name for study in studies]
        return [layout.store(name) for name in dict.fromkeys(names)]
    # A folder with images is meant to be a store even if its manifest is missing.
    traces = (layout.manifest("any").name, array_file("train", "images"))
    return [
        folder
        for folder in _folders(layout.data)
        if any((folder / name).exists() for name in traces)
    ]


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("[!.]*") if path.is_dir())


def _of_studies(root: Path, studies: Sequence[str] | None) -> Iterator[Path]:
    """The folders whose names begin with the name of one of the studies."""
    for folder in _folders(root):
        if studies is None or folder.name.partition("-")[0] in studies:
            yield folder


def _verify_run(result: Verification, layout: Layout, folder: Path) -> None:
    record = result.check("runs", read_record, layout, folder.name)
    if record is None:
        return
    without_weights = layout.is_without_weights(folder.name)
    if without_weights:
        result.check("files of runs", read_sealed_json, layout.without_weights(folder.name))
    for name, digest in record["files"].items():
        left_out = without_weights and Path(name).suffix == CHECKPOINT_SUFFIX
        if not left_out or (folder / name).exists():
            result.check("files of runs", require_recorded, folder / name, digest)


def _check_state(layout: Layout, state: SavedState) -> None:
    checkpoints = read_state(state)["checkpoints"]
    require_checkpoints(layout, state.record.parent.name, checkpoints)


def _check_measurement(layout: Layout, file: Path) -> None:
    """Checks a measurement's bytes, name and schema, and that its runs are those of its folder.

    Runs that exist must have the checkpoints on which it was made.
    """
    match = _MEASUREMENT.fullmatch(file.name)
    if match is None:
        raise UserError(
            f"{file} is not named STEP-DIGEST.parquet with a STEP of {', '.join(ALL_STEPS)}; "
            f"remove it"
        )
    schema = CURVES_SCHEMA if match[1] == "curves" else METRICS_SCHEMA
    table = read_parquet(file, schema, sealed=True)
    rows = table.select(["study", "arm", "epochs", "seed", "run_id"])
    runs = rows.group_by(rows.column_names).aggregate([]).to_pylist()
    groups = {(run["study"], run["arm"], run["epochs"]) for run in runs}
    names = {batch_id([run["run_id"] for run in runs], *group) for group in groups}
    if names != {file.parent.name}:
        raise UserError(
            f"{file} has rows of {', '.join(sorted(names)) or 'no runs'}, but its folder has "
            f"another name; move it to the folder of that name, or measure again"
        )
    require_origin(layout, file, table, [run["run_id"] for run in runs], whole=False)
    for run in runs:
        prefix = run_prefix(run["study"], run["arm"], run["epochs"], run["seed"])
        if not run["run_id"].startswith(f"{prefix}-"):
            raise UserError(
                f"{file}: the rows of {run['run_id']} have the study, arm, epochs and seed of "
                f"{prefix}; measure again"
            )


def _verify_publication(result: Verification, layout: Layout) -> None:
    """Checks the digests of all files of a publication, figures included."""
    mark = layout.publication()
    published = result.check("publications", read_sealed_json, mark)
    if published is None:
        return
    if "files" not in published:
        result.unchecked.append(f"files of a publication: {mark} lists none; publish it again")
    for name, recorded in published.get("files", {}).items():
        path, remedy = layout.results / name, "fetch it again, or publish the study again"
        result.check("published files", require_sha256, path, recorded, mark, remedy)


def _below(root: Path, pattern: str) -> list[Path]:
    """The files below a folder, not counting hidden ones, which are temporary."""
    return [
        path
        for path in sorted(root.rglob(pattern))
        if not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]


def _other_tables(layout: Layout, studies: Sequence[str] | None) -> list[Path]:
    """The Parquet files outside runs and evaluation; of `studies`, only those in their folders."""
    above = (layout.runs(), layout.evaluations())
    return [
        path
        for path in _below(layout.results, "*.parquet")
        if not any(path.is_relative_to(root) for root in above)
        and (studies is None or path.parent.name in studies)
    ]


def _unsealed(layout: Layout, studies: Sequence[str] | None) -> list[str]:
    """One line for each folder of tables with files that no provenance names."""
    folders = [*_folders(layout.audit_tables()), layout.audit_tables(), layout.theory()]
    sealed: set[Path] = set()
    for path in layout.provenances():
        with contextlib.suppress(UserError):  # already reported as a problem
            sealed |= {path, *(Path(os.path.normpath(file)) for file in sealed_files(path))}
    sealed |= {layout.theory_selection()}
    lines = []
    for folder in folders:
        files = [path for path in sorted(folder.glob("[!.]*")) if path.is_file()]
        loose = [path for path in files if path not in sealed]
        if loose and (studies is None or folder.name in studies):
            lines.append(
                f"{len(loose)} files in {folder}, such as {loose[0]}, which no {PROVENANCE} names"
            )
    return lines


def _read_sealed(path: Path) -> None:
    read_parquet(path, sealed=True)
