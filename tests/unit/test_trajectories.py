"""Checkpoints along training: which are kept, how they are lost, their correlation, figures."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from hamjepa_audit.errors import UserError
from hamjepa_audit.files import sha256_file
from hamjepa_audit.layout import Layout
from hamjepa_audit.params.studies import CheckpointParams
from hamjepa_audit.reporting.trajectories import trajectory_figures
from hamjepa_audit.statistics.trajectories import rank_correlations
from hamjepa_audit.training.checkpoint import CheckpointsAlong, save_checkpoint
from hamjepa_audit.training.loop import Trainer, pretrain
from hamjepa_audit.training.model import build_model
from tests.tiny import copy_params
from tests.unit.ranks import run_of

ARMS = {"sigreg": -1.0, "hamjepa": 1.0}
TITLES = {"sigreg": "SIGReg", "hamjepa": "HamJEPA"}
EPOCHS = 20


def metrics(seeds: int = 3, every: int = 4) -> pd.DataFrame:
    """Accuracy rises; effective rank rises for one arm and falls for the other, but for seed 2."""
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
        reach = 4.302652729911275 * np.std([1, 1, 0.9], ddof=1) / np.sqrt(3)  # t of 2 degrees
        nearer = row["ci_low"] if sign > 0 else -row["ci_high"]
        assert nearer == pytest.approx(2.9 / 3 - reach)
        assert max(abs(row["ci_low"]), abs(row["ci_high"])) <= 1


def test_too_few_or_constant_checkpoints_have_no_correlation() -> None:
    few = metrics(every=8)
    assert rank_correlations(few, "linear_probe_top1", "effective_rank", 0.95).empty
    constant = metrics()
    constant.loc[constant["metric"] == "effective_rank", "value"] = 1.0
    assert rank_correlations(constant, "linear_probe_top1", "effective_rank", 0.95).empty


def test_figures_are_written_and_repeat_themselves(tmp_path: Path) -> None:
    frame = metrics()
    written = trajectory_figures(frame, list(ARMS), TITLES, tmp_path / "a", 0.95)
    assert [path.name for path in written] == [
        f"{name}_e{EPOCHS}.{ending}"
        for name in ("readouts_along_training", "accuracy_against_rank")
        for ending in ("png", "pdf")
    ]
    shuffled = frame.sample(frac=1, random_state=0)
    again = trajectory_figures(shuffled, list(ARMS), TITLES, tmp_path / "b", 0.95)
    assert [sha256_file(x) for x in written] == [sha256_file(x) for x in again]


def test_without_checkpoints_along_the_way_there_are_no_such_figures(tmp_path: Path) -> None:
    last = metrics()
    last = last[last["checkpoint_epoch"] == EPOCHS]
    assert trajectory_figures(last, list(ARMS), TITLES, tmp_path, 0.95) == []
    assert not list(tmp_path.iterdir())


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
    with pytest.raises(UserError, match="was changed or damaged since it was written"):
        along.publish()
    unfinished.write_bytes(whole)
    assert along.publish() == [layout.checkpoint_along("a-run", 1)]
    assert not unfinished.exists() and layout.checkpoint_along("a-run", 1).exists()
    assert along.publish() == [layout.checkpoint_along("a-run", 1)]  # killed before its record
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
