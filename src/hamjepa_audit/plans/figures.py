"""The figures of a study."""

import re
from pathlib import Path

from hamjepa_audit.params.studies import StudyParams
from hamjepa_audit.plans.audit import AuditPlan
from hamjepa_audit.plans.gain import gain_figures
from hamjepa_audit.plans.study import FIGURE_FORMS

FIGURES = (
    "claim_differences", "claims", "seeds", "differences", "power", "knn_sweep", "eigenspectra",
    "cosine_histograms", "norm_histograms", "training_curves", "readouts_along_training",
    "accuracy_against_rank", "what_carries_the_gain", "leapfrog_sensitivity", "sigreg_sensitivity",
)  # fmt: skip
"""All figures of a study, in the page's order."""

MEASURED = (
    "knn_sweep", "seeds", "differences", "eigenspectra", "cosine_histograms", "norm_histograms",
    "training_curves",
)  # fmt: skip
"""Figures of measurements that every study has."""

ALONG_TRAINING = ("readouts_along_training", "accuracy_against_rank")
"""Figures of checkpoints before the last."""


def measured_figures(study: StudyParams, epochs: int) -> list[str]:
    """Figures of measurements; ALONG_TRAINING only if runs keep earlier checkpoints."""
    return [*MEASURED, *(ALONG_TRAINING if study.checkpoints.epochs_before(epochs) else ())]


def has_trajectories(study: StudyParams) -> bool:
    """Whether runs of any number of epochs keep checkpoints before their last."""
    return any(study.checkpoints.epochs_before(epochs) for epochs in study.epochs)


def figures(study: StudyParams, epochs: int, plan: AuditPlan) -> list[str]:
    """All figures of a study and number of epochs, in the page's order."""
    made = {
        *measured_figures(study, epochs),
        *plan.figures(study.name, epochs),
        *gain_figures(study),
    }
    return [name for name in FIGURES if name in made]


def figure_files(study: StudyParams, plan: AuditPlan) -> list[Path]:
    """The files of all figures of a study, in all formats."""
    folder = plan.layout.figures(study.name)
    return [
        folder / f"{name}_e{epochs}.{ending}"
        for epochs in study.epochs
        for name in figures(study, epochs, plan)
        for ending in FIGURE_FORMS
    ]


def stale_figures(study: StudyParams, plan: AuditPlan) -> list[Path]:
    """Existing files of figures that the study no longer has."""
    named = re.compile(rf"({'|'.join(FIGURES)})_e\d+\.({'|'.join(FIGURE_FORMS)})")
    there = plan.layout.figures(study.name).glob("*.*")
    return sorted(
        {path for path in there if named.fullmatch(path.name)} - {*figure_files(study, plan)}
    )
