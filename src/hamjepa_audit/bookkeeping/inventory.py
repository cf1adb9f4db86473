"""What lies below the results: which runs and measurements the parameters ask for, which not."""

import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hamjepa_audit.bookkeeping.measurements import require_origin
from hamjepa_audit.bookkeeping.states import remove_states
from hamjepa_audit.errors import UserError
from hamjepa_audit.files import read_parquet
from hamjepa_audit.layout import Layout
from hamjepa_audit.locking import sole_process
from hamjepa_audit.params import load_study
from hamjepa_audit.params.loading import require_study, study_names
from hamjepa_audit.plans.study import StudyPlan, data_digest

Kind = Literal["run", "state", "evaluation", "measurement", "features"]
Standing = Literal["current", "left over", "unknown data", "unknown study"]
State = Standing | Literal["incomplete"]

_RUN = re.compile(r"([a-z][a-z0-9_]*)-[a-z][a-z0-9_]*-e\d+-s\d+-[0-9a-f]{12}")
_BATCH = re.compile(r"([a-z][a-z0-9_]*)-[a-z][a-z0-9_]*-e\d+-[0-9a-f]{12}")


@dataclass(frozen=True)
class Entry:
    """A run, states of an unfinished one, an evaluation of runs, or what lies in one.

    Attributes:
        kind: which of these.
        path: its folder or file.
        study: the study that it is of.
        standing: whether the parameters ask for it; not known where the study's data aren't
            prepared, which its run ids name, or where it has no parameters here.
        complete: whether all is there that makes it whole; of an evaluation, every measurement,
            each of the checkpoints that the runs have now.
    """

    kind: Kind
    path: Path
    study: str
    standing: Standing
    complete: bool

    @property
    def state(self) -> State:
        """What a person is told of it."""
        return self.standing if self.complete else "incomplete"


def take_inventory(layout: Layout, studies: Sequence[str] | None = None) -> list[Entry]:
    """What lies below results/runs, state and evaluation under an audit's names, sorted.

    Args:
        layout: where.
        studies: the studies to look at, also those whose parameters are gone; None: all.

    Raises:
        UserError: no params folder, no such study and nothing of it, or its parameters are wrong.
    """
    known = study_names(layout.params)
    plans = {name: _plan(layout, name) for name in known if studies is None or name in studies}
    found = [*_runs(layout, plans), *_states(layout, plans), *_evaluations(layout, plans)]
    if studies is None:
        return found
    for name in {*studies} - {entry.study for entry in found}:
        require_study(layout.params, name)
    return [entry for entry in found if entry.study in studies]


def prunable(entries: Sequence[Entry], named: Collection[str] = ()) -> list[Entry]:
    """What the parameters do not ask for, whole or not.

    Args:
        entries: what there is.
        named: the studies that were named; all is deleted of those that have no parameters, which
            of others is kept: their parameters may only be elsewhere.
    """
    return [
        entry
        for entry in entries
        if entry.standing == "left over"
        or (entry.standing == "unknown study" and entry.study in named)
    ]


def delete(entry: Entry) -> None:
    """Deletes an entry from the disk; what says that a run is whole goes first.

    Raises:
        UserError: it can't be deleted, or is the state of a run that is being trained.
    """
    if entry.kind == "state":
        with sole_process(entry.path.with_name(f"{entry.path.name}.lock"), entry.path.name):
            remove_states(entry.path)
        return
    try:
        if entry.kind == "measurement":
            entry.path.unlink()
        else:
            (entry.path / "run.json").unlink(missing_ok=True)
            shutil.rmtree(entry.path)
    except OSError as error:
        raise UserError(
            f"can't delete {entry.path}: {error.strerror}; check the folder's permissions"
        ) from error


def _plan(layout: Layout, name: str) -> StudyPlan | None:
    """The plan of a study; None where its data are neither pinned nor prepared."""
    study = load_study(layout.params, name)
    if study.data.digest is not None:
        return StudyPlan(layout, study, study.data.digest)
    if not layout.manifest(study.data.name).exists():
        return None
    return StudyPlan(layout, study, data_digest(layout, study))


def _runs(layout: Layout, plans: dict[str, StudyPlan | None]) -> Iterator[Entry]:
    for folder, study in _named(layout.runs(), _RUN):
        files = (layout.record(folder.name), layout.run_history(folder.name))
        weights = layout.checkpoint(folder.name).exists()
        complete = all(file.exists() for file in files) and (
            weights or layout.is_without_weights(folder.name)
        )
        yield Entry("run", folder, study, _standing(plans, study, folder.name), complete)


def _states(layout: Layout, plans: dict[str, StudyPlan | None]) -> Iterator[Entry]:
    """States of runs; those of a run that is whole meanwhile are needed no more."""
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


def _standing(plans: dict[str, StudyPlan | None], study: str, name: str) -> Standing:
    """Whether a study's plan has a run or a batch of this name; runs and batches share none."""
    if study not in plans:
        return "unknown study"
    plan = plans[study]
    if plan is None:
        return "unknown data"
    return "current" if name in plan.runs or name in plan.batches else "left over"


def _is_of_current_runs(layout: Layout, file: Path, run_ids: Collection[str]) -> bool:
    """Whether a measurement is there, whole, and of the checkpoints that its runs have now."""
    try:
        require_origin(layout, file, read_parquet(file, sealed=True), run_ids, whole=False)
    except UserError:  # `collect` and `verify` say which it is
        return False
    return True


def _named(root: Path, pattern: re.Pattern[str]) -> Iterator[tuple[Path, str]]:
    """Folders that the audit named, with their study; others are nobody's business here."""
    for folder in sorted(root.glob("*")):
        match = pattern.fullmatch(folder.name)
        if match is not None and folder.is_dir():
            yield folder, match[1]
