"""Run ids: a readable prefix and a digest of everything that determines a run's numbers."""

from collections.abc import Iterable
from typing import Any

from hamjepa_audit.files import digest_of
from hamjepa_audit.metrics import RunKey
from hamjepa_audit.params.base import Params
from hamjepa_audit.params.loading import resolve_run
from hamjepa_audit.params.studies import RunParams, StudyParams

TRAINING_NUMERICS = 4
"""Bumped by hand when training gives other numbers for the same parameters."""

EVALUATION_NUMERICS = 2
"""Bumped by hand when features, probes or geometry give other numbers for the same checkpoint."""

DIGEST_LENGTH = 12


def run_id(run: RunParams, data_digest: str) -> str:
    """`STUDY-ARM-eEPOCHS-sSEED-DIGEST`."""
    digest = training_digest(run.training_content(), data_digest, TRAINING_NUMERICS)
    return f"{run_prefix(run.study, run.arm.name, run.epochs, run.seed)}-{digest}"


def run_prefix(study: str, arm: str, epochs: int, seed: int) -> str:
    """The readable part of a run id."""
    return f"{study}-{arm}-e{epochs}-s{seed}"


def training_digest(content: dict[str, Any], data_digest: str, numerics: int) -> str:
    """The digest in a run id: of `RunParams.training_content`, data and version of the numerics."""
    deciding = {"params": content, "data": data_digest, "training_numerics": numerics}
    return digest_of(deciding)[:DIGEST_LENGTH]


def run_key(run: RunParams, data_digest: str) -> RunKey:
    """The columns that identify a run in the metric tables."""
    return RunKey(
        study=run.study,
        dataset=run.data.name,
        arm=run.arm.name,
        epochs=run.epochs,
        seed=run.seed,
        run_id=run_id(run, data_digest),
    )


def evaluation_digest(*deciding: Params | int) -> str:
    """The digest in a measurement's file name, of the parameters that determine its numbers."""
    content = [item if isinstance(item, int) else item.model_dump(mode="json") for item in deciding]
    return digest_of([content, EVALUATION_NUMERICS])[:DIGEST_LENGTH]


def batch_id(run_ids: Iterable[str], study: str, arm: str, epochs: int) -> str:
    """The name of a batch: the seeds of one arm that are evaluated together."""
    return f"{study}-{arm}-e{epochs}-{digest_of(sorted(run_ids))[:DIGEST_LENGTH]}"


def study_runs(study: StudyParams) -> list[RunParams]:
    """All runs of a study, ordered by arm, then epochs, then seed."""
    return [
        resolve_run(study, arm.name, epochs, seed)
        for arm in study.arms
        for epochs in study.epochs
        for seed in study.seeds
    ]
