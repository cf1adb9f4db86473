"""Claims and the audit's parameters: reading, and one-line errors."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from hamjepa_audit.errors import UserError
from hamjepa_audit.params.audit import AuditParams, MarginParams, load_audit
from hamjepa_audit.params.claims import Claims, load_claims, named, unit_of
from hamjepa_audit.statistics.statement_parts import STATEMENTS
from tests.unit import paper_audit

claims, params = paper_audit.claims, paper_audit.params


def test_the_papers_claims(claims: Claims) -> None:
    assert (len(claims.measurements), len(claims.differences)) == (93, 20)
    assert {claim.id for claim in claims.statements} == set(STATEMENTS)
    assert sum(claim.unit == "percent" for claim in claims.measurements) == 45
    names = [name for name, _ in named(claims.measurements)]
    assert len(set(names)) == 93
    assert [name for name in names if name.endswith(".2")] == [
        "cifar100-e30-sigreg-all-effective_rank.2",
        "cifar100-e30-hamjepa-q-effective_rank.2",
        "cifar100-e30-hamjepa-p-effective_rank.2",
    ]


def test_numbers_are_kept_as_printed(claims: Claims) -> None:
    texts = {str(claim.value) for claim in claims.measurements}
    assert {"28.10", "93.10", "0.0", "44.303"} <= texts
    assert claims.toy_transport is not None
    assert claims.toy_transport.models.dt * claims.toy_transport.models.steps == Decimal(25)


@pytest.mark.parametrize(
    ("metric", "unit"),
    [
        ("knn_top1@20", "percent"),
        ("knn_top5@best", "percent"),
        ("linear_probe_top5", "percent"),
        ("cosine_mean", "dimensionless"),
    ],
)
def test_accuracies_alone_are_in_percent(metric: str, unit: str) -> None:
    assert unit_of(metric) == unit


@pytest.mark.parametrize("value", [-4.0, 4.0])
def test_a_margin_that_is_a_share_has_no_sign(params: AuditParams, value: float) -> None:
    margin = MarginParams(metrics=("gap",), relative=0.25)
    assert margin.around(value) == 1.0
    shared = params.model_copy(update={"margins": (margin,), "difference_share": 0.1})
    assert shared.difference_margin("gap", value) == pytest.approx(0.4)


def test_every_claim_has_a_margin(claims: Claims, params: AuditParams) -> None:
    assert {params.margin(c.metric, float(c.value)) > 0 for c in claims.measurements} == {True}
    for claim in claims.differences:
        value = float(claim.value)
        assert 0 < params.difference_margin(claim.metric, value) <= min(1.0, abs(value) / 3)
    with pytest.raises(UserError, match="no equivalence margin for the metric 'alignment'"):
        params.margin("alignment", 1.0)


BROKEN = {
    "unit": (("measurements", 0, "unit"), "dimensionless", "knn_top1@20 is percent"),
    "arm": (("measurements", 0, "arm"), "Sig Reg", "measurements.0.arm is 'Sig Reg'"),
    "readout": (("measurements", 0, "readout"), "best", "measurements.0.readout is 'best'"),
    "metric": (("measurements", 0, "metric"), "knn_top1@", "measurements.0.metric"),
    "spread": (("measurements", 0, "n"), 1, "std is 0.18 with n = 1"),
    "number": (("measurements", 0, "value"), "much", "measurements.0.value is 'much'"),
    "infinite": (("measurements", 0, "value"), float("inf"), "valid decimal"),
    "at_k": (("measurements", 0, "at_k"), 20, "at_k belongs to a best over k"),
    "key": (("measurements", 0, "sdt"), 0.1, "did you mean 'std'?"),
    "twice": (("measurements", 1, "metric"), "knn_top1@20", "more than once: keep one"),
    "difference twice": (("differences", 1), "as the first", "differences: 'cifar100-e30-"),
    "sides": (("differences", 0, "subtrahend"), {"arm": "hamjepa", "readout": "q"}, "are both"),
    "zero": (("differences", 0, "value"), 0.0, "no direction"),
    "side": (("differences", 0, "minuend", "readout"), "worst", "differences.0.minuend.readout"),
    "n alone": (("differences", 0, "n"), 3, "give both or neither"),
    "statement": (("statements", 1, "id"), "cone", "statements: 'cone' is listed more than once"),
    "version": (("schema",), 2, "schema is 2"),
    "alias": (("schema_version",), 1, "unknown key 'schema_version': did you mean 'schema'?"),
    "none": (("differences",), [], "differences is empty: give at least 1"),
    "reference": (("toy_transport", "reference", "integrator"), "euler", "integrator is 'euler'"),
    "model": (
        ("toy_transport", "w1_over_directions"),
        {},
        "w1_over_directions is empty: give at least 2",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_claims_are_refused_in_one_line(
    name: str, params_folder: Path, tmp_path: Path
) -> None:
    keys, value, words = BROKEN[name]
    tree = yaml.safe_load((params_folder / "paper/claims.yaml").read_text())
    node = tree
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = node[0] if value == "as the first" else value
    broken = tmp_path / "claims.yaml"
    broken.write_text(yaml.safe_dump(tree))
    with pytest.raises(UserError) as caught:
        load_claims(broken)
    assert words in str(caught.value) and str(broken) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_claims_that_are_no_claims(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing parameter file"):
        load_claims(tmp_path / "absent.yaml")
    broken = tmp_path / "claims.yaml"
    broken.write_text("measurements: 3\n")
    with pytest.raises(UserError, match="missing"):
        load_claims(broken)


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        (("minimum_seeds",), 2, "minimum_seeds is 2"),
        (("difference_share",), 0.5, "difference_share is 0.5"),
        (("margins", 0, "relative"), 0.1, "give either absolute or relative"),
        (("families", "differences"), ["seed"], "families.differences"),
        (("statements", "mots"), 0.5, "did you mean 'most'?"),
    ],
)
def test_broken_statistics_are_refused(
    keys: tuple[str | int, ...], value: Any, words: str, params_folder: Path, tmp_path: Path
) -> None:
    tree = yaml.safe_load((params_folder / "statistics.yaml").read_text())
    node = tree
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    (tmp_path / "statistics.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(UserError) as caught:
        load_audit(tmp_path)
    assert words in str(caught.value)
