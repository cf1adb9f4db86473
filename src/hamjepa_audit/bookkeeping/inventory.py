"""Lists the runs and measurements below results/, and tells which ones the parameters ask for."""

import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hamjepa_audit.bookkeeping.measurements import require_origin
from hamjepa_audit.bookkeeping.records import is_complete
from hamjepa_audit.bookkeeping.states import remove_states
from hamjepa_audit.errors import UserError, explained
from hamjepa_audit.layout import Layout
from hamjepa_audit.locking import sole_process
from hamjepa_audit.params import load_study
from hamjepa_audit.params.loading import require_study, study_names
from hamjepa_audit.parquet import read_parquet
from hamjepa_audit.plans.study import StudyPlan, data_digest

Kind = Literal["run", "state", "evaluation", "measurement", "features", "report"]
Standing = Literal["current", "left over", "unknown data", "unknown study"]
State = Standing | Literal["incomplete"]

_STUDY = re.compile(r"[a-z][a-z0-9_]*")
_RUN = re.compile(r"([a-z][a-z0-9_]*)-[a-z][a-z0-9_]*-e\d+-s\d+-[0-9a-f]{12}")
_BATCH = re.compile(r"([a-z][a-z0-9_]*)-[a-z][a-z0-9_]*-e\d+-[0-9a-f]{12}")


@dataclass(frozen=True)
class Entry:
    """A run, states of an unfinished run, an evaluation or an item of one, or a study's report.

    Attributes:
        kind: which of these it is; a report is a folder of tables or figures of a study that has no
            parameter file.
        path: its folder or file.
        study: the study that it belongs to.
        standing: whether the parameters ask for it. This is unknown if the study's data are not
            prepared, because run ids depend on their digest, or if the study has no parameter file.
        complete: whether none of its files is missing. An evaluation is complete if it has every
            measurement, made on the checkpoints that the runs have now.
    """

    kind: Kind
    path: Path
    study: str
    standing: Standing
    complete: bool

    @property
    def state(self) -> State:
        """The state that is displayed to the user."""
        return self.standing if self.complete else "incomplete"


def take_inventory(layout: Layout, studies: Sequence[str] | None = None) -> list[Entry]:
    """Lists what is named like a run or a batch below results/runs, state and evaluation, sorted.

    Then the tables and figures of studies without a parameter file. `studies` may name such ones,
    too; None means all.

    Raises:
        UserError: there is no params folder; a study has neither parameters nor results; or its
            parameters are invalid.
    """
    known = study_names(layout.params)
    plans = {name: _plan(layout, name) for name in known if studies is None or name in studies}
    found = [
        *_runs(layout, plans),
        *_states(layout, plans),
        *_evaluations(layout, plans),
        *_reports(layout, known),
    ]
    if studies is None:
        return found
    for name in {*studies} - {entry.study for entry in found}:
        require_study(layout.params, name)
    return [entry for entry in found if entry.study in studies]


def prunable(entries: Sequence[Entry], named: Collection[str] = ()) -> list[Entry]:
    """The entries that the parameters do not ask for, complete or not.

    Those of a study without a parameter file are included only if the user named it: otherwise its
    parameters may merely be elsewhere.
    """
    return [
        entry
        for entry in entries
        if entry.standing == "left over"
        or (entry.standing == "unknown study" and entry.study in named)
    ]


def delete(entry: Entry) -> None:
    """Deletes an entry from the disk; a run's record, which marks it as complete, goes first.

    Raises:
        UserError: it can't be deleted, or it is the state of a run that is being trained.
    """
    if entry.kind == "state":
        with sole_process(entry.path.with_name(f"{entry.path.name}.lock"), entry.path.name):
            remove_states(entry.path)
        return
    with explained(f"delete {entry.path}", "check the folder's permissions"):
        if entry.kind == "measurement":
            entry.path.unlink()
        else:
            (entry.path / "run.json").unlink(missing_ok=True)
            shutil.rmtree(entry.path)


def _plan(layout: Layout, name: str) -> StudyPlan | None:
    """The plan of a study; None if its data are neither pinned nor prepared."""
    study = load_study(layout.params, name)
    if study.data.digest is not None:
        return StudyPlan(layout, study, study.data.digest)
    if not layout.manifest(study.data.name).exists():
        return None
    return StudyPlan(layout, study, data_digest(layout, study))


def _runs(layout: Layout, plans: dict[str, StudyPlan | None]) -> Iterator[Entry]:
    for folder, study in _named(layout.runs(), _RUN):
        complete = is_complete(layout, folder.name)
        yield Entry("run", folder, study, _standing(plans, study, folder.name), complete)


def _states(layout: Layout, plans: dict[str, StudyPlan | None]) -> Iterator[Entry]:
    """The saved states of runs; those of a finished run are left over."""
    for folder, study in _named(layout.states(), _RUN):
        standing = _standing(plans, study, folder.name)
        if standing != "unknown study" and layout.record(folder.name).exists():
            standing = "left over"
        yield Entry("state", folder, study, standing, True)


def _evaluations(layout: Layout, plans: dict[str, StudyPlan | None]) -> Iterator[Entry]:
    for folder, study in _named(layout.evaluations(), _BATCH):
        plan, standing = plans.get(study), _standing(plans, study, folder.name)
        if plan is None or standing != "current":
            yield Entry("evaluation", folder, study, standing, True)
            continue
        batch = plan.batches[folder.name]
        files = {batch.measurement(step) for step in batch.steps}
        complete = all(_is_of_current_runs(layout, file, batch.run_ids) for file in files)
        yield Entry("evaluation", folder, study, standing, complete)
        for file in sorted(set(folder.glob("*.parquet")) - files):
            yield Entry("measurement", file, study, "left over", True)
        for features in sorted(set(folder.glob("features-*")) - {batch.features}):
            yield Entry("features", features, study, "left over", True)


def _reports(layout: Layout, known: Collection[str]) -> Iterator[Entry]:
    """The long tables, tables for readers and figures of studies without a parameter file."""
    figures = layout.figures("any").parent
    for root in (layout.studies(), layout.audit_tables(), figures):
        for folder in sorted(root.glob("*/")):
            if _STUDY.fullmatch(folder.name) and folder.name not in known:
                yield Entry("report", folder, folder.name, "unknown study", True)


def _standing(plans: dict[str, StudyPlan | None], study: str, name: str) -> Standing:
    """Whether a study's plan has a run or batch of this name; no run is named like a batch."""
    if study not in plans:
        return "unknown study"
    plan = plans[study]
    if plan is None:
        return "unknown data"
    return "current" if name in plan.runs or name in plan.batches else "left over"


def _is_of_current_runs(layout: Layout, file: Path, run_ids: Collection[str]) -> bool:
    """Whether a measurement exists, is intact, and was made on its runs' current checkpoints."""
    try:
        require_origin(layout, file, read_parquet(file, sealed=True), run_ids, whole=False)
    except UserError:  # `collect` and `verify` report the reason
        return False
    return True


def _named(root: Path, pattern: re.Pattern[str]) -> Iterator[tuple[Path, str]]:
    """The folders whose names match, with their study; other folders are ignored."""
    for folder in sorted(root.glob("*")):
        match = pattern.fullmatch(folder.name)
        if match is not None and folder.is_dir():
            yield folder, match[1]
