"""Evaluation of a batch of runs: features in, long tables out, one file per step."""

import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hamjepa_audit.bookkeeping.measurements import Checkpoints, write_measurement
from hamjepa_audit.bookkeeping.records import read_record
from hamjepa_audit.checkpoints import load_encoder, load_model, recorded_checkpoint
from hamjepa_audit.data.store import Store, labels_sha256, open_store, verify_store
from hamjepa_audit.data.streaming import open_images
from hamjepa_audit.errors import UserError
from hamjepa_audit.evaluation import geometry
from hamjepa_audit.evaluation.dynamics import dynamics_measurements
from hamjepa_audit.evaluation.features import (
    FEATURES,
    FeaturesOrigin,
    extract_features,
    load_features,
    save_features,
)
from hamjepa_audit.evaluation.knn import knn_measurements
from hamjepa_audit.evaluation.probe import probe_measurements
from hamjepa_audit.evaluation.readouts import by_readout
from hamjepa_audit.evaluation.rows import Labelled, require_features
from hamjepa_audit.files import atomic_folder
from hamjepa_audit.metrics import CURVES_SCHEMA, METRICS_SCHEMA, Measurement, Point, long_table
from hamjepa_audit.params.arms import Readout
from hamjepa_audit.params.studies import RunParams
from hamjepa_audit.plans.identity import run_key
from hamjepa_audit.plans.study import DYNAMICS, Batch

Classifier = Callable[[Readout, Labelled, Labelled, int], list[Measurement]]


def extract(batch: Batch, device: torch.device) -> Path:
    """Writes the features of every run of a batch; returns their complete folder."""
    store = verify_store(batch.layout.store(batch.study.data.name), batch.data_digest)
    train, test = (open_images(split, device) for split in (store.train, store.test))
    labels = labels_sha256(store)
    with atomic_folder(batch.features) as folder:
        for name, run in runs_of(batch):
            source = recorded_checkpoint(batch.layout, run, name)
            encoder = load_encoder(run, source, device)
            origin = FeaturesOrigin(_recorded_sha256(batch, name), labels)
            features = extract_features(encoder, run, train, test)
            save_features(features, folder / _features_name(name), origin)
    return batch.features


def measure_knn(batch: Batch, device: torch.device) -> Path:
    """Measures kNN accuracies of every run and readout of a batch; returns the file."""
    params = batch.study.evaluation.knn
    return _classify(batch, device, "knn", functools.partial(knn_measurements, params=params))


def measure_probe(batch: Batch, device: torch.device) -> Path:
    """Measures linear-probe accuracies of every run and readout of a batch; returns the file."""
    params = batch.study.evaluation.probe
    return _classify(batch, device, "probe", functools.partial(probe_measurements, params=params))


def measure_geometry(batch: Batch) -> tuple[Path, Path]:
    """Measures geometry of every run and readout of a batch; returns metrics and curves files."""
    metrics, curves = batch.measurement("geometry"), batch.measurement("curves")
    checkpoints = _checkpoints(batch)
    metric_tables, curve_tables = [], []
    for name, run in runs_of(batch):
        measurements: list[Measurement] = []
        points: list[Point] = []
        params = run.evaluation.geometry
        features = _features(batch, name, *FEATURES)
        for part, (train, test, view_a, view_b) in by_readout(run.arm, *features):
            measured = geometry.measure_geometry(train, test, view_a, view_b, params)
            measurements += geometry.geometry_measurements(part, measured)
            points += geometry.geometry_curves(part, measured, params.quantiles)
        key = run_key(run, batch.data_digest)
        metric_tables.append(long_table(METRICS_SCHEMA, key, run.epochs, measurements))
        curve_tables.append(long_table(CURVES_SCHEMA, key, run.epochs, points))
    write_measurement(curves, curve_tables, checkpoints)
    write_measurement(metrics, metric_tables, checkpoints)
    return metrics, curves


def measure_predictors(batch: Batch, device: torch.device) -> Path:
    """Measures every run's predictor on the test images' views; returns the file.

    Raises:
        UserError: features are missing, damaged or not finite; or a checkpoint is not the run's.
    """

    def rows_of(name: str, run: RunParams) -> list[Measurement]:
        source = recorded_checkpoint(batch.layout, run, name)
        views = _features(batch, name, "view_a", "view_b")
        for view in views:
            require_features(view, "test")
        predictor = load_model(run, source).moved_to(device).objective.get_submodule("predictor")
        return dynamics_measurements(run, predictor, *(view.to(device) for view in views))

    return _measured(batch, DYNAMICS, rows_of)


def _classify(batch: Batch, device: torch.device, step: str, classify: Classifier) -> Path:
    """Applies a classifier to every run and readout."""
    store = open_store(batch.layout.store(batch.study.data.name))
    classes, digest = len(store.manifest.classes), labels_sha256(store)
    labels = labels_on(store, device)

    def rows_of(name: str, run: RunParams) -> Iterator[Measurement]:
        stored = _features(batch, name, "train", "test", labels=digest)
        for part, features in by_readout(run.arm, *(states.to(device) for states in stored)):
            train, test = map(Labelled, features, labels)
            yield from classify(part, train, test, classes)

    return _measured(batch, step, rows_of)


def _measured(
    batch: Batch, step: str, rows_of: Callable[[str, RunParams], Iterable[Measurement]]
) -> Path:
    """Writes a step's measurements of every run, given by run id and parameters."""
    checkpoints = _checkpoints(batch)
    tables = [
        long_table(METRICS_SCHEMA, run_key(run, batch.data_digest), run.epochs, rows_of(name, run))
        for name, run in runs_of(batch)
    ]
    target = batch.measurement(step)
    write_measurement(target, tables, checkpoints)
    return target


def labels_on(store: Store, device: torch.device) -> tuple[Tensor, Tensor]:
    """The labels (N,) int64 of a store's training and test images, on a device."""
    train, test = (
        torch.from_numpy(np.array(x.labels)).to(device) for x in (store.train, store.test)
    )
    return train, test


def runs_of(batch: Batch) -> Iterator[tuple[str, RunParams]]:
    """Yields the id and the parameters of each run of a batch."""
    return zip(batch.run_ids, batch.runs, strict=True)


def _features_name(run_id: str) -> str:
    return f"{run_id}.safetensors"


def _features(
    batch: Batch, run_id: str, *names: str, labels: str | None = None
) -> tuple[Tensor, ...]:
    """Some of a run's features, checked against the current checkpoint and labels.

    Raises:
        UserError: they are missing or damaged, or the checkpoint or the labels have changed.
    """
    source = batch.features / _features_name(run_id)
    origin, features = load_features(source, *names)
    if origin.checkpoint != _recorded_sha256(batch, run_id):
        raise UserError(
            f"{source} was made from another checkpoint than {run_id} has now; delete "
            f"{batch.features} and extract the features again"
        )
    if labels not in (None, origin.labels):
        folder = batch.layout.store(batch.study.data.name)
        raise UserError(
            f"the labels in {folder} are not those with which {source} was made: one of the two "
            f"was changed or damaged; `hamjepa-audit verify` tells which"
        )
    return features


def _recorded_sha256(batch: Batch, run_id: str) -> str:
    """Digest of a run's last checkpoint, from its record."""
    name = batch.layout.checkpoint(run_id).name
    return str(read_record(batch.layout, run_id)["files"][name])


def _checkpoints(batch: Batch) -> Checkpoints:
    """The last checkpoint of every run."""
    return {
        name: {batch.layout.checkpoint(name).name: _recorded_sha256(batch, name)}
        for name in batch.run_ids
    }
