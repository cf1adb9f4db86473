"""Measurement of the checkpoints along training like the last one, without keeping features."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from hamjepa_audit.bookkeeping.measurements import write_measurement
from hamjepa_audit.bookkeeping.records import read_record
from hamjepa_audit.checkpoints import load_encoder, recorded_checkpoint
from hamjepa_audit.data.progress import Progress
from hamjepa_audit.data.store import verify_store
from hamjepa_audit.data.streaming import open_images
from hamjepa_audit.errors import UserError
from hamjepa_audit.evaluation import geometry
from hamjepa_audit.evaluation.features import FEATURES, extract_features
from hamjepa_audit.evaluation.knn import knn_measurements
from hamjepa_audit.evaluation.probe import probe_measurements
from hamjepa_audit.evaluation.readouts import by_readout
from hamjepa_audit.evaluation.rows import Labelled
from hamjepa_audit.evaluation.steps import labels_on, runs_of
from hamjepa_audit.metrics import METRICS_SCHEMA, Measurement, long_table
from hamjepa_audit.params.studies import RunParams
from hamjepa_audit.plans.identity import run_key
from hamjepa_audit.plans.study import TRAJECTORY, Batch


def measure_trajectory(batch: Batch, device: torch.device) -> Path:
    """Measures all metrics of every run's checkpoints before the last; returns the file.

    Raises:
        UserError: runs lack some of these checkpoints.
    """
    _require_checkpoints(batch)
    store = verify_store(batch.layout.store(batch.study.data.name), batch.data_digest)
    train, test = (open_images(split, device) for split in (store.train, store.test))
    labels = labels_on(store, device)
    checkpoints = {name: _along(batch, name) for name in batch.run_ids}
    tables = []
    number = len(batch.runs) * len(batch.epochs_along)
    with Progress(f"measuring {batch.arm} along training", number, unit="checkpoints") as progress:
        for name, run in runs_of(batch):
            for epoch in batch.epochs_along:
                source = recorded_checkpoint(batch.layout, run, name, epoch)
                encoder = load_encoder(run, source, device)
                features = extract_features(encoder, run, train, test)
                rows = measurements(run, features, labels, len(store.manifest.classes))
                key = run_key(run, batch.data_digest)
                tables.append(long_table(METRICS_SCHEMA, key, epoch, rows))
                progress.advance(1)
    target = batch.measurement(TRAJECTORY)
    write_measurement(target, tables, checkpoints)
    return target


def _require_checkpoints(batch: Batch) -> None:
    """Raises UserError if runs were trained before the study asked for these checkpoints.

    Run ids don't depend on them, so the workflow considers such runs finished.
    """
    layout, epochs = batch.layout, batch.epochs_along
    lacking = [
        str(layout.run(name))
        for name in batch.run_ids
        if layout.record(name).exists()
        and not all(layout.checkpoint_along(name, epoch).exists() for epoch in epochs)
    ]
    if lacking:
        raise UserError(
            f"{len(lacking)} of {len(batch.runs)} runs of arm '{batch.arm}' lack checkpoints of "
            f"epochs {', '.join(map(str, epochs))}, which checkpoints.every_epochs of study "
            f"'{batch.study.name}' asks for now; to train them again: rm -r {' '.join(lacking)}, "
            f"then the same snakemake command (by hand, for each seed: hamjepa-audit pretrain "
            f"--study {batch.study.name} --arm {batch.arm} --epochs {batch.epochs} --seed SEED)"
        )


def _along(batch: Batch, run_id: str) -> dict[str, str]:
    """The digests of a run's intermediate checkpoints by file name, from its record."""
    files = read_record(batch.layout, run_id)["files"]
    paths = [batch.layout.checkpoint_along(run_id, epoch) for epoch in batch.epochs_along]
    return {path.name: files[path.name] for path in paths}


def measurements(
    run: RunParams, features: dict[str, Tensor], labels: tuple[Tensor, ...], classes: int
) -> Iterator[Measurement]:
    """Yields all measurements of the features (see `extract_features`) of one checkpoint of a run.

    `labels` are those of the training and the test images, on the device that classifies.
    """
    params, device = run.evaluation, labels[0].device
    states = (features[name] for name in FEATURES)
    for part, (train, test, view_a, view_b) in by_readout(run.arm, *states):
        known, asked = map(Labelled, (train.to(device), test.to(device)), labels)
        yield from knn_measurements(part, known, asked, classes, params.knn)
        yield from probe_measurements(part, known, asked, classes, params.probe)
        measured = geometry.measure_geometry(train, test, view_a, view_b, params.geometry)
        yield from geometry.geometry_measurements(part, measured)
