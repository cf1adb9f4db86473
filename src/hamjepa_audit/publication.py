"""A study's results without weights: small enough for git, and enough to make its tables again."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from hamjepa_audit.errors import UserError
from hamjepa_audit.files import atomic_folder, read_json, read_parquet, write_sealed_json
from hamjepa_audit.layout import Layout
from hamjepa_audit.measurements import require_origin
from hamjepa_audit.plan import ALL_STEPS, StudyPlan
from hamjepa_audit.records import read_record
from hamjepa_audit.verification import verify_results


def publish(plan: StudyPlan, target: Path) -> Path:
    """Copies a study's records, histories, measurements, tables and figures, laid out as results.

    So `hamjepa-audit --results TARGET verify` checks them, and `adopt` takes them over elsewhere.

    Args:
        plan: of the study, the only one in the tables of verdicts and the joint metrics.
        target: the folder, in place of one that is there.

    Raises:
        UserError: the tables are of other studies as well, or something is missing or damaged.
    """
    layout, name = plan.layout, plan.study.name
    studies = read_json(layout.studies())
    if studies != [name]:
        raise UserError(
            f"{layout.audit_tables()} is of the studies {studies}; make tables of '{name}' alone: "
            f"snakemake --cores all results/tables --config studies='[{name}]'"
        )
    problems = verify_results(layout, [name]).problems
    if problems:
        raise UserError(f"'{name}' can't be published: {problems[0]}")
    with atomic_folder(target) as folder:
        for path in _published(plan):
            copy = folder / path.relative_to(layout.results)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        published = replace(layout, results=folder)
        for run in plan.runs:
            write_sealed_json(published.without_weights(run), {"run_id": run})
        write_sealed_json(published.publication(), {"study": name, "runs": sorted(plan.runs)})
    return target


def adopt(plan: StudyPlan, source: Path) -> int:
    """Takes over runs and measurements that were published, where the study lacks them.

    Only what the parameters ask for is taken, which its name says, and nothing that is damaged.

    Args:
        plan: of the study.
        source: what `publish` wrote.

    Returns:
        How many runs were taken over, without their checkpoints.

    Raises:
        UserError: it was not published, is of another study, or is damaged.
    """
    layout, published = plan.layout, replace(plan.layout, results=source)
    study = read_json(published.publication())["study"]
    if study != plan.study.name:
        raise UserError(f"{source} is of the study '{study}', not of '{plan.study.name}'")
    taken = 0
    for name in plan.runs:
        if published.record(name).exists() and not layout.record(name).exists():
            read_record(published, name)
            # The record, which says that the run is there, comes last.
            parts = (published.without_weights, published.run_history, published.record)
            for path in (part(name) for part in parts):
                _copy(path, published, layout)
            taken += 1
    theirs = replace(plan, layout=published)
    for batch in theirs.batches.values():
        for file in (batch.measurement(step) for step in batch.steps):
            if file.exists() and not (layout.results / file.relative_to(source)).exists():
                require_origin(published, file, read_parquet(file, sealed=True), batch.run_ids)
                _copy(file, published, layout)
    return taken


def _published(plan: StudyPlan) -> Iterator[Path]:
    layout, name = plan.layout, plan.study.name
    for run in plan.runs:
        yield layout.record(run)
        yield layout.run_history(run)
    yield from plan.measurements(*ALL_STEPS)
    yield from (layout.selection(name), layout.studies(), layout.claims_selection())
    yield from (layout.study_table(name, kind) for kind in ("metrics", "curves", "history"))
    yield from (layout.metrics(), layout.headlines(), layout.accuracies())
    for folder, pattern in (
        (layout.audit_tables(), "*.*"),
        (layout.tables(name), "*.*"),
        (layout.figures(name), "*.png"),
    ):
        yield from sorted(path for path in folder.glob(pattern) if path.is_file())


def _copy(path: Path, source: Layout, target: Layout) -> None:
    copy = target.results / path.relative_to(source.results)
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, copy)
