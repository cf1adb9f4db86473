"""Intact results and data, and copies that a test may damage.

A test module assigns the fixtures that it needs, directly or indirectly, to its own names:
`place = whole_results.place`.
"""

import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from hamjepa_audit.bookkeeping.states import write_state
from hamjepa_audit.bookkeeping.table_provenance import (
    write_audit_provenance,
    write_study_provenance,
)
from hamjepa_audit.bookkeeping.verification import verify_results
from hamjepa_audit.checkpoints import save_checkpoint
from hamjepa_audit.data.preparation import prepare
from hamjepa_audit.files import sha256_file, write_bytes, write_text
from hamjepa_audit.layout import Layout
from hamjepa_audit.model import build_model
from hamjepa_audit.params import load_study
from hamjepa_audit.parquet import write_parquet
from hamjepa_audit.plans.audit import AuditPlan, joint_tables
from hamjepa_audit.plans.figures import figure_files
from tests.tiny import STUDY, copy_params
from tests.unit.fabricated import plan_of, write_measurements, write_record, write_results

LAYOUT = Layout()
FIRST, SECOND = "*-sigreg-*-s0-*", "*-hamjepa-*-s1-*"
RUN, STUDIES, TABLES = "results/runs/{}", f"results/studies/{STUDY}", f"results/tables/{STUDY}"
BATCHES = ("results/evaluation/*-sigreg-*", "results/evaluation/*-mlp-*")

# The file that tests damage, and the file with which they swap it.
TARGETS = {
    "images": (f"data/{STUDY}/train_images.npy", f"data/{STUDY}/test_images.npy"),
    "labels": (f"data/{STUDY}/test_labels.npy", f"data/{STUDY}/train_labels.npy"),
    "manifest": (f"data/{STUDY}/manifest.json", f"data/{STUDY}/test_labels.npy"),
    "checkpoint": tuple(f"{RUN.format(run)}/checkpoint.safetensors" for run in (FIRST, SECOND)),
    "record": tuple(f"{RUN.format(run)}/run.json" for run in (FIRST, SECOND)),
    "history": tuple(f"{RUN.format(run)}/history.parquet" for run in (FIRST, SECOND)),
    "state": tuple(f"results/state/{run}/step-*.safetensors" for run in (FIRST, SECOND)),
    "state record": tuple(f"results/state/{run}/step-*.json" for run in (FIRST, SECOND)),
    "unfinished checkpoint": tuple(
        f"results/state/{run}/checkpoint_e0001.safetensors" for run in (FIRST, SECOND)
    ),
    "table": (f"{TABLES}/summary.md", f"{TABLES}/seeds.md"),
    "provenance": (f"{TABLES}/provenance.json", f"{TABLES}/seeds.md"),
    "gain": (f"{TABLES}/gain.csv", f"{TABLES}/gain.tex"),
    "claims": ("results/tables/claims.csv", "results/tables/claims.tex"),
    "statements": ("results/tables/statements.parquet", "results/tables/claims.parquet"),
    "means": ("results/metrics.json", "results/accuracy.csv"),
    "accuracies": ("results/accuracy.csv", "results/tables/claims.md"),
    "knn": tuple(f"{batch}/knn-*.parquet" for batch in BATCHES),
    "curves": tuple(f"{batch}/curves-*.parquet" for batch in BATCHES),
    "study metrics": (f"{STUDIES}/metrics.parquet", f"{STUDIES}/curves.parquet"),
    "joint metrics": ("results/metrics.parquet", f"{STUDIES}/history.parquet"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Intact results and data."""
    folder = tmp_path_factory.mktemp("whole")
    copy_params(folder / "params")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare(load_study(LAYOUT.params, STUDY).data, LAYOUT.raw, LAYOUT.data)
        plan = plan_of(LAYOUT, STUDY)
        write_results(plan)
        for name, run in plan.runs.items():
            save_checkpoint(build_model(run), LAYOUT.checkpoint(name))
            write_record(LAYOUT, run, plan.data_digest)
            write_bytes(LAYOUT.unfinished_checkpoint(name, 1), name.encode() * 40)
            along = {
                path.name: sha256_file(path) for path in [LAYOUT.unfinished_checkpoint(name, 1)]
            }
            content = {"step": 12, "checkpoints": along}
            write_state(LAYOUT.state(name), 12, content, name.encode() * 50)
        for batch in plan.batches.values():
            write_measurements(batch)
        audit = AuditPlan.load(LAYOUT)
        audit.write_selection()
        for path in (*plan.tables(), *joint_tables(LAYOUT)):
            if path.suffix == ".parquet":
                write_parquet(path, pa.table({"of": [path.stem]}))
            else:
                write_text(path, f"{path.name}\n")
        for path in figure_files(plan.study, audit):
            write_bytes(path, path.name.encode())
        write_study_provenance(plan, audit)
        write_audit_provenance(audit, [plan])
    return folder


@pytest.fixture
def place(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that a test may damage, as the working directory."""
    folder = Path(shutil.copytree(whole, tmp_path / "place"))
    monkeypatch.chdir(folder)
    return folder


def find(pattern: str) -> Path:
    (path,) = Path().glob(pattern)
    return path


def problems() -> list[str]:
    return verify_results(LAYOUT).problems
