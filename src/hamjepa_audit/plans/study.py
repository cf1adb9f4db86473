"""Plan of a study: its runs, batches of runs, and the files that each step makes.

The command line and the workflow both use it, so that they agree on the files.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hamjepa_audit.data.store import load_manifest
from hamjepa_audit.errors import UserError, nearest
from hamjepa_audit.files import read_json, write_if_changed
from hamjepa_audit.layout import Layout
from hamjepa_audit.params.studies import RunParams, StudyParams
from hamjepa_audit.plans.gain import gain_figures
from hamjepa_audit.plans.identity import batch_id, evaluation_digest, run_id, study_runs

REPORT_VERSION = 11
"""Bumped by hand when tables or figures change for the same measurements."""

STEPS = ("knn", "probe", "geometry", "curves")
"""Measurements of every batch; `geometry` writes `curves` along with its metrics."""

TRAJECTORY = "trajectory"
"""All metrics of the checkpoints before the last, in studies that keep some."""

DYNAMICS = "dynamics"
"""Measurements of trained predictors, for arms that have one."""

ALL_STEPS = (*STEPS, TRAJECTORY, DYNAMICS)

TABLES = ("seeds", "summary", "differences", "overview")
"""The tables of every study."""

GAIN = "gain"
"""Table of studies that have the arms for it."""

TABLE_FORMS = ("csv", "md", "tex", "parquet")
"""File formats of a table; all hold the same numbers."""

FIGURE_FORMS = ("png", "pdf")
"""File formats of a figure."""


@dataclass(frozen=True)
class Batch:
    """The runs of one arm and number of epochs, all seeds; they are evaluated together."""

    layout: Layout
    study: StudyParams
    data_digest: str
    runs: tuple[RunParams, ...]
    run_ids: tuple[str, ...]

    @property
    def arm(self) -> str:
        """The arm's name."""
        return self.runs[0].arm.name

    @property
    def epochs(self) -> int:
        """Epochs of its runs."""
        return self.runs[0].epochs

    @cached_property
    def name(self) -> str:
        """Readable prefix and digest of its run ids."""
        return batch_id(self.run_ids, self.study.name, self.arm, self.epochs)

    @property
    def epochs_along(self) -> tuple[int, ...]:
        """Epochs of the checkpoints before the last."""
        return self.study.checkpoints.epochs_before(self.epochs)

    @property
    def steps(self) -> tuple[str, ...]:
        """The measurements made of it."""
        along = (TRAJECTORY,) if self.epochs_along else ()
        predicts = self.runs[0].arm.objective.kind == "phase_space"
        return (*STEPS, *along, *((DYNAMICS,) if predicts else ()))

    def require(self, step: str) -> None:
        """Refuses to make a measurement that the batch does not have.

        Raises:
            UserError: `step` needs checkpoints along training or a predictor, and there are none.
        """
        if step == TRAJECTORY and step not in self.steps:
            raise UserError(
                f"study '{self.study.name}' keeps no checkpoints along its runs of {self.epochs} "
                f"epochs; set checkpoints.every_epochs in its parameters"
            )
        if step == DYNAMICS and step not in self.steps:
            raise UserError(
                f"arm '{self.arm}' of study '{self.study.name}' has no predictor; name another arm"
            )

    @property
    def adopted(self) -> bool:
        """Whether its runs were adopted without weights, with all their measurements."""
        return all(self.layout.is_without_weights(name) for name in self.run_ids) and all(
            self.measurement(step).exists() for step in self.steps
        )

    @property
    def features(self) -> Path:
        """Folder of its features."""
        params = self.study.evaluation
        return self.layout.features(self.name, evaluation_digest(params.view_seed))

    def measurement(self, step: str) -> Path:
        """The file of one of ALL_STEPS, named by the parameters that determine its numbers."""
        params = self.study.evaluation
        digest = {
            "knn": evaluation_digest(params.knn),
            "probe": evaluation_digest(params.probe),
            "geometry": evaluation_digest(params.geometry, params.view_seed),
            "curves": evaluation_digest(params.geometry, params.view_seed),
            TRAJECTORY: evaluation_digest(
                params.knn, params.probe, params.geometry, params.view_seed, *self.epochs_along
            ),
            DYNAMICS: evaluation_digest(params.dynamics, params.view_seed),
        }[step]
        return self.layout.measurement(self.name, step, digest)


@dataclass(frozen=True)
class StudyPlan:
    """All runs of a study for one state of its data."""

    layout: Layout
    study: StudyParams
    data_digest: str

    @cached_property
    def runs(self) -> dict[str, RunParams]:
        """The study's runs by run id."""
        return {run_id(run, self.data_digest): run for run in study_runs(self.study)}

    @cached_property
    def batches(self) -> dict[str, Batch]:
        """The study's batches by name."""
        groups: dict[tuple[str, int], dict[str, RunParams]] = {}
        for name, run in self.runs.items():
            groups.setdefault((run.arm.name, run.epochs), {})[name] = run
        batches = (
            Batch(self.layout, self.study, self.data_digest, tuple(group.values()), tuple(group))
            for group in groups.values()
        )
        return {batch.name: batch for batch in batches}

    def batch_of(self, run_id: str) -> Batch:
        """The batch that a run of the study belongs to."""
        return next(batch for batch in self.batches.values() if run_id in batch.run_ids)

    def batch(self, arm: str, epochs: int) -> Batch:
        """The batch of an arm and number of epochs.

        Raises:
            UserError: the study has no such arm or epochs.
        """
        for batch in self.batches.values():
            if (batch.arm, batch.epochs) == (arm, epochs):
                return batch
        arms = list(dict.fromkeys(batch.arm for batch in self.batches.values()))
        have = " or ".join(str(number) for number in self.study.epochs)
        lacks = f"arm '{arm}' with {epochs} epochs" if arm in arms else f"arm '{arm}'"
        near = nearest(arm, arms) if arm not in arms else ""
        raise UserError(
            f"study '{self.study.name}' has no {lacks}: its arms are {', '.join(arms)}, "
            f"each with {have} epochs" + (f"; {near}" if near.startswith("did") else "")
        )

    def measurements(self, *steps: str) -> list[Path]:
        """The files of some steps, for all batches that have them."""
        return [
            batch.measurement(step)
            for step in steps
            for batch in self.batches.values()
            if step in batch.steps
        ]

    def runs_of_files(self) -> dict[Path, tuple[str, ...]]:
        """For each measurement and history, the ids of the runs whose rows it holds."""
        measured = {
            batch.measurement(step): batch.run_ids
            for batch in self.batches.values()
            for step in batch.steps
        }
        return measured | {self.layout.run_history(name): (name,) for name in self.runs}

    def tables(self) -> list[Path]:
        """The files of the study's tables, in all formats."""
        return self._forms(*TABLES, *((GAIN,) if gain_figures(self.study) else ()))

    def stale_tables(self) -> list[Path]:
        """Existing files of tables that the study no longer has."""
        wanted = self.tables()
        known = self._forms(*TABLES, GAIN)
        return [path for path in known if path not in wanted and path.exists()]

    def _forms(self, *names: str) -> list[Path]:
        folder = self.layout.tables(self.study.name)
        return [folder / f"{name}.{ending}" for name in names for ending in TABLE_FORMS]

    def histories(self) -> list[Path]:
        """The histories of all runs."""
        return [self.layout.run_history(name) for name in self.runs]

    def selection(self) -> dict[str, Any]:
        """Inputs of the study's tables; changes exactly when the tables must change."""
        files = self.measurements(*ALL_STEPS)
        return {
            "study": self.study.name,
            "data_digest": self.data_digest,
            "runs": sorted(self.runs),
            "measurements": sorted(str(path.relative_to(self.layout.results)) for path in files),
            "arms": [[arm.name, arm.title] for arm in self.study.arms],
            "figure_arms": self.study.figure_arms,
            "statistics": self.study.statistics.model_dump(mode="json"),
            "report_version": REPORT_VERSION,
        }

    def write_selection(self) -> Path:
        """Writes the selection if it changed: tables and figures depend on this file."""
        return write_if_changed(self.layout.selection(self.study.name), self.selection())


def plan_study(layout: Layout, study: StudyParams) -> StudyPlan:
    """The plan of a study; the data need not be prepared if the parameters pin their digest.

    Raises:
        UserError: no digest is pinned and the data aren't prepared; or as `data_digest`.
    """
    prepared = layout.manifest(study.data.name).exists()
    digest = study.data.digest if not prepared else None
    return StudyPlan(layout, study, digest or data_digest(layout, study))


def data_digest(layout: Layout, study: StudyParams) -> str:
    """Digest of a study's prepared data, from its manifest.

    Raises:
        UserError: the data aren't prepared, are not those that the parameters pin, or have too few
            images for a batch or for the neighbours of kNN, or too few classes for an accuracy of
            the gain; or their manifest is damaged.
    """
    path = layout.manifest(study.data.name)
    if not path.exists():
        raise UserError(
            f"data set '{study.data.name}' is not prepared ({path} is missing); "
            f"run: hamjepa-audit prepare --study {study.name}"
        )
    manifest = load_manifest(path.parent)
    _require_enough_images(study, manifest.train.rows)
    _require_enough_classes(study, len(manifest.classes))
    digest = manifest.digest
    if study.data.digest is not None and digest != study.data.digest:
        raise UserError(
            f"{path} has digest {digest}, but the study pins {study.data.digest}; "
            f"run: hamjepa-audit prepare --study {study.name}"
        )
    return digest


def require_described(layout: Layout, study: StudyParams) -> None:
    """Checks that a study's prepared data have the description that it gives of them now.

    `prepare` notes the description beside the data; without this note, nothing is checked.

    Raises:
        UserError: they have another one.
    """
    noted = layout.source(study.data.name)
    if noted.exists() and read_json(noted) != study.data.description():
        raise UserError(
            f"data set '{study.data.name}' was prepared from another description ({noted}) than "
            f"study '{study.name}' gives now; run: hamjepa-audit prepare --study {study.name}"
        )


def _require_enough_images(study: StudyParams, images: int) -> None:
    """Raises UserError, before anything is trained, if there are too few training images."""
    wanted = {
        "optimisation.batch_size": study.optimisation.batch_size,
        "evaluation.knn.neighbours": max(study.evaluation.knn.neighbours),
    }
    for key, number in wanted.items():
        if number > images:
            raise UserError(
                f"{key} asks for {number} training images, but data set '{study.data.name}' has "
                f"{images}: lower it in params/studies/{study.name}.yaml"
            )


def _require_enough_classes(study: StudyParams, classes: int) -> None:
    """Raises UserError, before anything is trained, if an accuracy of the gain needs more."""
    measured = study.evaluation.accuracies(classes)
    for accuracy in study.statistics.gain.accuracies:
        if accuracy not in measured:
            raise UserError(
                f"statistics.gain.accuracies has '{accuracy}', but data set '{study.data.name}' "
                f"has only {classes} classes: name another in params/studies/{study.name}.yaml; "
                f"{nearest(accuracy, measured)}"
            )
