"""Verifies prepared data and results by recomputing every digest."""

import contextlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from hamjepa_audit.bookkeeping.measurements import require_origin, training_times
from hamjepa_audit.bookkeeping.records import read_record, require_recorded
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
from hamjepa_audit.data.store import images_file, verify_store
from hamjepa_audit.errors import UserError
from hamjepa_audit.files import read_json, read_parquet, read_sealed_json, require_sha256
from hamjepa_audit.layout import CHECKPOINT_SUFFIX, PROVENANCE, Layout
from hamjepa_audit.metrics import CURVES_SCHEMA, LONG_TABLES, METRICS_SCHEMA
from hamjepa_audit.params import load_study
from hamjepa_audit.plans.identity import batch_id, run_prefix
from hamjepa_audit.plans.study import ALL_STEPS

_Result = TypeVar("_Result")
_MEASUREMENT = re.compile(rf"({'|'.join(ALL_STEPS)})-[0-9a-f]{{12}}\.parquet")


@dataclass
class Verification:
    """The result of a verification.

    Attributes:
        problems: one line for each mismatch.
        checked: the number of checks of each kind.
        unchecked: what could not be checked, because there is nothing to compare it with.
    """

    problems: list[str] = field(default_factory=list)
    checked: Counter[str] = field(default_factory=Counter)
    unchecked: list[str] = field(default_factory=list)

    def check(self, kind: str, check: Callable[..., _Result], *arguments: Any) -> _Result | None:
        """Returns what a check returns; or adds its UserError to the problems and returns None."""
        self.checked[kind] += 1
        try:
            return check(*arguments)
        except UserError as error:
            # A damaged file is found again when the tables made from it are checked.
            if str(error) not in self.problems:
                self.problems.append(str(error))
            return None


def verify_results(layout: Layout, studies: Sequence[str] | None = None) -> Verification:
    """Recomputes every digest of the prepared data and of the results.

    Args:
        layout: the folders of the audit.
        studies: the studies to verify; None means everything that exists, whatever the parameters.

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
            _verify_study_tables(result, layout, folder.name)
    if studies is None:
        _verify_joint_metrics(result, layout)
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
    traces = (layout.manifest("any").name, images_file("train"))
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


def _verify_study_tables(result: Verification, layout: Layout, study: str) -> None:
    tables = {kind: layout.study_table(study, kind) for kind in LONG_TABLES}
    made = {kind: table for kind, table in tables.items() if table.exists()}
    path = layout.selection(study)
    if made and not path.exists():
        result.unchecked.append(f"{path.parent}: {path.name}, which lists the sources, is missing")
    if not made or not path.exists():
        return
    selection = result.check("selections", _read_selection, path)
    if selection is None:
        return
    gone = [run for run in selection["runs"] if not layout.record(run).exists()]
    if layout.runs().exists() and gone:
        result.check("study tables", _refuse_without_runs, layout, path, gone)
        return
    sources = _sources(layout, selection)
    for kind, table in made.items():
        roots = {path.parents[1] for path in sources[kind]}
        # Training times are not measurements; they come from the records.
        timed = selection["runs"] if kind == "metrics" else []
        roots |= {layout.runs()} if timed else set()
        missing = sorted(str(root) for root in roots if not root.exists())
        if missing:
            result.unchecked.append(f"the rows of {table}: there is no {missing[0]}")
        else:
            arguments = (layout, table, LONG_TABLES[kind], sources[kind], timed)
            result.check("study tables", _check_rows, *arguments)


def _read_selection(path: Path) -> dict[str, Any]:
    selection = read_json(path)
    if not isinstance(selection, dict) or not {"measurements", "runs"} <= set(selection):
        raise UserError(
            f"{path} does not list measurements and runs; delete it and run snakemake again"
        )
    return selection


def _refuse_without_runs(layout: Layout, selection: Path, gone: Sequence[str]) -> None:
    study = selection.parent.name
    known = (layout.params / "studies" / f"{study}.yaml").exists()
    command = (
        f"snakemake --cores all results/tables --config studies='[{study}]'"
        if known
        else f"hamjepa-audit runs prune --study {study} --yes"
    )
    raise UserError(
        f"{selection} names runs that do not exist ({len(gone)}, such as {gone[0]}); run: {command}"
    )


def _sources(layout: Layout, selection: dict[str, Any]) -> dict[str, list[Path]]:
    """The files from which each long table of a study is made, according to its selection."""
    measurements = [layout.results / name for name in selection["measurements"]]
    return {
        "metrics": [path for path in measurements if not path.name.startswith("curves-")],
        "curves": [path for path in measurements if path.name.startswith("curves-")],
        "history": [layout.run_history(run) for run in selection["runs"]],
    }


def _verify_joint_metrics(result: Verification, layout: Layout) -> None:
    if not layout.metrics().exists():
        return
    selection = layout.studies_selection()
    if not selection.exists():
        result.unchecked.append(f"the rows of {layout.metrics()}: there is no {selection}")
        return
    result.check("joint tables", _check_joint_metrics, layout)


def _check_joint_metrics(layout: Layout) -> None:
    studies = read_json(layout.studies_selection())
    if not isinstance(studies, list):
        raise UserError(
            f"{layout.studies_selection()} does not list studies; delete it and run snakemake again"
        )
    sources = [layout.study_table(str(study), "metrics") for study in studies]
    gone = [str(source.parent.name) for source in sources if not source.exists()]
    if gone:
        raise UserError(
            f"{layout.metrics()} was made from tables of {', '.join(gone)} that no longer exist; "
            f"run: snakemake --cores all results/tables"
        )
    _check_rows(layout, layout.metrics(), METRICS_SCHEMA, sources)


def _check_rows(
    layout: Layout,
    target: Path,
    schema: pa.Schema,
    sources: Sequence[Path],
    timed: Sequence[str] = (),
) -> None:
    """Checks that a table has exactly the rows of its sources and the training times of `timed`."""
    held = read_parquet(target, schema, sealed=True)
    tables = [read_parquet(source, schema) for source in sources]
    if timed:
        tables.append(training_times(layout, timed))
    if not tables or not _sorted(held).equals(_sorted(pa.concat_tables(tables))):
        raise UserError(
            f"{target} does not hold exactly the rows of its {len(sources)} sources; delete it "
            f"and make it again"
        )


def _sorted(table: pa.Table) -> pa.Table:
    order = [(name, "ascending") for name in table.column_names]
    return table.sort_by(order).combine_chunks()


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
