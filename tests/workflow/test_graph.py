"""The graph: a complete audit of a tiny study, and what is or isn't rerun after changes."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hamjepa_audit.files import read_sealed_json, write_sealed_json
from hamjepa_audit.layout import Layout
from hamjepa_audit.metrics import METRICS_SCHEMA
from hamjepa_audit.params import load_study
from hamjepa_audit.parquet import read_parquet, write_parquet
from hamjepa_audit.plans.study import StudyPlan
from tests.tiny import ARMS, EPOCHS, SEEDS, STUDY, audit, edit
from tests.workflow.conftest import checkout, snakemake

pytestmark = pytest.mark.workflow
NOTHING = "Nothing to be done"
CLAIMS, STATISTICS = "params/paper/claims.yaml", "params/statistics.yaml"


def planned(folder: Path, *arguments: str) -> dict[str, int]:
    """Number of jobs that a dry run announces, by rule."""
    return jobs_of(snakemake(folder, "-n", "results/tables", *arguments))


def jobs_of(output: str) -> dict[str, int]:
    """Number of jobs in a dry run's output, by rule, without target rules."""
    if NOTHING in output:
        return {}
    table = output[output.index("Job stats:") :]
    return {
        name: int(count)
        for name, count in re.findall(r"^(\w+|results/\w+)\s+(\d+)$", table, re.MULTILINE)
        if name != "total" and not name.startswith("results/")
    }


def test_the_tables_hold_every_arm_with_seeds_and_intervals(finished: Path) -> None:
    summary = pd.read_csv(finished / "results" / "tables" / STUDY / "summary.csv")
    assert set(summary["arm"]) == set(ARMS)
    assert set(summary["n"]) == {len(SEEDS)}
    assert {"mean", "sd", "ci_low", "ci_high"} <= set(summary.columns)
    for ending in ("csv", "md", "tex", "parquet"):
        for name in ("seeds", "summary", "differences", "overview", "gain"):
            assert (finished / f"results/tables/{STUDY}/{name}.{ending}").stat().st_size > 0


def test_metrics_follow_the_schema(finished: Path) -> None:
    metrics = pq.read_table(finished / "results" / "metrics.parquet")
    assert metrics.schema.equals(METRICS_SCHEMA)
    frame = metrics.to_pandas()
    assert set(frame["readout"]) == {"q", "p", "qp", "all"}
    assert set(frame[frame["arm"] == "sigreg"]["readout"]) == {"all"}
    assert set(frame["checkpoint_epoch"]) == {EPOCHS}
    names = set(frame["metric"])
    assert {"knn_top1@20", "knn_top1@best", "linear_probe_top1", "effective_rank",
            "effective_rank_lowrank", "cosine_mean", "feature_norm_mean", "alignment",
            "uniformity"} <= names  # fmt: skip
    of_maps = frame[frame["metric"].str.startswith("map_")]
    assert set(of_maps["arm"]) == set(ARMS) - {"sigreg"}
    hessians = frame[frame["metric"] == "potential_hessian_max"]
    assert set(hessians["arm"]) == {"hamjepa"} and len(hessians) == len(SEEDS)
    assert len(frame) == len(frame.drop_duplicates(["run_id", "readout", "metric"]))


def test_every_run_keeps_its_record_and_log(finished: Path) -> None:
    records = [json.loads(path.read_text()) for path in finished.glob("results/runs/*/run.json")]
    assert {(record["arm"], record["seed"]) for record in records} == {
        (arm, seed) for arm in ARMS for seed in SEEDS
    }
    for record in records:
        log = finished / "results/logs/pretrain" / f"{record['run_id']}.log"
        assert f"epoch {EPOCHS}/{EPOCHS}" in log.read_text()
        assert record["params"]["seed"] == record["seed"]
        assert {"data_digest", "packages", "device", "started", "ended", "lock_sha256"} <= set(
            record
        )


def test_figures_are_there_and_features_are_not_kept(finished: Path) -> None:
    figures = {path.name for path in (finished / "results/figures" / STUDY).iterdir()}
    assert f"knn_sweep_e{EPOCHS}.png" in figures and len(figures) == 2 * 9
    assert not list(finished.glob("results/evaluation/*/features-*"))


def test_a_second_run_does_nothing(finished: Path) -> None:
    assert NOTHING in snakemake(finished, "results/tables")


@pytest.mark.parametrize("how", ["-n", "--dag", "--summary"])
def test_what_runs_no_job_changes_no_result(copy_of_finished: Path, how: str) -> None:
    edit(copy_of_finished / "params/arms/sigreg.yaml", "objective.weight", 0.05)
    results = copy_of_finished / "results"

    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}

    before = contents()
    output = snakemake(copy_of_finished, "results/tables", how)
    assert contents() == before
    assert "pretrain" in output  # the change is detected nevertheless


def test_a_dry_run_writes_nothing_in_a_fresh_checkout(tmp_path: Path) -> None:
    folder = checkout(tmp_path)
    assert planned(folder)["prepare"] == 1
    assert not (folder / "results/studies").exists() and not (folder / "data").exists()


def test_who_names_no_target_gets_the_tables(tmp_path: Path) -> None:
    folder = checkout(tmp_path)
    asked = planned(folder)
    assert asked["pretrain"] > 0 and jobs_of(snakemake(folder, "-n")) == asked


def test_without_the_engines_memory_nothing_is_run_again(copy_of_finished: Path) -> None:
    shutil.rmtree(copy_of_finished / ".snakemake")
    assert planned(copy_of_finished) == {}


@pytest.mark.parametrize("engine_remembers", [True, False])
def test_a_changed_arm_runs_again_with_what_depends_on_it(
    copy_of_finished: Path, engine_remembers: bool
) -> None:
    if not engine_remembers:
        shutil.rmtree(copy_of_finished / ".snakemake")
    edit(copy_of_finished / "params/arms/sigreg.yaml", "objective.weight", 0.05)
    assert planned(copy_of_finished) == {
        "pretrain": len(SEEDS), "extract": 1, "knn": 1, "probe": 1, "geometry": 1,
        "collect": 1, "metrics": 1, "tables": 1, "provenance": 1, "audit_provenance": 1,
        f"figures_{STUDY}": 1,
        "audit": 1, f"audit_figures_{STUDY}": 1, f"gain_{STUDY}": 1,
    }  # fmt: skip


@pytest.mark.parametrize("engine_remembers", [True, False])
def test_fewer_arms_change_the_tables_without_training(
    copy_of_finished: Path, engine_remembers: bool
) -> None:
    if not engine_remembers:
        shutil.rmtree(copy_of_finished / ".snakemake")
    edit(copy_of_finished / f"params/studies/{STUDY}.yaml", "arms", ["sigreg", "hamjepa"])
    jobs = planned(copy_of_finished)
    assert "pretrain" not in jobs and "knn" not in jobs
    assert jobs == {
        "collect": 1, "metrics": 1, "tables": 1, "provenance": 1, "audit_provenance": 1,
        f"figures_{STUDY}": 1,
        "audit": 1, f"audit_figures_{STUDY}": 1,
    }  # fmt: skip
    snakemake(copy_of_finished, "results/tables")
    summary = pd.read_csv(copy_of_finished / f"results/tables/{STUDY}/summary.csv")
    assert set(summary["arm"]) == {"sigreg", "hamjepa"}
    tables = copy_of_finished / "results/tables" / STUDY
    sealed = set(read_sealed_json(tables / "provenance.json")["files"])
    assert sealed == {path.name for path in tables.iterdir()} - {"provenance.json"}
    assert not list(tables.glob("gain.*"))


def test_fewer_seeds_measure_again_without_training(copy_of_finished: Path) -> None:
    edit(copy_of_finished / f"params/studies/{STUDY}.yaml", "seeds", [0])
    jobs = planned(copy_of_finished)
    assert "pretrain" not in jobs
    assert jobs["extract"] == jobs["knn"] == len(ARMS) and jobs["tables"] == 1


@pytest.mark.parametrize(
    ("keys", "value"), [("arms", ["hamjepa", "mlp", "identity", "sigreg"]),
                        ("statistics.confidence", 0.9)]
)  # fmt: skip
def test_the_order_of_arms_and_the_confidence_remake_the_tables(
    copy_of_finished: Path, keys: str, value: object
) -> None:
    edit(copy_of_finished / f"params/studies/{STUDY}.yaml", keys, value)
    jobs = planned(copy_of_finished)
    assert jobs["tables"] == 1 and "pretrain" not in jobs and "knn" not in jobs


@pytest.mark.parametrize("engine_remembers", [True, False])
@pytest.mark.parametrize(
    ("path", "keys", "value"),
    [(CLAIMS, "paper.version", 2), (STATISTICS, "confidence", 0.9)],
)
def test_changed_claims_are_tested_again_and_nothing_else_is_run(
    copy_of_finished: Path, path: str, keys: str, value: object, engine_remembers: bool
) -> None:
    if not engine_remembers:
        shutil.rmtree(copy_of_finished / ".snakemake")
    edit(copy_of_finished / path, keys, value)
    assert planned(copy_of_finished) == {
        "audit": 1, "paper_consistency": 1, "audit_provenance": 1, f"audit_figures_{STUDY}": 1,
        f"gain_{STUDY}": 1, "provenance": 1,
    }  # fmt: skip


def test_verdicts_are_there_and_the_paper_against_itself_needs_no_run(
    finished: Path, tmp_path: Path
) -> None:
    tables = finished / "results/tables"
    verdicts = pd.read_csv(tables / "claims.csv")["verdict"]
    assert len(verdicts) == 93 and set(verdicts) == {"not run"}
    fresh = checkout(tmp_path / "checkout")
    snakemake(fresh, "results/tables/paper_consistency.csv")
    made = (fresh / "results/tables/paper_consistency.csv").read_text()
    assert made == (tables / "paper_consistency.csv").read_text()
    assert not (fresh / "results/runs").exists()


def test_the_page_is_made_of_what_is_there(
    copy_of_finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    snakemake(copy_of_finished, "results/report")
    page = (copy_of_finished / "results/report/index.html").read_text()
    runs = [path.parent.name for path in copy_of_finished.glob("results/runs/*/run.json")]
    assert runs and all(run in page for run in runs)
    assert page.count("data:image/png;base64,") == 9
    assert "<h3>Compared with HamJEPA</h3>" in page
    assert NOTHING in snakemake(copy_of_finished, "results/report")
    caption = copy_of_finished / "workflow/report/seeds.rst"
    edit(copy_of_finished / f"params/studies/{STUDY}.yaml", "title", "Digits by another name")
    assert jobs_of(snakemake(copy_of_finished, "-n", "results/report")) == {"page": 1}
    snakemake(copy_of_finished, "results/report")
    assert NOTHING in snakemake(copy_of_finished, "results/report")
    caption.write_text(caption.read_text().replace("Grey lines connect", "Thin lines connect"))
    assert jobs_of(snakemake(copy_of_finished, "-n", "results/report")) == {"page": 1}
    snakemake(copy_of_finished, "results/report")
    page = (copy_of_finished / "results/report/index.html").read_text()
    assert "Thin lines connect" in page and "Digits by another name" in page
    monkeypatch.chdir(copy_of_finished)
    status, stderr = audit(monkeypatch, capsys, "report", "--study", "cifar100")
    assert (
        status == 2 and "contains the studies ['digits'], but --study names ['cifar100']" in stderr
    )
    verdicts = Layout().audit_table("statements")
    statements = read_parquet(verdicts).to_pandas()
    of_another = pa.Table.from_pandas(statements.assign(study="cifar100", n=3))
    write_parquet(verdicts, of_another)
    status, stderr = audit(monkeypatch, capsys, "report", "--study", STUDY)
    assert status == 2 and "the verdicts in results/tables rest on runs of ['cifar100']" in stderr
    write_parquet(verdicts, pa.Table.from_pandas(statements))
    Path("workflow/report/seeds.rst").unlink()
    status, stderr = audit(monkeypatch, capsys, "report", "--study", STUDY)
    assert status == 2 and "missing file workflow/report/seeds.rst" in stderr
    assert Path("results/report/index.html").read_text() == page


@pytest.mark.slow
def test_snakemakes_own_report_has_the_figures_with_captions(copy_of_finished: Path) -> None:
    target = "results/report/workflow.html"
    snakemake(copy_of_finished, "results/report")
    snakemake(copy_of_finished, "--report", target, "results/report")
    text = (copy_of_finished / target).read_text()
    assert "Grey lines connect the runs of one seed" in text
    for name in ("seeds", "differences", "power", "knn_sweep"):
        assert f"{name}_e{EPOCHS}.png" in text


def test_runs_of_different_devices_are_not_averaged(
    copy_of_finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = next(copy_of_finished.glob("results/runs/digits-mlp-*/run.json"))
    record = read_sealed_json(path)
    write_sealed_json(path, record | {"device": {"type": "cuda"}})
    monkeypatch.chdir(copy_of_finished)
    status, stderr = audit(monkeypatch, capsys, "collect", "--study", STUDY)
    assert status == 2 and f"{path.parent.name} on cuda" in stderr


@pytest.mark.parametrize("engine_remembers", [True, False])
def test_touched_files_and_comments_run_nothing(
    copy_of_finished: Path,
    engine_remembers: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for path in sorted(copy_of_finished.rglob("*")):
        if path.is_file() and path.is_relative_to(copy_of_finished / "results"):
            path.touch()
    for path in sorted(copy_of_finished.glob("data/**/*"), reverse=True):
        path.touch()
    lock = copy_of_finished / "environment.lock.yml"
    for path in (lock, copy_of_finished / CLAIMS, copy_of_finished / STATISTICS):
        path.write_text(path.read_text() + "# a comment\n")
    if not engine_remembers:
        # Then only modification times count, which `restore` corrects.
        shutil.rmtree(copy_of_finished / ".snakemake")
        monkeypatch.chdir(copy_of_finished)
        assert audit(monkeypatch, capsys, "restore")[0] == 0
    assert planned(copy_of_finished) == {}


def test_a_mistyped_parameter_is_one_clear_line(tmp_path: Path) -> None:
    folder = checkout(tmp_path / "checkout")
    edit(folder / f"params/studies/{STUDY}.yaml", "encoder.widht", 4)
    output = snakemake(folder, "-n", "results/tables", succeeds=False)
    assert "unknown key 'encoder.widht': did you mean 'width'?" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("studies=cifar100", "studies is 'cifar100'"),
        ("device=gpu", "device is 'gpu'"),
        ("studys=[digits]", "unknown key 'studys': did you mean 'studies'?"),
    ],
)
def test_a_mistyped_configuration_is_one_clear_line(
    tmp_path: Path, setting: str, expected: str
) -> None:
    folder = checkout(tmp_path / "checkout")
    output = snakemake(folder, "-n", "results/tables", "--config", setting, succeeds=False)
    assert expected in output and "Traceback" not in output


def test_an_unpinned_study_plans_after_preparation(tmp_path: Path) -> None:
    folder = checkout(tmp_path / "checkout")
    edit(folder / f"params/studies/{STUDY}.yaml", "data.digest", None)
    assert "prepare" in planned(folder)
    snakemake(folder, f"data/{STUDY}/manifest.json")
    assert planned(folder)["pretrain"] == len(ARMS) * len(SEEDS)


def test_the_default_profile_is_used_and_reworded_rules_run_nothing(
    copy_of_finished: Path,
) -> None:
    assert "profile profiles/default" in snakemake(copy_of_finished, "-n", "results/tables")
    for path in (copy_of_finished / "workflow/rules").glob("*.smk"):
        path.write_text(path.read_text().replace("hamjepa-audit ", "hamjepa-audit  "))
    assert planned(copy_of_finished) == {}


def test_lint(finished: Path) -> None:
    assert "Congratulations" in snakemake(finished, "--lint")


def test_a_run_that_was_deleted_is_trained_again_for_the_checkpoints_that_it_lacked(
    tmp_path: Path,
) -> None:
    """The remedy that `trajectory` suggests if checkpoints are asked for after training."""
    folder = checkout(tmp_path)
    edit(folder / f"params/studies/{STUDY}.yaml", "checkpoints.every_epochs", 1)
    layout = Layout(results=folder / "results")
    study = load_study(folder / "params", STUDY)
    assert study.data.digest is not None
    # The first run is missing, as if deleted.
    _, *kept = StudyPlan(layout, study, study.data.digest).runs
    for name in kept:
        layout.run(name).mkdir(parents=True)
        for path in (layout.checkpoint(name), layout.run_history(name), layout.record(name)):
            path.touch()
    snakemake(folder, layout.manifest(STUDY).as_posix())
    jobs = planned(folder)
    assert jobs["pretrain"] == 1 and jobs["trajectory"] == len(study.arms)


def test_published_runs_are_adopted_and_give_the_same_tables_without_training(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    published = tmp_path / "published"
    monkeypatch.chdir(finished)
    assert audit(monkeypatch, capsys, "publish", "--study", STUDY, "--out", str(published))[0] == 0
    folder = checkout(tmp_path / "elsewhere")
    monkeypatch.chdir(folder)
    adopted = audit(monkeypatch, capsys, "adopt", "--study", STUDY, "--from", str(published))
    assert adopted[0] == 0
    jobs = planned(folder)
    assert set(jobs) == {
        "collect", "metrics", "tables", "provenance", "audit", "audit_provenance",
        "paper_consistency", f"figures_{STUDY}", f"audit_figures_{STUDY}", f"gain_{STUDY}",
    }  # fmt: skip
    snakemake(folder, "results/tables")
    assert not list((folder / "data").glob("*/*.npy"))
    assert NOTHING in snakemake(folder, "results/tables")
    made = {path for path in (folder / "results/tables").rglob("*.*") if path.suffix != ".json"}
    assert len(made) == 4 * 9
    for path in (*made, folder / "results/metrics.parquet"):
        theirs = published / path.relative_to(folder / "results")
        assert path.read_bytes() == theirs.read_bytes(), path
    # Changed parameters require other runs, which aren't published.
    edit(folder / "params/arms/sigreg.yaml", "objective.weight", 0.05)
    assert planned(folder)["pretrain"] == len(SEEDS)
