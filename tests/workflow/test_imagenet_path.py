"""ImageNet-100's complete path on generated pictures, from a folder of JPEG files to figures."""

import json
import resource
import shutil
import time
from pathlib import Path

import pandas as pd
import pytest

from hamjepa_audit.layout import Layout
from hamjepa_audit.metrics import METRICS_SCHEMA, TRAINING_SECONDS
from hamjepa_audit.params import load_study
from hamjepa_audit.parquet import read_parquet
from hamjepa_audit.plans.study import DYNAMICS, TRAJECTORY, StudyPlan, data_digest
from hamjepa_audit.statistics.decision_tables import Verdict
from tests.conftest import REPOSITORY
from tests.tiny import audit, edit, files_below
from tests.workflow.conftest import snakemake

STUDY = "imagenet_smoke"
ARMS = ("sigreg", "hamjepa")
RAW = f"data/raw/{STUDY}"
FIGURES = ("readouts_along_training", "accuracy_against_rank")
MOST_SECONDS = 300
"""Time limit of the smoke study through the graph, on two cores."""


def seconds_of_processors() -> float:
    """CPU time of this process's finished child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def plan(folder: Path) -> StudyPlan:
    """Plan of the study in a folder with its prepared data."""
    layout = Layout(folder / "params", folder / "data/raw", folder / "data", folder / "results")
    study = load_study(layout.params, STUDY)
    return StudyPlan(layout, study, data_digest(layout, study))


def require_measurements(folder: Path, features: bool) -> None:
    """Asserts that exactly the files of all batches' steps exist, without intermediate features."""
    expected = set()
    for batch in plan(folder).batches.values():
        expected |= {batch.measurement(step) for step in batch.steps}
        if features:
            expected |= {batch.features / f"{run}.safetensors" for run in batch.run_ids}
    evaluations = folder / "results/evaluation"
    assert files_below(evaluations) == {str(path.relative_to(evaluations)) for path in expected}


def require_trajectories(folder: Path, epochs: int, every: int, seeds: int) -> None:
    """Asserts that all checkpoints have the same measurements, and that the figures exist."""
    metrics = read_parquet(
        folder / f"results/studies/{STUDY}/metrics.parquet", METRICS_SCHEMA
    ).to_pandas()
    # Predictors are measured only at the end.
    of_predictors = [
        read_parquet(path, METRICS_SCHEMA).to_pandas()["metric"]
        for path in plan(folder).measurements(DYNAMICS)
    ]
    metrics = metrics[~metrics["metric"].isin(pd.concat(of_predictors))]
    checkpoints = list(range(every, epochs + 1, every))
    # Only the last checkpoint has dynamics and the training time.
    alone = metrics["metric"].str.startswith("map_") | (metrics["metric"] == TRAINING_SECONDS)
    assert set(metrics["checkpoint_epoch"][alone]) == {epochs}
    counts = metrics[~alone].groupby(["arm", "seed", "checkpoint_epoch"])["metric"].count()
    assert len(counts) == len(ARMS) * seeds * len(checkpoints) and counts.nunique() == 1
    assert sorted(set(metrics["checkpoint_epoch"])) == checkpoints
    assert set(metrics["readout"][~alone]) == {"q", "p", "qp"}
    for name in FIGURES:
        for ending in ("png", "pdf"):
            path = folder / f"results/figures/{STUDY}/{name}_e{epochs}.{ending}"
            assert path.stat().st_size > 1000


def require_runs(folder: Path, along: list[int]) -> None:
    """Asserts that every run has its checkpoints, and the share of time its device waited."""
    for path in folder.glob("results/runs/*/run.json"):
        record = json.loads(path.read_text())
        names = {f"checkpoint_e{epoch:04d}.safetensors" for epoch in along}
        assert set(record["files"]) == names | {"checkpoint.safetensors", "history.parquet"}
        assert all((path.parent / name).exists() for name in record["files"])
        assert 0 <= record["data_wait_share"] < 1
    assert not list(folder.glob("results/state/*"))


def verdict(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
            epochs: int) -> pd.Series:  # fmt: skip
    """The audit's verdict on rank and accuracy, with the study standing for one of the paper's."""
    edit(
        folder / "params/statistics.yaml", "stands_for",
        {STUDY: {"study": "imagenet100", "epochs": {45: epochs}}},
    )  # fmt: skip
    monkeypatch.chdir(folder)
    metrics = f"results/studies/{STUDY}/metrics.parquet"
    status, stderr = audit(
        monkeypatch, capsys, "audit", "--metrics", metrics,
        "--claims", "params/paper/claims.yaml", "--out", "audit",
    )  # fmt: skip
    assert status == 0, stderr
    statements = pd.read_csv(folder / "audit/statements.csv")
    chosen = statements[
        (statements["statement"] == "rank-tracks-accuracy") & (statements["study"] == STUDY)
    ]
    return chosen.iloc[0]


def test_the_path_command_by_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rules' commands in their order, with one seed, in this process."""
    shutil.copytree(REPOSITORY / "params", tmp_path / "params")
    study = tmp_path / f"params/studies/{STUDY}.yaml"
    edit(study, "epochs", [4])
    edit(study, "checkpoints.every_epochs", 1)
    edit(study, "optimisation.warmup_epochs", 1)
    edit(study, "seeds", [0])
    edit(study, "streaming.largest_wait_share", 1e-9)
    edit(tmp_path / "params/generated.yaml", "images", {"train": 26, "val": 4})
    monkeypatch.chdir(tmp_path)

    def do(*arguments: str) -> str:
        status, stderr = audit(monkeypatch, capsys, *arguments)
        assert status == 0, stderr
        return stderr

    do("generate", "--folder", RAW)
    do("prepare", "--study", STUDY)
    for arm in ARMS:
        said = do("pretrain", "--study", STUDY, "--arm", arm, "--epochs", "4", "--seed", "0",
                  "--device", "cpu")  # fmt: skip
        assert said.count("more than streaming.largest_wait_share") == 1
        steps = plan(tmp_path).batch(arm, 4).steps
        assert (DYNAMICS in steps) == (arm == "hamjepa") and TRAJECTORY in steps
        for step in ("extract", *(step for step in steps if step != "curves")):
            device = () if step == "geometry" else ("--device", "cpu")
            do(step, "--study", STUDY, "--arm", arm, "--epochs", "4", *device)
    for step in ("collect", "tables", "figures"):
        do(step, "--study", STUDY)
    require_trajectories(tmp_path, epochs=4, every=1, seeds=1)
    require_measurements(tmp_path, features=True)
    require_runs(tmp_path, [1, 2, 3])
    status, stderr = audit(monkeypatch, capsys, "verify", "--study", STUDY)
    assert status == 0, stderr
    found = verdict(tmp_path, monkeypatch, capsys, 4)
    assert found["verdict"] == "inconclusive" and found["n"] == 1 and "3 seeds" in found["reason"]


def test_a_run_without_a_checkpoint_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A study that keeps no intermediate checkpoints has nothing to measure along training."""
    shutil.copytree(REPOSITORY / "params", tmp_path / "params")
    monkeypatch.chdir(tmp_path)
    status, _ = audit(monkeypatch, capsys, "prepare", "--study", "digits")
    assert status == 0
    status, stderr = audit(
        monkeypatch, capsys, "trajectory", "--study", "digits", "--arm", "mlp", "--epochs", "12"
    )
    assert status == 2 and "keeps no checkpoints along its runs of 12 epochs" in stderr


@pytest.mark.slow
@pytest.mark.workflow
def test_the_smoke_study_through_the_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole study on two cores: two arms, three seeds, four checkpoints."""
    for name in ("params", "workflow"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    for name in ("Snakefile", "environment.lock.yml"):
        shutil.copy(REPOSITORY / name, tmp_path)
    (tmp_path / "profiles").symlink_to("workflow/profiles")
    monkeypatch.chdir(tmp_path)
    status, stderr = audit(monkeypatch, capsys, "generate", "--folder", RAW)
    assert status == 0, stderr
    configured = ("--config", f"studies=[{STUDY}]", "device=cpu")
    started, worked = time.monotonic(), seconds_of_processors()
    snakemake(tmp_path, "results/tables", *configured)
    seconds, worked = time.monotonic() - started, seconds_of_processors() - worked
    require_trajectories(tmp_path, epochs=8, every=2, seeds=3)
    require_measurements(tmp_path, features=False)
    require_runs(tmp_path, [2, 4, 6])
    assert "Nothing to be done" in snakemake(tmp_path, "results/tables", *configured)
    found = verdict(tmp_path, monkeypatch, capsys, 8)
    # Any of these may occur by chance, because the pictures are generated.
    decided = (Verdict.CARRIES_OVER, Verdict.NOT_CARRIED, Verdict.INCONCLUSIVE)
    assert found["n"] == 3 and found["verdict"] in decided
    # On a machine with other load, the second number is the meaningful one.
    taken = f"{seconds:.0f} s, in which processors worked on it for {worked:.0f} s"
    assert seconds < MOST_SECONDS, f"took {taken}; at most {MOST_SECONDS} s are meant"
