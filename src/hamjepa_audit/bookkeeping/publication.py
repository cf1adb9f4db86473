"""Publishes a study's results without weights: small enough for git, sufficient for its tables."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from hamjepa_audit.bookkeeping.measurements import require_origin
from hamjepa_audit.bookkeeping.records import read_record
from hamjepa_audit.bookkeeping.verification import verify_results
from hamjepa_audit.errors import UserError
from hamjepa_audit.files import (
    atomic_folder,
    atomic_path,
    digest_of,
    read_json,
    read_sealed_json,
    require_sha256,
    sha256_file,
    write_sealed_json,
)
from hamjepa_audit.layout import PROVENANCE, Layout
from hamjepa_audit.metrics import LONG_TABLES
from hamjepa_audit.parquet import read_parquet
from hamjepa_audit.plans.audit import AuditPlan, joint_tables
from hamjepa_audit.plans.figures import ALONG_TRAINING, figure_files
from hamjepa_audit.plans.gain import gain_figures
from hamjepa_audit.plans.study import ALL_STEPS, Batch, StudyPlan


def publish(plan: StudyPlan, target: Path) -> Path:
    """Copies a study's records, histories, measurements, tables and PNG figures.

    The copy has the layout of results/: `hamjepa-audit --results TARGET verify` checks it, and
    `adopt` copies its runs into other results. An earlier publication of the study is replaced. The
    study must be the only one in the tables of verdicts and in the joint metrics.

    Raises:
        UserError: the tables belong to other studies or parameters, a file is missing or damaged,
            or the folder contains anything but a publication of this study.
    """
    layout, name, audit = plan.layout, plan.study.name, AuditPlan.load(plan.layout)
    figures = [path for path in figure_files(plan.study, audit) if path.suffix == ".png"]
    _require_tables_of(plan, audit)
    _require_current(plan, audit, figures)
    _require_replaceable(target, name)
    with atomic_folder(target.absolute()) as folder:
        # The data are not published, so they must not be verified.
        published = replace(layout, results=folder, data=folder / "no data")
        for path in (*_published(plan), *figures):
            _copy(path, layout, published)
        for run in plan.runs:
            write_sealed_json(published.without_weights(run), {"run_id": run})
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        digests = {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}
        content = {"study": name, "runs": sorted(plan.runs), "files": digests}
        write_sealed_json(published.publication(), content)
        problems = verify_results(published).problems
        if problems:
            # The copy is deleted; what is wrong with it is wrong with the original.
            problem = problems[0].replace(str(folder), str(layout.results))
            raise UserError(f"'{name}' can't be published: {problem}")
    return target


class Adoption(NamedTuple):
    """What was adopted.

    Attributes:
        runs: number of runs that were adopted; they have no checkpoints.
        lacking: for each arm and number of epochs that the study has and the publication has not,
            one line that names a missing file.
    """

    runs: int
    lacking: list[str]


def adopt(plan: StudyPlan, source: Path) -> Adoption:
    """Copies runs that `publish` wrote and their measurements into the results that lack them.

    All seeds of an arm and number of epochs are adopted together, and only if all of them were
    published with every measurement that the parameters ask for: without weights, nothing else can
    be measured. Nothing is copied before everything has been checked.

    Raises:
        UserError: the folder is not a publication, or is of another study or damaged; or some of
            the runs that belong together were trained here.
    """
    published = require_publication(plan.layout, source, plan.study.name)
    wanted = [
        batch
        for batch in plan.batches.values()
        if not batch.adopted and len(_trained(batch)) < len(batch.run_ids)
    ]
    missing = {batch.name: _missing(replace(batch, layout=published)) for batch in wanted}
    whole = [batch for batch in wanted if not missing[batch.name]]
    for batch in whole:
        for name in _trained(batch):
            raise UserError(
                f"{plan.layout.run(name)} was trained here, and runs of one arm are adopted "
                f"together: delete its folder, or train the others here, too"
            )
        _require_sound(replace(batch, layout=published))
    for batch in whole:
        _copy_batch(batch, published)
    lacking = [
        f"{batch.arm} with {batch.epochs} epochs ({missing[batch.name][0]} is missing)"
        for batch in wanted
        if missing[batch.name]
    ]
    return Adoption(sum(len(batch.run_ids) for batch in whole), lacking)


def require_publication(layout: Layout, source: Path, study: str) -> Layout:
    """The layout of a folder, which must be a publication of a study.

    Raises:
        UserError: it is none, or of another study.
    """
    published = replace(layout, results=source)
    if not published.publication().exists():
        raise UserError(
            f"{source} holds no published study ({published.publication().name} is missing); name "
            f"one with --from"
        )
    found = read_sealed_json(published.publication())["study"]
    if found != study:
        raise UserError(
            f"{source} is a publication of the study '{found}', not of '{study}'; correct --study "
            f"or --from"
        )
    return published


def _missing(published: Batch) -> list[Path]:
    """The files that a publication lacks of a batch."""
    layout = published.layout
    marks = (layout.record, layout.run_history, layout.without_weights)
    of_runs = (file(name) for name in published.run_ids for file in marks)
    files = [*of_runs, *map(published.measurement, published.steps)]
    return [path for path in files if not path.exists()]


def _trained(batch: Batch) -> list[str]:
    layout = batch.layout
    return [
        name
        for name in batch.run_ids
        if layout.record(name).exists() and not layout.is_without_weights(name)
    ]


def _require_sound(published: Batch) -> None:
    """Checks a batch's measurements and histories against its runs' records."""
    layout = published.layout
    for file in map(published.measurement, published.steps):
        require_origin(layout, file, read_parquet(file, sealed=True), published.run_ids)
    for name in published.run_ids:
        history = layout.run_history(name)
        recorded = read_record(layout, name)["files"][history.name]
        require_sha256(history, recorded, "its run's record", "fetch it again")


def _copy_batch(batch: Batch, published: Layout) -> None:
    """Copies a batch; records are copied last, because they mark a run as complete."""
    for step in batch.steps:
        _copy(replace(batch, layout=published).measurement(step), published, batch.layout)
    for name in batch.run_ids:
        for part in (published.without_weights, published.run_history, published.record):
            _copy(part(name), published, batch.layout)


def _require_tables_of(plan: StudyPlan, audit: AuditPlan) -> None:
    """Refuses tables that were made from other studies or from other parameters than the plan's."""
    layout, name = plan.layout, plan.study.name
    expected: dict[Path, Any] = {
        layout.studies_selection(): [name],
        layout.selection(name): plan.selection(),
        layout.claims_selection(): audit.selection(),
    }
    for path, content in expected.items():
        if digest_of(read_json(path)) != digest_of(content):
            raise UserError(
                f"{path} was not made from '{name}' alone with the current parameters; "
                f"{_again(name)}"
            )


def _require_current(plan: StudyPlan, audit: AuditPlan, figures: Sequence[Path]) -> None:
    """Refuses missing files, and figures older than the metrics and selections they show."""
    layout, name = plan.layout, plan.study.name
    for path in (*_published(plan), *figures):
        if not path.exists():
            raise UserError(f"'{name}' can't be published: {path} is missing; {_again(name)}")
    of_claims = {
        f"{figure}_e{epochs}"
        for epochs in plan.study.epochs
        for figure in (*audit.figures(name, epochs), *gain_figures(plan.study), *ALONG_TRAINING)
    }
    for path in figures:
        sources = [layout.selection(name), layout.study_table(name, "metrics")]
        sources += [layout.claims_selection()] if path.stem in of_claims else []
        for source in sources:
            if source.stat().st_mtime_ns > path.stat().st_mtime_ns:
                raise UserError(
                    f"'{name}' can't be published: {path} is older than {source}, from which it is "
                    f"drawn; {_again(name)}"
                )


def _require_replaceable(target: Path, study: str) -> None:
    """Refuses to replace a folder that contains anything but a publication of the same study."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    mark = Layout(results=target).publication()
    if not mark.exists() or read_sealed_json(mark)["study"] != study:
        raise UserError(
            f"{target} contains something other than a publication of '{study}'; give --out "
            f"another folder, such as results/published/{study}"
        )


def _again(study: str) -> str:
    return f"run: snakemake --cores all results/tables --config studies='[{study}]'"


def _published(plan: StudyPlan) -> Iterator[Path]:
    layout, name = plan.layout, plan.study.name
    for run in plan.runs:
        yield layout.record(run)
        yield layout.run_history(run)
    yield from plan.measurements(*ALL_STEPS)
    yield from (layout.selection(name), layout.studies_selection(), layout.claims_selection())
    yield from (layout.study_table(name, kind) for kind in LONG_TABLES)
    yield layout.metrics()
    yield from (*joint_tables(layout), layout.audit_tables() / PROVENANCE)
    yield from (*plan.tables(), layout.tables(name) / PROVENANCE)


def _copy(path: Path, source: Layout, target: Layout) -> None:
    with atomic_path(target.results / path.relative_to(source.results), durable=False) as copy:
        shutil.copyfile(path, copy)
