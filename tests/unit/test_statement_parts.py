"""What a statement is tested on: every k of a sweep, every reading of the MLP, equal machines."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hamjepa_audit.files import read_json, write_sealed_json
from hamjepa_audit.layout import Layout
from hamjepa_audit.measurements import training_times
from hamjepa_audit.metrics import METRICS_SCHEMA
from hamjepa_audit.params.audit import AuditParams, load_audit
from hamjepa_audit.params.claims import Claims, load_claims
from hamjepa_audit.statistics.audit import audit
from hamjepa_audit.statistics.statements import BETWEEN_READINGS
from tests.tiny import STUDY, copy_params
from tests.unit.fabricated import plan_of, write_results
from tests.unit.synthetic_claims import row

KS = (1, 5, 10, 20, 50, 100, 200)


@pytest.fixture(scope="module")
def claims(params_folder: Path) -> Claims:
    return load_claims(params_folder / "paper" / "claims.yaml")


@pytest.fixture(scope="module")
def params(params_folder: Path) -> AuditParams:
    return load_audit(params_folder)


def statement(
    name: str, rows: list[dict[str, Any]], claims: Claims, params: AuditParams
) -> "pd.Series[Any]":
    table = pd.DataFrame(rows)[METRICS_SCHEMA.names]
    return audit(table, claims, params).statements.set_index("statement").loc[name]


@pytest.mark.parametrize(
    ("accuracies", "verdict"),
    [
        ((29, 28, 27, 26, 25, 24, 23), "reproduced"),
        ((26, 29, 28, 27, 25, 24, 23), "reproduced"),  # the peak is at 5: small as well
        ((27, 24, 25, 26, 28, 29, 25), "not reproduced"),  # 1 > 20 > 200, but the peak is at 100
        ((29, 28, 27, 24, 26, 25, 23), "not reproduced"),  # it rises from 20 to 50
    ],
)
def test_sigreg_falls_from_k_to_k_after_a_peak_at_a_small_one(
    accuracies: tuple[int, ...], verdict: str, claims: Claims, params: AuditParams
) -> None:
    rng = np.random.default_rng(0)
    rows = [
        row("cifar100", 30, "sigreg", "all", f"knn_top1@{k}", seed, value + 0.1 * rng.normal())
        for seed in range(5)
        for k, value in zip(KS, accuracies, strict=True)
    ]
    found = statement("knn-decays-for-sigreg", rows, claims, params)
    assert found["verdict"] == verdict


def test_other_readings_of_the_mlp_are_told_and_do_not_decide(
    claims: Claims, params: AuditParams
) -> None:
    rng = np.random.default_rng(0)
    level = {"sigreg": 26.0, "hamjepa": 31.0, "mlp": 26.0, "mlp_dt_scaled": 31.0}
    rows = [
        row("cifar100", 80, arm, "all" if arm == "sigreg" else "q", metric, seed, value + shift)
        for seed in range(5)
        for arm, value in level.items()
        for metric, shift in (
            ("knn_top1@20", 0.1 * rng.normal()),
            # The probe loses nothing with either MLP.
            ("linear_probe_top1", 0.1 * rng.normal() + (31.0 - value) * (arm != "sigreg")),
        )
    ]
    found = statement("symplectic-drives-knn", rows, claims, params)
    assert found["verdict"] == "reproduced"
    assert "place" not in found["found"]
    told, missing = found["other_readings"].split(BETWEEN_READINGS)
    assert told.startswith("With mlp_dt_scaled in its place, p = 1 that it holds, ")
    assert missing == "Not run in its place: mlp_parameter_matched"
    without = [entry for entry in rows if entry["arm"] != "mlp_dt_scaled"]
    alone = statement("symplectic-drives-knn", without, claims, params)
    assert alone["p_holds"] == found["p_holds"]


@pytest.mark.parametrize(
    "other",
    [
        {"device": {"type": "cpu", "name": "another"}},
        {"determinism": {"threads": 7}},
        {"runs_per_gpu": 2},
    ],
    ids=lambda other: next(iter(other)),
)
def test_times_of_different_machines_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: dict[str, Any]
) -> None:
    copy_params(tmp_path / "params")
    monkeypatch.chdir(tmp_path)
    layout = Layout()
    plan = plan_of(layout, STUDY)
    write_results(plan)
    assert len(training_times(layout, plan.runs)) == len(plan.runs)
    path = layout.record(next(iter(plan.runs)))
    record = {key: value for key, value in read_json(path).items() if key != "sha256"}
    write_sealed_json(path, record | other)
    assert len(training_times(layout, plan.runs)) == 0
