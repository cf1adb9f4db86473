"""Parameters and rows used by the commands that write tables and figures."""

import inspect
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from hamjepa_audit.files import read_json
from hamjepa_audit.layout import Layout
from hamjepa_audit.metrics import CURVES_SCHEMA, HISTORY_SCHEMA, METRICS_SCHEMA
from hamjepa_audit.params import load_study
from hamjepa_audit.parquet import read_parquet, write_parquet
from hamjepa_audit.plans.audit import AuditPlan
from hamjepa_audit.plans.gain import FACTORS, values_of
from hamjepa_audit.reporting import audit_figures, figures, gain_figures
from hamjepa_audit.statistics import summarise
from hamjepa_audit.statistics.gain import Equivalence, gain
from tests.tiny import STUDY, audit, edit
from tests.unit import synthetic
from tests.unit.fabricated import plan_of
from tests.unit.test_gain import SIDES, rows_of

LAYOUT = Layout()
CONTROLS = f"{STUDY}_controls"
MARGIN = {"metrics": ["knn_top1@*", "linear_probe_top1"], "absolute": 4.0}
Calls = list[dict[str, Any]]


def write_metrics(study: str, frame: pd.DataFrame) -> None:
    """Writes a study's metrics and selection like `collect`."""
    plan_of(LAYOUT, study).write_selection()
    write(LAYOUT.study_table(study, "metrics"), frame, METRICS_SCHEMA)


def write(path: Path, frame: pd.DataFrame, schema: pa.Schema | None = None) -> None:
    write_parquet(path, pa.Table.from_pandas(frame, schema, preserve_index=False))


def recorded(
    monkeypatch: pytest.MonkeyPatch, module: object, name: str, result: object = None
) -> Calls:
    """Replaces a function by one that only returns `result`; returns its calls' arguments."""
    calls: Calls = []
    signature = inspect.signature(getattr(module, name))

    def record(*arguments: object, **named: object) -> object:
        calls.append(signature.bind(*arguments, **named).arguments)
        return result

    monkeypatch.setattr(module, name, record)
    return calls


def test_a_study_s_tables_have_its_confidence(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(place / f"params/studies/{STUDY}.yaml", "statistics.confidence", 0.8)
    write_metrics(STUDY, synthetic.metrics())
    assert audit(monkeypatch, capsys, "tables", "--study", STUDY)[0] == 0
    summary = read_parquet(LAYOUT.tables(STUDY) / "summary.parquet").to_pandas()
    lows = summarise(synthetic.metrics(), 0.8)["ci_low"]
    assert sorted(summary["ci_low"]) == pytest.approx(sorted(lows))


def test_the_means_of_all_studies_are_joined(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("one", "another")
    for name in names:
        frame = synthetic.metrics()
        frame = frame.assign(study=name, run_id=frame["run_id"] + name)
        write(LAYOUT.study_table(name, "metrics"), frame, METRICS_SCHEMA)
    chosen = [part for name in names for part in ("--study", name)]
    assert audit(monkeypatch, capsys, "metrics", *chosen)[0] == 0
    rows = pd.read_csv(LAYOUT.accuracies())
    assert {run.split()[0] for run in rows["run"]} == set(names) and rows.notna().all(axis=None)
    assert set(json.loads(LAYOUT.headlines().read_text())) == set(names)
    assert len(read_parquet(LAYOUT.metrics())) == 2 * len(synthetic.metrics())
    assert read_json(LAYOUT.studies_selection()) == sorted(names)
    assert audit(monkeypatch, capsys, "metrics", "--study", "absent")[0] == 2
    assert read_json(LAYOUT.studies_selection()) == sorted(names)


def test_the_claims_that_the_tables_in_results_were_made_from_are_noted_beside_them(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that their provenance can be written by hand."""
    write(LAYOUT.metrics(), synthetic.metrics(), METRICS_SCHEMA)
    command = ("audit", "--metrics", str(LAYOUT.metrics()), "--out")
    assert audit(monkeypatch, capsys, *command, "elsewhere")[0] == 0
    assert not LAYOUT.claims_selection().exists()
    claims = ("--claims", str(LAYOUT.claims().absolute()))
    assert audit(monkeypatch, capsys, *command, str(LAYOUT.audit_tables()), *claims)[0] == 0
    assert read_json(LAYOUT.claims_selection()) == AuditPlan.load(LAYOUT).selection()


@pytest.mark.faults
def test_verdicts_on_other_metrics_are_kept_out_of_the_workflow_s_folder(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (LAYOUT.metrics(), Path("other.parquet")):
        write(file, synthetic.metrics(), METRICS_SCHEMA)
    command = ("audit", "--out", str(LAYOUT.audit_tables()), "--metrics")
    for files in (["other.parquet"], [str(LAYOUT.metrics()), "other.parquet"]):
        status, stderr = audit(monkeypatch, capsys, *command, *files)
        assert status == 2 and "is for verdicts on results/metrics.parquet alone" in stderr
    assert not LAYOUT.audit_tables().exists() and not LAYOUT.claims_selection().exists()


@pytest.mark.faults
@pytest.mark.parametrize("command", ["tables", "gain", "figures"])
def test_tables_collected_for_other_arms_are_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    write_metrics(STUDY, synthetic.metrics())
    write(LAYOUT.study_table(STUDY, "curves"), synthetic.curves(points=8), CURVES_SCHEMA)
    write(LAYOUT.study_table(STUDY, "history"), synthetic.history(), HISTORY_SCHEMA)
    edit(place / f"params/studies/{STUDY}.yaml", "arms", ["sigreg", "identity", "hamjepa"])
    status, stderr = audit(monkeypatch, capsys, command, "--study", STUDY)
    assert status == 2 and f"run: hamjepa-audit collect --study {STUDY}" in stderr
    assert not LAYOUT.tables(STUDY).exists() and not LAYOUT.figures(STUDY).exists()


@pytest.mark.faults
def test_verdicts_on_another_study_are_not_drawn(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(place / f"params/studies/{STUDY}.yaml", "epochs", [12])  # as the claims are carried over
    for name in ("claims", "claim_differences"):
        write(LAYOUT.audit_table(name), pd.DataFrame({"study": ["cifar100"]}))
    status, stderr = audit(monkeypatch, capsys, "audit-figures", "--study", STUDY)
    assert status == 2 and f"has no rows of study '{STUDY}'" in stderr
    assert f"--config studies='[{STUDY}]'" in stderr


def test_figures_are_of_the_arms_that_the_study_draws(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They also have its level of confidence."""
    study, drawn = place / f"params/studies/{STUDY}.yaml", ["sigreg", "hamjepa"]
    edit(study, "figure_arms", drawn)
    edit(study, "statistics.confidence", 0.8)
    write_metrics(STUDY, synthetic.metrics())
    write(LAYOUT.study_table(STUDY, "curves"), synthetic.curves(points=8), CURVES_SCHEMA)
    write(LAYOUT.study_table(STUDY, "history"), synthetic.history(), HISTORY_SCHEMA)
    calls = recorded(monkeypatch, figures, "study_figures")
    assert audit(monkeypatch, capsys, "figures", "--study", STUDY)[0] == 0
    (call,) = calls
    assert (list(call["arms"].order), call["confidence"]) == (drawn, 0.8)
    assert all(set(call[kind]["arm"]) == set(drawn) for kind in ("metrics", "curves", "history"))


def test_claims_are_drawn_beside_the_study_alone_and_its_drawn_arms(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = ["sigreg", "hamjepa"]
    edit(place / f"params/studies/{STUDY}.yaml", "figure_arms", drawn)
    of_two = pd.DataFrame({"study": [STUDY, "cifar100"]})
    for name in ("claims", "claim_differences"):
        write(LAYOUT.audit_table(name), of_two)
    pairs = [("sigreg", "hamjepa"), ("sigreg", "mlp"), ("mlp", "hamjepa")]
    differences = pd.DataFrame(pairs, columns=["subtrahend_arm", "minuend_arm"])
    write(LAYOUT.tables(STUDY) / "differences.parquet", differences.assign(study=STUDY))
    calls = recorded(monkeypatch, audit_figures, "audit_figures")
    assert audit(monkeypatch, capsys, "audit-figures", "--study", STUDY)[0] == 0
    (call,) = calls
    assert set(call["claims"]["study"]) == set(call["claim_differences"]["study"]) == {STUDY}
    shown = call["differences"][["subtrahend_arm", "minuend_arm"]].to_numpy().tolist()
    assert shown == [["sigreg", "hamjepa"]]


@pytest.fixture
def controls(place: Path) -> pd.DataFrame:
    """Metrics of control arms for two numbers of epochs, including an intermediate checkpoint."""
    study = place / f"params/studies/{CONTROLS}.yaml"
    edit(study, "epochs", [8, 16])
    edit(study, "statistics.confidence", 0.8)
    edit(place / "params/statistics.yaml", "margins", [MARGIN])
    rows = rows_of(load_study(LAYOUT.params, CONTROLS))
    longer = rows.assign(epochs=16, checkpoint_epoch=16, run_id=rows["run_id"] + "-16")
    longer = longer.assign(value=longer["value"] + 0.01 * longer["seed"])
    frame = pd.concat([rows, rows.assign(checkpoint_epoch=4, value=0.0), longer])
    write_metrics(CONTROLS, frame)
    return frame


@pytest.mark.parametrize("minimum_seeds", [3, 4])
def test_the_gain_is_read_as_the_parameters_say(
    place: Path,
    controls: pd.DataFrame,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    minimum_seeds: int,
) -> None:
    """It uses the study's confidence, and the audit's margins and minimum number of seeds."""
    edit(place / "params/statistics.yaml", "minimum_seeds", minimum_seeds)
    for module, name in ((gain_figures, "sensitivity"), (gain_figures, "what_carries_the_gain")):
        recorded(monkeypatch, module, name)
    recorded(monkeypatch, gain_figures, "save_all", [])
    assert audit(monkeypatch, capsys, "gain", "--study", CONTROLS)[0] == 0
    found = read_parquet(LAYOUT.tables(CONTROLS) / "gain.parquet").to_pandas()
    order = [arm.name for arm in load_study(LAYOUT.params, CONTROLS).arms]
    equivalence = Equivalence(dict.fromkeys(SIDES.accuracies, 4.0), minimum_seeds)
    expected = gain(controls, order, SIDES, 0.8, equivalence)
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)


def test_figures_of_the_gain_show_the_arms_of_a_setting_at_the_end_of_runs_of_one_length(
    controls: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bars = recorded(monkeypatch, gain_figures, "what_carries_the_gain")
    curves = recorded(monkeypatch, gain_figures, "sensitivity")
    saved = recorded(monkeypatch, gain_figures, "save_all", [])
    assert audit(monkeypatch, capsys, "gain", "--study", CONTROLS)[0] == 0
    names = ("what_carries_the_gain", "leapfrog_sensitivity", "sigreg_sensitivity")
    (written,) = (call["figures"] for call in saved)
    assert set(written) == {f"{x}_e{n}" for x in names for n in (8, 16)}
    assert [set(call["table"]["epochs"]) for call in bars] == [{8}, {16}]
    assert all(set(call["margins"].values()) == {4.0} for call in bars)
    assert all(call["confidence"] == 0.8 for call in (*bars, *curves))
    study = load_study(LAYOUT.params, CONTROLS)
    drawn = [(epochs, name) for epochs in (8, 16) for name in names[1:]]
    for call, (epochs, name) in zip(curves, drawn, strict=True):
        rows, settings = call["metrics"], call["settings"]
        assert set(rows["epochs"]) == set(rows["checkpoint_epoch"]) == {epochs}
        assert call["sides"] == SIDES
        assert settings == {x: values_of(study, x) for x in FACTORS if x.figure == name}
        assert set(rows["arm"]) == {arm for values in settings.values() for arm in values}
        order = [*SIDES.accuracies, "map_error_removed"]
        metrics = list(rows["metric"].drop_duplicates())
        assert metrics == order[: len(metrics)] and rows["metric"].is_monotonic_increasing


def test_a_study_without_the_arms_of_a_gain_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(place / f"params/studies/{STUDY}.yaml", "arms", ["sigreg", "hamjepa"])
    status, stderr = audit(monkeypatch, capsys, "gain", "--study", STUDY)
    assert status == 2 and f"error: study '{STUDY}' lacks the arms for a gain" in stderr
