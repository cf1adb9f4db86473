"""Checkpoints along training: which are kept, missing ones, correlations, figures."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from hamjepa_audit.bookkeeping.measurements import write_measurement
from hamjepa_audit.checkpoints import load_encoder, save_checkpoint
from hamjepa_audit.data.preparation import prepare
from hamjepa_audit.data.store import open_store
from hamjepa_audit.data.streaming import open_images
from hamjepa_audit.data.views import plain_views
from hamjepa_audit.errors import UserError
from hamjepa_audit.evaluation.features import extract_features
from hamjepa_audit.evaluation.steps import (
    extract,
    measure_geometry,
    measure_knn,
    measure_predictors,
    measure_probe,
)
from hamjepa_audit.evaluation.trajectory import measure_trajectory, measurements
from hamjepa_audit.files import read_json, sha256_file, write_sealed_json
from hamjepa_audit.layout import Layout
from hamjepa_audit.metrics import METRICS_SCHEMA, Measurement, long_table
from hamjepa_audit.model import build_model
from hamjepa_audit.params import RunParams, load_study, resolve_run
from hamjepa_audit.params.audit import load_audit
from hamjepa_audit.params.studies import CheckpointParams
from hamjepa_audit.parquet import read_parquet
from hamjepa_audit.plans.figures import ALONG_TRAINING
from hamjepa_audit.plans.identity import run_key
from hamjepa_audit.plans.study import StudyPlan
from hamjepa_audit.reporting.collect import collect_study
from hamjepa_audit.reporting.drawing import Arms
from hamjepa_audit.reporting.trajectory_figures import (
    against_rank,
    along_training,
    trajectory_figures,
)
from hamjepa_audit.statistics import summarise
from hamjepa_audit.statistics.seeds import SeedTable
from hamjepa_audit.statistics.statement_parts import Runs, rank_tracks_accuracy
from hamjepa_audit.statistics.trajectories import rank_correlations
from hamjepa_audit.training.checkpoints_along import CheckpointsAlong
from hamjepa_audit.training.device import make_deterministic
from hamjepa_audit.training.loop import Trainer, pretrain
from tests.tiny import STUDY, copy_params, edit
from tests.unit.fabricated import plan_of, write_measurements, write_run
from tests.unit.ranks import run_of

ARMS = {"sigreg": -1.0, "hamjepa": 1.0}
TITLES = {"sigreg": "SIGReg", "hamjepa": "HamJEPA"}
EPOCHS = 20
RANK = "effective_rank"


def metrics(seeds: int = 3, every: int = 4) -> pd.DataFrame:
    """Metrics with increasing accuracy, and monotonic effective rank except for seed 2.

    The effective rank increases for one arm and decreases for the other.
    """
    noise = np.random.default_rng(0)
    rows = []
    for arm, sign in ARMS.items():
        for seed in range(seeds):
            for part in ("q", "p", "qp"):
                for epoch in range(every, EPOCHS + 1, every):
                    swap = 9.0 if seed == 2 and epoch == EPOCHS else 0.0
                    found = {
                        "knn_top1@20": 40 + epoch + noise.normal(0, 0.1),
                        "linear_probe_top1": 50 + epoch + noise.normal(0, 0.1),
                        "effective_rank": 80 + sign * (2 * epoch - swap),
                    }
                    rows += [
                        {
                            "study": "pictures", "dataset": "pictures", "arm": arm,
                            "epochs": EPOCHS, "seed": seed, "checkpoint_epoch": epoch,
                            "readout": part, "metric": name, "value": value,
                            "unit": "dimensionless" if name == "effective_rank" else "percent",
                            "run_id": f"pictures-{arm}-e{EPOCHS}-s{seed}-0123456789ab",
                        }
                        for name, value in found.items()
                    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_correlations_are_spearmans_run_by_run() -> None:
    found = rank_correlations(metrics(), "linear_probe_top1", "effective_rank", 0.95)
    chosen = found.set_index(["arm", "readout"])
    # Seed 2: ranks 1 2 3 5 4 against 1 2 3 4 5, or reversed: 1 - 6 * 2 / (5 * 24) = 0.9.
    for arm, sign in ARMS.items():
        row = chosen.loc[(arm, "q")]
        assert row["n"] == 3 and row["mean"] == pytest.approx(sign * 2.9 / 3)
        reach = 4.302652729911275 * np.std([1, 1, 0.9], ddof=1) / np.sqrt(3)  # t with df = 2
        nearer = row["ci_low"] if sign > 0 else -row["ci_high"]
        assert nearer == pytest.approx(2.9 / 3 - reach)
        assert max(abs(row["ci_low"]), abs(row["ci_high"])) <= 1


def test_the_figure_shows_the_correlation_that_the_verdict_is_of(params_folder: Path) -> None:
    """It must not show that of the other metric of effective rank."""
    params = load_audit(params_folder)
    chosen = params.our_metric("effective_rank")
    assert chosen != RANK
    frame = metrics()
    ranks = frame[frame["metric"] == RANK]
    # In this metric, the last checkpoint returns to a value before the first one's, for all seeds.
    late = ranks["checkpoint_epoch"] == EPOCHS
    other = ranks.assign(metric=chosen, value=ranks["value"].mask(late, 80.0))
    frame = pd.concat([frame, other], ignore_index=True)
    drawn = frame[frame["metric"].isin(["linear_probe_top1", chosen])]
    figure = against_rank(drawn, Arms.of(list(ARMS), TITLES), 0.95, chosen)
    legend = figure.axes[0].get_legend()
    assert legend is not None
    shown = [float(text.get_text().split()[0]) for text in legend.get_texts()]
    said = {
        part.what: float(part.values.mean())
        for part in rank_tracks_accuracy(Runs(SeedTable(frame), "pictures", EPOCHS, params))
    }
    assert shown == [
        pytest.approx(said[f"rho of {arm} q over checkpoints"], abs=0.005) for arm in ARMS
    ]
    others = rank_correlations(frame, "linear_probe_top1", RANK, 0.95)["mean"]
    assert not np.isclose(np.abs(shown)[:, None], np.abs(others), atol=0.02).any()


def test_the_bars_of_a_checkpoint_are_the_intervals_of_both_metrics() -> None:
    frame = metrics()
    axis = against_rank(frame, Arms.of(list(ARMS), TITLES), 0.95, RANK).axes[0]
    rows = summarise(frame[(frame["arm"] == next(iter(ARMS))) & (frame["readout"] == "q")], 0.95)
    rank, accuracy = (
        rows[rows["metric"] == name].sort_values("checkpoint_epoch")
        for name in (RANK, "linear_probe_top1")
    )
    across, up = (bars.get_segments() for bars in axis.collections[:2])
    for bars, side, table in ((across, 0, rank), (up, 1, accuracy)):
        found = [sorted(bar[:, side]) for bar in bars if len(bar)]
        known = table[["ci_low", "ci_high"]].dropna().to_numpy().tolist()
        assert known and found == [pytest.approx(ends) for ends in known]


def test_too_few_or_constant_checkpoints_have_no_correlation() -> None:
    four, few = metrics(every=5), metrics(every=6)
    assert len(rank_correlations(four, "linear_probe_top1", "effective_rank", 0.95)) == 6
    assert rank_correlations(few, "linear_probe_top1", "effective_rank", 0.95).empty
    constant = metrics()
    constant.loc[constant["metric"] == "effective_rank", "value"] = 1.0
    assert rank_correlations(constant, "linear_probe_top1", "effective_rank", 0.95).empty


def test_wide_intervals_stretch_no_axis_beyond_what_is_possible() -> None:
    frame = metrics(seeds=2)
    frame["value"] += np.where(frame["seed"] == 0, 20.0, -20.0)
    for figure in (
        along_training(frame, Arms.of(list(ARMS), TITLES), 0.95, RANK),
        against_rank(frame, Arms.of(list(ARMS), TITLES), 0.95, RANK),
    ):
        low, high = figure.axes[0].get_ylim()
        assert high == 100
        assert low == 0 or figure.axes[0].get_legend() is not None  # which has its room below 0
        assert all(0 <= tick <= 100 for tick in figure.axes[0].get_yticks() if tick >= low)
        assert all(axis.get_xlim()[0] >= 0 for axis in figure.axes)


def test_figures_are_written_and_repeat_themselves(tmp_path: Path) -> None:
    frame = metrics()
    written = trajectory_figures(frame, Arms.of(list(ARMS), TITLES), tmp_path / "a", 0.95, RANK)
    assert [path.name for path in written] == [
        f"{name}_e{EPOCHS}.{ending}" for name in ALONG_TRAINING for ending in ("png", "pdf")
    ]
    shuffled = frame.sample(frac=1, random_state=0)
    again = trajectory_figures(shuffled, Arms.of(list(ARMS), TITLES), tmp_path / "b", 0.95, RANK)
    assert [sha256_file(x) for x in written] == [sha256_file(x) for x in again]


@pytest.mark.parametrize("readouts", [("all",), ("q", "p"), ("q", "p", "qp")])
def test_along_training_every_metric_has_a_row_of_its_own(readouts: tuple[str, ...]) -> None:
    frame = metrics()
    parts = [frame[frame["readout"] == "q"].assign(readout=part) for part in readouts]
    arms = Arms.of(list(ARMS), TITLES)
    figure = along_training(pd.concat(parts), arms, 0.95, RANK)
    rows = [axis.get_subplotspec().rowspan.start for axis in figure.axes]
    assert rows == [row for row in range(3) for _ in readouts]
    labelled = [axis.get_xlabel() == "Epoch" for axis in figure.axes]
    assert labelled == [row == 2 for row in rows]


def test_without_checkpoints_along_the_way_there_are_no_such_figures(tmp_path: Path) -> None:
    last = metrics()
    last = last[last["checkpoint_epoch"] == EPOCHS]
    assert trajectory_figures(last, Arms.of(list(ARMS), TITLES), tmp_path, 0.95, RANK) == []
    assert not list(tmp_path.iterdir())


def test_what_was_measured_along_training_is_among_the_metrics(tmp_path: Path) -> None:
    params = copy_params(tmp_path / "params")
    edit(params / f"studies/{STUDY}.yaml", "checkpoints.every_epochs", 1)
    layout = Layout(params=params, results=tmp_path / "results", data=tmp_path / "data")
    plan = plan_of(layout, STUDY)
    for run in plan.runs.values():
        write_run(layout, run, plan.data_digest)
    for batch in plan.batches.values():
        write_measurements(batch)
        keys = [run_key(run, plan.data_digest) for run in batch.runs]
        row = Measurement("all", "knn_top1@20", 7.0, "percent")
        tables = [long_table(METRICS_SCHEMA, key, 1, [row]) for key in keys]
        checkpoints: dict[str, dict[str, str]] = {name: {} for name in batch.run_ids}
        write_measurement(batch.measurement("trajectory"), tables, checkpoints)
    metrics, *_ = collect_study(plan)
    frame = read_parquet(metrics).to_pandas()
    along = frame[frame["checkpoint_epoch"] == 1]
    assert set(along["run_id"]) == set(plan.runs) and set(along["value"]) == {7.0}


def test_runs_that_lack_a_checkpoint_asked_for_since_are_named(tmp_path: Path) -> None:
    params = copy_params(tmp_path / "params")
    edit(params / f"studies/{STUDY}.yaml", "checkpoints.every_epochs", 1)
    layout = Layout(results=tmp_path / "results", data=tmp_path / "data")
    batch = StudyPlan(layout, load_study(params, STUDY), 64 * "0").batch("mlp", 2)
    for number, name in enumerate(batch.run_ids):
        layout.run(name).mkdir(parents=True)
        layout.record(name).touch()
        if number > 0:
            layout.checkpoint_along(name, 1).touch()
    with pytest.raises(UserError) as caught:
        measure_trajectory(batch, torch.device("cpu"))
    message = str(caught.value)
    assert message.startswith(
        f"1 of {len(batch.runs)} runs of arm 'mlp' lack checkpoints of epochs 1,"
    )
    assert f"rm -r {layout.run(batch.run_ids[0])}, then the same snakemake command" in message


def test_all_runs_see_the_same_two_views_of_the_test_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They use the study's seed, not the run's, and an epoch that training never uses."""
    study = load_study(copy_params(tmp_path / "params"), STUDY)
    drawn: list[tuple[int, int, list[int], list[int]]] = []

    def recorded(
        images: torch.Tensor, samples: torch.Tensor, params: Any, seed: int, epoch: int,
        views: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        drawn.append((seed, epoch, samples.tolist(), views.tolist()))
        return plain_views(images, params)

    monkeypatch.setattr("hamjepa_audit.evaluation.features.random_views", recorded)
    for seed in (0, 1):
        run = resolve_run(study, "sigreg", 2, seed)
        run = run.model_copy(
            update={"evaluation": run.evaluation.model_copy(update={"view_seed": 5})}
        )
        size = run.data.image_size
        images = [torch.zeros(rows, 3, size, size, dtype=torch.uint8) for rows in (4, 3)]
        extract_features(build_model(run).encoder.eval(), run, *images)
        assert drawn == [(5, 0, [0, 1, 2], [0] * 3), (5, 0, [0, 1, 2], [1] * 3)]
        drawn.clear()


def test_every_checkpoint_is_measured_on_its_own_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compares a batch's files with direct measurements of each of its encoders."""
    make_deterministic(threads=1)
    params = copy_params(tmp_path / "params")
    study, cpu = params / f"studies/{STUDY}.yaml", torch.device("cpu")
    for keys, value in {"epochs": [3], "seeds": [0], "checkpoints.every_epochs": 1}.items():
        edit(study, keys, value)
    layout = Layout(params=params, results=tmp_path / "results", data=tmp_path / "data")
    prepare(load_study(params, STUDY).data, layout.raw, layout.data)
    batch = plan_of(layout, STUDY).batch("hamjepa", 3)
    (name,), (run,) = batch.run_ids, batch.runs
    write_run(layout, run, batch.data_digest)
    paths = [*(layout.checkpoint_along(name, epoch) for epoch in (1, 2)), layout.checkpoint(name)]
    for seed, path in enumerate(paths):
        save_checkpoint(build_model(run.model_copy(update={"seed": seed})), path)
    record = {
        key: value for key, value in read_json(layout.record(name)).items() if key != "sha256"
    }
    record["files"] |= {path.name: sha256_file(path) for path in paths}
    write_sealed_json(layout.record(name), record)

    extract(batch, cpu)
    files = [measure_knn(batch, cpu), measure_probe(batch, cpu), measure_geometry(batch)[0]]
    files.append(measure_trajectory(batch, cpu))
    given: list[torch.Tensor] = []

    def predict(
        run: RunParams, predictor: nn.Module, first: torch.Tensor, second: torch.Tensor
    ) -> list[Measurement]:
        given.extend((first, second))
        return [Measurement("qp", "map_growth_rate", 0.0, "dimensionless")]

    monkeypatch.setattr("hamjepa_audit.evaluation.steps.dynamics_measurements", predict)
    measure_predictors(batch, cpu)
    rows = pd.concat([read_parquet(file).to_pandas() for file in files])
    store = open_store(layout.store(STUDY))
    images = [open_images(split, cpu) for split in (store.train, store.test)]
    labels = tuple(torch.from_numpy(np.array(split.labels)) for split in (store.train, store.test))
    for epoch, path in enumerate(paths, start=1):
        features = extract_features(load_encoder(run, path, cpu), run, *images)
        same = [
            torch.equal(features[f"view_{side}"], x) for side, x in zip("ab", given, strict=True)
        ]
        assert same == [epoch == 3] * 2
        expected = measurements(run, features, labels, len(store.manifest.classes))
        found = rows[rows["checkpoint_epoch"] == epoch].set_index(["readout", "metric"])["value"]
        assert found.to_dict() == pytest.approx({(x.readout, x.metric): x.value for x in expected})


@pytest.mark.parametrize(
    ("every", "last", "expected"),
    [(None, 45, ()), (5, 45, (5, 10, 15, 20, 25, 30, 35, 40)), (2, 5, (2, 4)), (9, 9, ())],
)
def test_epochs_of_checkpoints(every: int | None, last: int, expected: tuple[int, ...]) -> None:
    assert CheckpointParams(every_epochs=every).epochs_before(last) == expected


def test_checkpoints_are_kept_with_the_states_and_published_with_the_run(tmp_path: Path) -> None:
    run = run_of(copy_params(tmp_path / "params"), "hamjepa")
    shape = (128, 3, 16, 16)
    images = torch.randint(0, 256, shape, dtype=torch.uint8,
                           generator=torch.Generator().manual_seed(0))  # fmt: skip
    layout = Layout(results=tmp_path / "results")
    along = CheckpointsAlong(layout, "a-run", [1])
    seen: list[int] = []
    result = pretrain(
        run, images, torch.device("cpu"), "a-run",
        after_step=[along.save_ended_epoch, lambda trainer: seen.append(trainer.steps_done)],
    )  # fmt: skip
    unfinished = layout.unfinished_checkpoint("a-run", 1)
    assert unfinished.exists() and not layout.run("a-run").exists() and len(seen) == 4
    whole = unfinished.read_bytes()
    unfinished.write_bytes(b"")
    with pytest.raises(UserError, match="it was changed or damaged"):
        along.publish()
    unfinished.write_bytes(whole)
    assert along.publish() == [layout.checkpoint_along("a-run", 1)]
    assert not unfinished.exists() and layout.checkpoint_along("a-run", 1).exists()
    assert along.publish() == [layout.checkpoint_along("a-run", 1)]  # killed before the record
    save_checkpoint(result.model, tmp_path / "last")
    assert sha256_file(tmp_path / "last") != sha256_file(layout.checkpoint_along("a-run", 1))
    half = run.model_copy(update={"epochs": 2})
    trainer = Trainer(half, build_model(half), images, "a-run")
    trainer.position.epoch = 2
    along.require(trainer, along.digests)
    with pytest.raises(UserError, match="its checkpoint of epoch 1 wasn't kept; delete"):
        CheckpointsAlong(layout, "a-run", [1]).require(trainer, {})
    layout.checkpoint_along("a-run", 1).unlink()
    with pytest.raises(UserError, match=r"missing checkpoint .*_e0001"):
        along.require(trainer, along.digests)
