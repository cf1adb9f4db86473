"""Jobs planned by dry runs in a checkout of empty result files: dependencies between rules."""

import re
import shutil
from pathlib import Path

import pytest

from tests.tiny import ARMS, SEEDS, STUDY, audit, edit
from tests.workflow.conftest import checkout, snakemake
from tests.workflow.test_graph import NOTHING, jobs_of, planned

pytestmark = pytest.mark.workflow
OTHER = "other"
TARGETS = ("results/tables", "results/report", "results/theory")
AUDITED = {"audit": 1, "audit_provenance": 1, f"audit_figures_{STUDY}": 1}
DRAWN = {f"figures_{STUDY}": 1}
TABLES = {"tables": 1, "provenance": 1}


def pretend(folder: Path, *arguments: str) -> None:
    """Makes empty files for all outputs announced by a dry run."""
    output = snakemake(folder, "-n", *arguments)
    for line in re.findall("^    output: (.*)$", output, re.MULTILINE):
        for name in line.split(", "):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if "/features-" not in name:  # features are deleted after they are measured
                path.touch()
    # `--touch` also writes the selections; twice, as it touches some outputs before their inputs.
    for _ in range(2):
        snakemake(folder, "--touch", *arguments)
        # Its checksums would say that the same empty file, touched again, has not changed.
        shutil.rmtree(folder / ".snakemake")


@pytest.fixture(scope="module")
def pretended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with empty files for all results of a study with intermediate checkpoints."""
    folder = checkout(tmp_path_factory.mktemp("pretended") / "checkout")
    edit(folder / f"params/studies/{STUDY}.yaml", "checkpoints.every_epochs", 1)
    (folder / f"params/studies/{OTHER}.yaml").write_text(f"extends: {STUDY}\ntitle: Another\n")
    pretend(folder, *TARGETS)
    return folder


@pytest.fixture
def folder(pretended: Path, tmp_path: Path) -> Path:
    """A copy of `pretended`, with modification times kept, that a test may change."""
    return Path(shutil.copytree(pretended, tmp_path / "copy", symlinks=True))


def wanted(folder: Path, *arguments: str) -> dict[str, int]:
    """Number of jobs that a dry run of some targets announces, by rule."""
    return jobs_of(snakemake(folder, "-n", *arguments))


def test_what_is_there_is_made_by_no_target(folder: Path) -> None:
    targets = ("data", "results/runs", "results/evaluation", "results/figures", *TARGETS)
    assert NOTHING in snakemake(folder, "-n", *targets)


def test_data_prepared_by_hand_are_not_prepared_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless the study describes them differently by now."""
    folder = checkout(tmp_path / "checkout")
    monkeypatch.chdir(folder)
    assert audit(monkeypatch, capsys, "prepare", "--study", STUDY)[0] == 0
    assert "prepare" not in planned(folder)
    study = folder / f"params/studies/{STUDY}.yaml"
    edit(study, "data.split_seed", 1)
    edit(study, "data.digest", None)
    assert planned(folder)["prepare"] == 1


def test_times_of_what_is_named_by_its_content_train_and_measure_nothing(folder: Path) -> None:
    # Inputs are touched after outputs.
    for place in ("results/evaluation", "results/runs", f"data/{STUDY}"):
        for path in (folder / place).rglob("*.*"):
            path.touch()
    assert not {"pretrain", "extract", "knn", "geometry", "dynamics"} & {*planned(folder)}


@pytest.mark.parametrize("pattern", ["runs/*-s0-*/run.json", "evaluation/*/knn-*.parquet"])
def test_what_was_trained_or_measured_again_reaches_the_tables(folder: Path, pattern: str) -> None:
    """Also by a call that asked for no tables, or whose Snakemake was killed."""
    next((folder / "results").glob(pattern)).touch()
    jobs = planned(folder)
    assert jobs["collect"] == jobs["tables"] == jobs["audit"] == 1
    assert not {"pretrain", "extract", "knn"} & {*jobs}


@pytest.mark.parametrize(
    ("name", "jobs"),
    [
        (f"results/studies/{STUDY}/selection.json",
         AUDITED | DRAWN | TABLES | {"collect": 1, "metrics": 1, f"gain_{STUDY}": 1}),
        (f"results/studies/{STUDY}/metrics.parquet",
         AUDITED | DRAWN | TABLES | {"metrics": 1, f"gain_{STUDY}": 1}),
        (f"results/studies/{STUDY}/curves.parquet", DRAWN),
        (f"results/studies/{STUDY}/history.parquet", DRAWN),
        ("results/studies/selection.json", AUDITED | {"metrics": 1}),
        ("results/studies/claims.json",
         AUDITED | DRAWN | {"paper_consistency": 1, f"gain_{STUDY}": 1, "provenance": 1}),
        ("results/metrics.parquet", AUDITED),
        ("results/accuracy.csv", {"audit_provenance": 1}),
        ("results/tables/claims.parquet", {"audit_provenance": 1, f"audit_figures_{STUDY}": 1}),
        ("results/tables/paper_consistency.csv", {"audit_provenance": 1}),
        (f"results/tables/{STUDY}/differences.parquet",
         {"provenance": 1, f"audit_figures_{STUDY}": 1}),
        (f"results/tables/{STUDY}/gain.md", {"provenance": 1}),
    ],
)  # fmt: skip
def test_what_was_made_again_is_taken_up_by_exactly_what_is_made_of_it(
    folder: Path, name: str, jobs: dict[str, int]
) -> None:
    (folder / name).touch()
    assert planned(folder) == jobs


def test_figures_of_claims_that_are_gone_are_removed_by_a_job_that_depends_on_claims(
    folder: Path,
) -> None:
    output = snakemake(folder, "-n", "--forcerun", "provenance")
    (inputs,) = re.findall(r"^rule provenance:\n    input: (.*)$", output, re.MULTILINE)
    assert "results/studies/claims.json" in inputs.split(", ")


@pytest.mark.parametrize(
    ("target", "pattern", "jobs"),
    [
        ("results/tables", "results/runs/*-sigreg-*-s0-*", {"pretrain": 1, "knn": 1, "collect": 1}),
        ("results/tables", "results/evaluation/*-sigreg-*/knn-*", {"extract": 1, "knn": 1}),
        ("results/figures", f"results/studies/{STUDY}/curves.parquet", {"collect": 1} | DRAWN),
        ("results/report", "results/evaluation/*-sigreg-*/trajectory-*", {"trajectory": 1}),
    ],
)
def test_what_was_deleted_is_made_again_with_all_that_is_made_from_it(
    folder: Path, target: str, pattern: str, jobs: dict[str, int]
) -> None:
    (path,) = folder.glob(pattern)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    found = wanted(folder, target)
    assert jobs.items() <= found.items() and found["metrics"] == found["audit"] == 1


@pytest.mark.parametrize(
    "name",
    [
        "results/metrics.parquet",
        "results/tables/statements.parquet",
        "results/tables/paper_consistency.parquet",
        f"results/tables/{STUDY}/overview.parquet",
        f"results/figures/{STUDY}/knn_sweep_e2.png",
        f"results/figures/{STUDY}/power_e2.png",
        f"results/figures/{STUDY}/what_carries_the_gain_e2.png",
    ],
)
def test_the_page_is_made_again_of_all_that_it_shows(folder: Path, name: str) -> None:
    (folder / name).touch()
    jobs = wanted(folder, "results/report/index.html")
    assert jobs["page"] == 1 and (jobs == {"page": 1}) == (name != "results/metrics.parquet")


def test_theorems_are_checked_again_when_the_checks_change_and_told_when_their_numbers_do(
    folder: Path,
) -> None:
    (folder / "results/theory/numbers/checks.parquet").touch()
    told = {"theory_report": 1, "theory_verdict": 1}
    assert wanted(folder, "results/theory") == told
    edit(folder / "params/theory.yaml", "spectra.instances", 1)
    assert wanted(folder, "results/theory") == told | {"theory": 1}


def test_another_study_changes_nothing_but_what_is_of_all_studies(folder: Path) -> None:
    both = ("--config", f"studies=[{STUDY},{OTHER}]")
    added = planned(folder, *both)
    assert added["pretrain"] == len(ARMS) * len(SEEDS) and added["collect"] == added["tables"] == 1
    assert added[f"figures_{OTHER}"] == added[f"gain_{OTHER}"] == added["metrics"] == 1
    assert f"figures_{STUDY}" not in added and f"gain_{STUDY}" not in added
    pretend(folder, "results/tables", *both)
    # The order of studies doesn't matter.
    assert planned(folder, "--config", f"studies=[{OTHER},{STUDY}]") == {}
    assert planned(folder) == AUDITED | {"metrics": 1}


def test_two_studies_of_one_data_set_must_describe_it_alike(folder: Path) -> None:
    edit(folder / f"params/studies/{OTHER}.yaml", "data", {"split_seed": 1})
    output = snakemake(folder, "-n", "--config", f"studies=[{STUDY},{OTHER}]", succeeds=False)
    assert f"describe the data set '{STUDY}' differently" in output


def test_a_pinned_digest_prepares_nothing_again(folder: Path) -> None:
    """The digest identifies the data, not the way in which they are made."""
    source = folder / f"data/{STUDY}.source.json"
    before = source.stat().st_mtime_ns
    edit(folder / f"params/studies/{STUDY}.yaml", "data.digest", 64 * "0")
    assert "prepare" not in planned(folder) and source.stat().st_mtime_ns == before
    edit(folder / f"params/studies/{STUDY}.yaml", "data.split_seed", 1)
    assert planned(folder)["prepare"] == 1


def test_jobs_are_told_device_places_threads_and_folders(tmp_path: Path) -> None:
    """With one thread, runs are reproducible to the byte."""
    folder = checkout(tmp_path)
    edit(folder / f"params/studies/{STUDY}.yaml", "checkpoints.every_epochs", 1)
    output = snakemake(
        folder, "-n", "-p", *TARGETS,
        "--config", "device=cuda", "runs_per_gpu=3", "raw=my pictures",
    )  # fmt: skip
    for step in ("pretrain", "extract", "knn", "probe", "trajectory", "dynamics"):
        commands = re.findall(f"hamjepa-audit {step} .*", output)
        assert commands and all(
            " --device cuda --runs-per-gpu 3 --threads 1 > " in command for command in commands
        )
    for step in ("geometry", "theory"):
        commands = re.findall(f"hamjepa-audit {step} .*", output)
        assert commands and all(" --threads 1 " in command for command in commands)
    assert f"hamjepa-audit --raw 'my pictures' prepare --study {STUDY} --threads 2 > " in output
