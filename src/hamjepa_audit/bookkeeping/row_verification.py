"""Verifies that long tables have exactly the rows of what they were made from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from hamjepa_audit.bookkeeping.measurements import training_times
from hamjepa_audit.bookkeeping.verification_result import Verification
from hamjepa_audit.errors import UserError
from hamjepa_audit.files import read_json
from hamjepa_audit.layout import Layout
from hamjepa_audit.metrics import LONG_TABLES, METRICS_SCHEMA
from hamjepa_audit.parquet import read_parquet


def verify_study_tables(result: Verification, layout: Layout, study: str) -> None:
    """Checks that a study's long tables have exactly the rows of the sources in its selection."""
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


def verify_joint_metrics(result: Verification, layout: Layout) -> None:
    """Checks that the joint metrics have exactly the rows of the studies' metrics."""
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
