"""Parts of statements: all k of a sweep, readings of the MLP, times only of equal machines."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hamjepa_audit.bookkeeping.measurements import training_times
from hamjepa_audit.files import read_json, write_sealed_json
from hamjepa_audit.layout import Layout
from hamjepa_audit.metrics import METRICS_SCHEMA, TRAINING_SECONDS
from hamjepa_audit.params.audit import AuditParams, load_audit
from hamjepa_audit.params.claims import Claims, load_claims
from hamjepa_audit.plans.study import StudyPlan
from hamjepa_audit.statistics.audit import audit
from hamjepa_audit.statistics.seeds import NotMeasured, SeedTable
from hamjepa_audit.statistics.statement_parts import (
    INFINITY,
    STATEMENTS,
    Runs,
    rank_tracks_accuracy,
)
from hamjepa_audit.statistics.statements import BETWEEN_READINGS
from tests.tiny import STUDY, copy_params
from tests.unit import synthetic
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
        ((26, 29, 28, 27, 25, 24, 23), "reproduced"),  # the peak is at 5, which is small, too
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
            # The linear probe loses nothing with either MLP.
            ("linear_probe_top1", 0.1 * rng.normal() + (31.0 - value) * (arm != "sigreg")),
        )
    ]
    found = statement("symplectic-drives-knn", rows, claims, params)
    assert found["verdict"] == "reproduced"
    assert "instead" not in found["found"]
    told, missing = found["other_readings"].split(BETWEEN_READINGS)
    said = "With mlp_dt_scaled instead: p = 1 (H0: does not hold), p = "
    assert told.startswith(said) and " (H0: holds), both unadjusted; " in told
    assert missing == "Not run: mlp_parameter_matched"
    without = [entry for entry in rows if entry["arm"] != "mlp_dt_scaled"]
    alone = statement("symplectic-drives-knn", without, claims, params)
    assert alone["p_h0_fails"] == found["p_h0_fails"]


MEANS = {
    ("sigreg", "all"): {
        "knn_top1@1": 18, "knn_top1@5": 19, "knn_top1@10": 22, "knn_top1@20": 20,
        "knn_top1@50": 17, "linear_probe_top1": 30, "effective_rank_lowrank": 100,
        "cosine_mean": 0.02, TRAINING_SECONDS: 100,
    },
    ("sigreg", "q"): {"knn_top1@20": 18, "linear_probe_top1": 27},
    ("sigreg", "qp"): {"knn_top1@20": 19, "linear_probe_top1": 29},
    ("mlp", "q"): {"knn_top1@20": 21, "linear_probe_top1": 38},
    ("hamjepa", "q"): {
        "knn_top1@20": 30, "linear_probe_top1": 40, "effective_rank_lowrank": 120,
        "cosine_mean": 0.7, "feature_norm_mean": 3,
    },
    ("hamjepa", "p"): {
        "knn_top1@20": 22, "effective_rank_lowrank": 80, "cosine_mean": 0.6, "feature_norm_mean": 4,
    },
    ("hamjepa", "qp"): {
        "knn_top1@20": 29, "linear_probe_top1": 40.25, "cosine_mean": 0.65, "feature_norm_mean": 6,
    },
    ("hamjepa", "all"): {TRAINING_SECONDS: 120},
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        # The kNN gain is 10, of which the MLP loses 9; the probe's gain is 10, and the loss 2.
        (
            "symplectic-drives-knn",
            [(10, 0, INFINITY), (9 - 10 / 2, 0, INFINITY), (10, 0, INFINITY),
             (2 - 10 / 3, -INFINITY, 0)],
        ),
        ("q-is-content", [(1, -0.5, INFINITY), (7, 0, INFINITY)]),
        ("knn-decays-for-sigreg", [(22 - 20, 0, INFINITY), (20 - 17, 0, INFINITY)]),
        ("rank-not-collapsed", [(20, 0, INFINITY), (-20, -INFINITY, 0)]),
        (
            "cone",
            [(0.7, 0.3, INFINITY), (0.6, 0.3, INFINITY), (0.65, 0.3, INFINITY), (0.02, -0.1, 0.1)],
        ),
        ("norm-pythagoras", [(36 / 25, 0.98, 1.02)]),
        ("qp-redundant", [(1, 0, INFINITY), (-1, -0.5, 0.5), (2, 0, INFINITY), (0.25, -0.5, 0.5)]),
        ("same-wall-clock", [(1.2, 0.9, 1.1)]),
    ],
)  # fmt: skip
def test_parts_of_each_statement_by_hand(
    name: str, parts: list[tuple[float, float, float]], params: AuditParams
) -> None:
    rows = [
        row("s", 30, *where, metric, seed, value)
        | {"unit": "seconds" if metric == TRAINING_SECONDS else "u"}
        for where, metrics in MEANS.items()
        for metric, value in metrics.items()
        for seed in range(2)
    ]
    seeds = SeedTable(pd.DataFrame(rows)[METRICS_SCHEMA.names])
    found = STATEMENTS[name](Runs(seeds, "s", 30, params))
    assert all(np.ptp(part.values) == 0 and len(part.values) == 2 for part in found)
    assert [(part.values[0], part.low, part.high) for part in found] == [
        pytest.approx(part) for part in parts
    ]


def along_training(checkpoints: int, base: float = 4.0) -> SeedTable:
    """Increasing accuracies, and effective ranks that increase or decrease ever more steeply."""
    rows = [
        row("s", 30, arm, "q", metric, seed, value) | {"checkpoint_epoch": epoch, "unit": "u"}
        for seed in range(2)
        for arm, sign in (("hamjepa", 1), ("sigreg", -1))
        for epoch in range(1, checkpoints + 1)
        for metric, value in (
            ("linear_probe_top1", epoch),
            ("effective_rank_lowrank", sign * base**epoch),
        )
    ]
    return SeedTable(pd.DataFrame(rows)[METRICS_SCHEMA.names])


def test_from_four_checkpoints_on_ranks_are_correlated(params: AuditParams) -> None:
    up, down = rank_tracks_accuracy(Runs(along_training(4), "s", 30, params))
    assert up.values.tolist() == pytest.approx([1, 1]) and up.bounds == [(1, 0)]
    assert down.values.tolist() == pytest.approx([-1, -1]) and down.bounds == [(-1, 0)]
    assert up.few_values and down.few_values
    with pytest.raises(NotMeasured, match="at 4 checkpoints"):
        rank_tracks_accuracy(Runs(along_training(3), "s", 30, params))
    with pytest.raises(NotMeasured, match="no run of hamjepa has"):
        rank_tracks_accuracy(Runs(along_training(4), "another", 30, params))


def test_a_rank_that_never_changes_can_not_be_correlated(params: AuditParams) -> None:
    with pytest.raises(NotMeasured, match="at every checkpoint, so rho is undefined"):
        rank_tracks_accuracy(Runs(along_training(4, base=1.0), "s", 30, params))


def test_seeds_and_checkpoints_that_lack_a_number_are_left_out() -> None:
    rows = [row("s", 30, "a", "q", f"knn_top1@{k}", seed, k) for k in (1, 20) for seed in range(3)]
    rows += [
        row("s", 30, "a", part, "knn_top1@20", seed, 30)
        for part in ("p", "qp")
        for seed in range(3)
    ]
    early = [
        entry | {"checkpoint_epoch": epoch, "value": entry["value"] * epoch / 30}
        for entry in rows
        for epoch in (5, 10, 20)
    ]
    frame = pd.DataFrame([*rows, *early])[METRICS_SCHEMA.names]
    lost = (frame["seed"] == 1) & (frame["checkpoint_epoch"] == 30)
    seeds = SeedTable(
        frame[~(lost & (frame["readout"] == "q") & (frame["metric"] != "knn_top1@1"))]
    )
    sweep = seeds.knn_sweep("s", 30, "a", "q")
    assert sweep.index.tolist() == [0, 2] and sweep.to_numpy().tolist() == [[1, 20]] * 2
    assert seeds.values("s", 30, "a", "best", "knn_top1@20").to_dict() == {0: 30, 2: 30}
    along = seeds.correlations("s", 30, "a", "q", ("knn_top1@1", "knn_top1@20"))
    assert along.to_dict() == pytest.approx({0: 1, 2: 1})


def test_the_sweep_goes_up_to_the_largest_k_that_the_paper_stands_for(params: AuditParams) -> None:
    like = params.stands_for["digits"].model_copy(update={"largest_k": 50})
    params = params.model_copy(update={"stands_for": params.stands_for | {"digits": like}})
    runs = Runs(SeedTable(synthetic.metrics()), "digits", synthetic.EPOCHS, params)
    assert list(runs.knn_sweep("sigreg", "all").columns) == [1, 5, 10, 20, 50]


def test_equal_shares_of_a_gain_are_equal_despite_rounding(params: AuditParams) -> None:
    """On 359 images the MLP loses half of the kNN gain and one image more, with every seed."""
    hundredth, rows = 100 / 359, []
    for seed, base in enumerate((301, 288, 313, 297, 305)):
        for arm, part, images in (("sigreg", "all", -6), ("hamjepa", "q", 0), ("mlp", "q", -4)):
            for metric in ("knn_top1@20", "linear_probe_top1"):
                rows.append(row("s", 30, arm, part, metric, seed, (base + images) * hundredth))
    seeds = SeedTable(pd.DataFrame(rows)[METRICS_SCHEMA.names])
    _, lost, *_ = STATEMENTS["symplectic-drives-knn"](Runs(seeds, "s", 30, params))
    assert np.ptp(lost.values) == 0 and lost.values[0] == pytest.approx(hundredth)
    fewer = pd.DataFrame(
        [entry for entry in rows if (entry["arm"], entry["seed"]) != ("sigreg", 1)]
    )
    seeds = SeedTable(fewer[METRICS_SCHEMA.names])
    parts = STATEMENTS["symplectic-drives-knn"](Runs(seeds, "s", 30, params))
    assert [len(part.values) for part in parts] == [4] * 4


def test_more_neighbours_than_a_class_has_images_say_nothing(
    claims: Claims, params: AuditParams
) -> None:
    """On the digits 200 neighbours can't be of one class, so that accuracy falls there anyway."""
    noise = np.random.default_rng(0)
    rows = [
        row(study, epochs, "sigreg", "all", f"knn_top1@{k}", seed, accuracy + 0.1 * noise.normal())
        for study, epochs in (("tinyimagenet100", 30), ("digits", 12))
        for k, accuracy in zip(KS, (90, 91, 90, 89, 88, 87, 95), strict=True)
        for seed in range(5)
    ]
    table = audit(pd.DataFrame(rows)[METRICS_SCHEMA.names], claims, params).statements
    found = table[table["statement"] == "knn-decays-for-sigreg"].set_index("study")
    assert found.loc["digits", "verdict"] == "carries over"
    assert "@200" not in found.loc["digits", "found"]
    assert found.loc["tinyimagenet100", "verdict"] == "does not carry over"


def test_a_statement_has_as_many_seeds_as_the_part_with_the_fewest(
    claims: Claims, params: AuditParams
) -> None:
    noise = np.random.default_rng(0)
    rows = [
        row("cifar100", 30, "hamjepa", part, "knn_top1@20", seed, 30 + noise.normal())
        for part, seeds in (("q", 6), ("qp", 6), ("p", 4))
        for seed in range(seeds)
    ]
    assert statement("q-is-content", rows, claims, params)["n"] == 4


def with_results(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Layout, StudyPlan]:
    """The tiny study in a folder, with made-up results of all its runs."""
    copy_params(folder / "params")
    monkeypatch.chdir(folder)
    layout = Layout()
    plan = plan_of(layout, STUDY)
    write_results(plan)
    return layout, plan


def change_record(path: Path, other: dict[str, Any]) -> None:
    record = {key: value for key, value in read_json(path).items() if key != "sha256"}
    write_sealed_json(path, record | other)


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
    layout, plan = with_results(tmp_path, monkeypatch)
    assert len(training_times(layout, plan.runs)) == len(plan.runs)
    change_record(layout.record(next(iter(plan.runs))), other)
    assert len(training_times(layout, plan.runs)) == 0


@pytest.mark.parametrize(("shared", "comparable"), [(None, True), (1, True), (2, False)])
def test_times_of_runs_that_share_a_gpu_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: int | None, comparable: bool
) -> None:
    """Even if all do: they depend on what ran beside them."""
    layout, plan = with_results(tmp_path, monkeypatch)
    for run in plan.runs:
        change_record(layout.record(run), {"runs_per_gpu": shared})
    assert len(training_times(layout, plan.runs)) == comparable * len(plan.runs)


def test_training_times_are_the_same_numbers_with_every_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, plan = with_results(tmp_path, monkeypatch)
    run = next(iter(plan.runs))
    change_record(layout.record(run), {"epoch_seconds": [0.1] * 10})
    # Python 3.11's `sum` gives 0.9999999999999999.
    assert training_times(layout, [run])["value"].to_pylist() == [1.0]
