"""Claims tested on studies that stand for the paper's: judged only by direction."""

from pathlib import Path

import pandas as pd
import pytest

from hamjepa_audit.metrics import METRICS_SCHEMA
from hamjepa_audit.params import load_study
from hamjepa_audit.params.audit import AuditParams
from hamjepa_audit.params.claims import Claims
from hamjepa_audit.reporting.audit_tables import audit_table
from hamjepa_audit.statistics.audit import audit
from hamjepa_audit.statistics.metric_checks import without_claims
from tests.unit import paper_audit
from tests.unit.synthetic_claims import as_the_paper

claims, params = paper_audit.claims, paper_audit.params

TINY = ("tinyimagenet100", "tinyimagenet100_80epochs")
"""The studies that stand for the paper's 30 and 80 epochs on CIFAR-100."""


def test_another_study_is_judged_by_direction_alone(claims: Claims, params: AuditParams) -> None:
    rows = [row for name in TINY for row in as_the_paper(claims, 5, "cifar100", name=name)]
    table = pd.DataFrame(rows)[METRICS_SCHEMA.names]
    # Half of all accuracies: gains have another size, but the same direction.
    percent = table["unit"] == "percent"
    table.loc[percent, "value"] *= 0.5
    result = audit(table, claims, params)
    carried = result.claim_differences[result.claim_differences["carried"]]
    assert set(carried["study"]) == set(TINY)
    assert len(carried) == 11
    gains = carried[carried["paper"] > 3]
    assert set(gains["verdict"]) == {"carries over"}
    assert set(gains["paper_study"]) == {"cifar100"}
    words = result.statements[result.statements["carried"]].set_index("statement")["verdict"]
    assert words["cone"] == words["rank-not-collapsed"] == "carries over"
    assert words["same-wall-clock"] == "not run"
    assert set(result.claims["verdict"]) == {"not run"}  # none of its numbers can be compared
    assert without_claims(table, claims, params) == []
    assert without_claims(table.assign(study="moon"), claims, params) == ["moon"]


def test_tables_leave_out_the_tests_that_no_verdict_rests_on(
    claims: Claims, params: AuditParams, tmp_path: Path
) -> None:
    rows = [
        entry
        for name in ("cifar100", *TINY)
        for entry in as_the_paper(claims, 5, "cifar100", name=name)
    ]
    table = pd.DataFrame(rows)[METRICS_SCHEMA.names]
    differences = audit(table, claims, params).claim_differences
    differences = differences[differences["n"] > 0]
    audit_table("claim_differences", differences, tmp_path)
    heading, _, *lines = (tmp_path / "claim_differences.md").read_text().splitlines()
    columns = [name.strip() for name in heading.split("|")]
    for row, line in zip(differences.to_dict("records"), lines, strict=True):
        cells = dict(zip(columns, (cell.strip() for cell in line.split("|")), strict=True))
        size = {cells[f"p (H0: {side} margin)"] for side in ("outside", "inside")}
        direction = {cells[f"p (H0: {what})"] for what in ("arms equal", "gain of margin or more")}
        assert (size == {"–"}) == (row["carried"] and not row["negligible"]), row["claim"]
        assert (direction == {"–"}) == row["negligible"], row["claim"]
    assert set(differences["carried"]) == set(differences["negligible"]) == {True, False}


def test_tests_that_no_verdict_rests_on_make_no_other_stricter(
    claims: Claims, params: AuditParams
) -> None:
    """On another study the size is judged of the negligible difference alone."""
    rows = as_the_paper(claims, 5, "cifar100", name=TINY[1])
    table = audit(pd.DataFrame(rows)[METRICS_SCHEMA.names], claims, params).claim_differences
    late = table[(table["study"] == TINY[1]) & (table["epochs"] == 80)]
    (negligible,) = late[late["negligible"]].to_dict("records")
    for name in ("p_equivalence", "p_h0_within_margin"):
        assert negligible[f"{name}_holm"] == negligible[name]
    others = late[~late["negligible"]]
    assert others["p_holm"].min() == pytest.approx(len(others) * others["p"].min())


def test_what_stands_for_the_papers_studies(
    params_folder: Path, claims: Claims, params: AuditParams
) -> None:
    """Each maps numbers of epochs with claims to numbers of epochs that the study has."""
    claimed = {(claim.study, claim.epochs) for claim in claims.differences}
    for name, stands_for in params.stands_for.items():
        assert {(stands_for.study, theirs) for theirs in stands_for.epochs} <= claimed
        assert set(stands_for.epochs.values()) <= set(load_study(params_folder, name).epochs)
    found = {name: (like.study, like.epochs) for name, like in params.stands_for.items()}
    assert found["imagenet100_cmc"] == ("imagenet100", {45: 45})
    assert found["cifar100_controls"] == ("cifar100", {30: 30})
    assert "imagenet_smoke" not in found  # generated pictures say nothing about the paper


@pytest.mark.parametrize(
    ("study", "like", "count"),
    [("imagenet100_cmc", "imagenet100", 9), ("cifar100_controls", "cifar100", 4)],
)
def test_studies_near_the_papers_are_judged_by_direction_alone(
    study: str, like: str, count: int, claims: Claims, params: AuditParams
) -> None:
    rows = pd.DataFrame(as_the_paper(claims, 6, like, name=study))[METRICS_SCHEMA.names]
    rows = rows[rows["epochs"].isin(params.stands_for[study].epochs.values())]
    assert without_claims(rows, claims, params) == []
    result = audit(rows, claims, params)
    differences = result.claim_differences[result.claim_differences["carried"]]
    assert len(differences) == count
    run = differences[differences["n"] > 0]
    assert len(run) >= count - 2  # Table 2 has the best k of qp alone, not of q and p
    assert set(run.loc[run["paper"] > 3, "verdict"]) == {"carries over"}
    assert set(result.claims["verdict"]) == {"not run"}
