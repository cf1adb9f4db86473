"""The paper's statements: they hold on its own numbers and fail on swapped ones."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hamjepa_audit.errors import UserError
from hamjepa_audit.metrics import METRICS_SCHEMA
from hamjepa_audit.params.audit import AuditParams
from hamjepa_audit.params.claims import Claims
from hamjepa_audit.statistics.audit import Audit, audit
from hamjepa_audit.statistics.statement_parts import TRAINING_SECONDS, Part
from hamjepa_audit.statistics.statements import statement_evidence
from tests.unit import paper_audit
from tests.unit.paper_audit import one
from tests.unit.synthetic_claims import as_the_paper, row

claims, params = paper_audit.claims, paper_audit.params
metrics, found = paper_audit.metrics, paper_audit.found


def test_statements_hold_on_the_papers_numbers(found: Audit) -> None:
    verdicts = found.statements.set_index("statement")["verdict"].to_dict()
    assert verdicts == {
        "symplectic-drives-knn": "reproduced",
        "q-is-content": "reproduced",
        "knn-decays-for-sigreg": "reproduced",
        "rank-not-collapsed": "reproduced",
        "cone": "reproduced",
        "norm-pythagoras": "reproduced",
        "rank-tracks-accuracy": "not run",
        "qp-redundant": "inconclusive",
        "same-wall-clock": "not run",
    }
    noted = found.statements[found.statements["note"] != ""]
    assert set(noted["statement"]) == {"norm-pythagoras"} and noted["by_construction"].all()
    reasons = found.statements.set_index("statement")["reason"]
    assert "checkpoints" in reasons["rank-tracks-accuracy"]
    assert TRAINING_SECONDS in reasons["same-wall-clock"]
    assert reasons["same-wall-clock"].endswith("trained all runs, each alone on its GPU")


def test_qp_redundant_holds_with_more_certainty(claims: Claims, params: AuditParams) -> None:
    rows = pd.DataFrame(as_the_paper(claims, 6, "imagenet100"))[METRICS_SCHEMA.names]
    centre = rows.groupby(["arm", "readout", "metric"])["value"].transform("mean")
    rows["value"] = centre + (rows["value"] - centre) / 10
    verdicts = audit(rows, claims, params).statements.set_index("statement")["verdict"]
    assert verdicts["qp-redundant"] == "reproduced"
    swapped = rows.replace({"arm": {"hamjepa": "sigreg", "sigreg": "hamjepa"}})
    swapped["run_id"] = swapped["arm"] + swapped["seed"].astype(str)
    verdicts = audit(swapped, claims, params).statements.set_index("statement")["verdict"]
    assert verdicts["qp-redundant"] == "not reproduced"


def test_swapping_the_arms_refutes_the_statements(
    metrics: pd.DataFrame, claims: Claims, params: AuditParams
) -> None:
    whole = metrics[(metrics["study"] == "cifar100") & (metrics["epochs"] == 30)]
    sigreg = whole[whole["arm"] == "sigreg"]
    hamjepa = whole[whole["arm"] == "hamjepa"]
    slightly = {"q": 0.0, "p": 0.001, "qp": 0.002}  # nothing is tested without any spread
    parts = [
        sigreg.assign(
            arm="hamjepa", readout=part, value=sigreg["value"] * (1 + share * sigreg["seed"])
        )
        for part, share in slightly.items()
    ]
    swapped = pd.concat(
        [*parts, hamjepa[hamjepa["readout"] == "q"].assign(arm="sigreg", readout="all")]
    )
    swapped["run_id"] = swapped["arm"] + swapped["seed"].astype(str)
    statements = audit(swapped, claims, params).statements.set_index("statement")
    for name in ("cone", "rank-not-collapsed"):
        assert statements.loc[name, "verdict"] == "not reproduced"
    assert statements.loc["norm-pythagoras", "verdict"] == "not reproduced"


def test_rank_tracks_accuracy_and_wall_clock_where_they_were_measured(
    claims: Claims, params: AuditParams
) -> None:
    rows = []
    rng = np.random.default_rng(0)
    for seed in range(5):
        for arm, sign in (("hamjepa", 1), ("sigreg", -1)):
            for epoch in range(5, 50, 5):
                for metric, slope in (("linear_probe_top1", 1), ("effective_rank_lowrank", sign)):
                    value = 50 + slope * epoch + rng.normal()
                    found = row("imagenet100", 45, arm, "q", metric, seed, value)
                    rows.append(found | {"checkpoint_epoch": epoch})
            seconds = 100 + rng.normal()
            timed = row("cifar100", 30, arm, "all", TRAINING_SECONDS, seed, seconds)
            rows.append(timed | {"unit": "seconds"})
    table = pd.DataFrame(rows)[METRICS_SCHEMA.names]
    statements = audit(table, claims, params).statements.set_index("statement")
    assert statements.loc["rank-tracks-accuracy", "verdict"] == "reproduced"
    assert statements.loc["same-wall-clock", "verdict"] == "reproduced"
    slower = table.assign(
        value=table["value"].where(
            (table["metric"] != TRAINING_SECONDS) | (table["arm"] == "sigreg"),
            150.0 + table["seed"],
        )
    )
    statements = audit(slower, claims, params).statements.set_index("statement")
    assert statements.loc["same-wall-clock", "verdict"] == "not reproduced"
    flat = table.assign(
        value=table["value"].where(table["metric"] != "effective_rank_lowrank", 7.0)
    )
    statements = audit(flat, claims, params).statements.set_index("statement")
    assert statements.loc["rank-tracks-accuracy", "verdict"] == "not run"
    assert (
        "at every checkpoint, so rho is undefined"
        in statements.loc["rank-tracks-accuracy", "reason"]
    )


def test_statement_evidence_by_hand() -> None:
    values = np.array([1.0, 2.0, 3.0])
    above = stats.ttest_1samp(values, 0.5, alternative="greater").pvalue
    below = stats.ttest_1samp(values, 3.0, alternative="less").pvalue
    inside, outside = statement_evidence([Part("x", values, 0.5, 3.0)])
    assert inside == pytest.approx(max(above, below))
    assert outside == pytest.approx(min(1.0, 2 * min(1 - above, 1 - below)))
    inside, outside = statement_evidence([Part("x", values, 0.5), Part("y", -values, 0.5)])
    assert inside == pytest.approx(stats.ttest_1samp(-values, 0.5, alternative="greater").pvalue)
    assert outside == pytest.approx(2 * (1 - inside))


@pytest.mark.parametrize("seeds", [3, 5])
def test_rank_correlations_that_are_almost_equal_are_no_stronger_than_their_signs(
    seeds: int,
) -> None:
    """Spearman's rho over few checkpoints takes few values: its small spread is chance."""
    rhos = np.array([0.95] * (seeds - 1) + [0.96666667])
    fine = statement_evidence([Part("rho", rhos, 0.0)])[0]
    bounded, against = statement_evidence([Part("rho", rhos, 0.0, few_values=True)])
    assert fine < 1e-4 and bounded == 0.5**seeds and against == pytest.approx(1 - fine)
    assert statement_evidence([Part("rho", -rhos, 0.0, few_values=True)])[1] == 0.5**seeds


def test_a_statement_on_one_seed_is_not_tested(claims: Claims, params: AuditParams) -> None:
    """It must not make the other tests in its family stricter."""
    rows = pd.DataFrame(as_the_paper(claims, 6, "cifar100"))[METRICS_SCHEMA.names]
    assert np.isnan(statement_evidence([Part("x", np.array([1.0]), 0.5, 3.0)])).all()
    norms = rows["metric"] == "feature_norm_mean"
    statements = {
        seeds: audit(rows[~norms | (rows["seed"] < seeds)], claims, params).statements
        for seeds in (0, 1)
    }
    assert one(statements[1], statement="norm-pythagoras")["n"] == 1
    for name in ("p_h0_fails", "p_h0_holds", "p_h0_fails_holm", "p_h0_holds_holm"):
        pd.testing.assert_series_equal(statements[0][name], statements[1][name])


def test_an_unknown_statement_is_refused(
    metrics: pd.DataFrame, claims: Claims, params: AuditParams
) -> None:
    odd = claims.statements[0].model_copy(update={"id": "cones"})
    changed = claims.model_copy(update={"statements": (odd,)})
    with pytest.raises(UserError, match=r"'cones' has no test: did you mean 'cone'\?"):
        audit(metrics, changed, params)
