"""The page's content: the evidence for each claim, and statements about studies and runs."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hamjepa_audit.params.studies import GainParams
from hamjepa_audit.reporting.formatting import ABSENT, Row, number, p_value
from hamjepa_audit.reporting.page import PageContent, page_context
from hamjepa_audit.reporting.page_claims import Entries, Entry
from hamjepa_audit.reporting.page_studies import (
    NOT_RECORDED,
    conditions,
    findings,
    to_baseline,
    to_method,
)
from hamjepa_audit.reporting.pictures import LEFT, RIGHT, picture
from hamjepa_audit.statistics.seeds import SeedTable
from tests.unit import audited as pages
from tests.unit.audited import COMMIT

embedded, audited = pages.embedded, pages.audited


def entries(content: PageContent, kind: str) -> list[tuple[Row, Entry]]:
    """The rows of a table of verdicts that have runs, each with its entry on the page."""
    maker = Entries(SeedTable(content.metrics), content.titles, content.plan.params)
    table, make = {
        "numbers": (content.tables.claims, maker.numbers),
        "differences": (content.tables.claim_differences, maker.differences),
        "statements": (content.tables.statements, maker.statements),
    }[kind]
    pairs = zip(table.to_dict("records"), make(table), strict=True)
    return [(row, entry) for row, entry in pairs if row["n"]]


def interval(row: Row, low: str = "ci_low", high: str = "ci_high") -> str:
    bounds = (number(row[name], row["unit"]) for name in (low, high))
    return ABSENT if np.isnan(row[low]) else f"[{', '.join(bounds)}]"


def holm(row: Row, name: str) -> str:
    """A p-value, followed by its value after Holm's correction if there is one and it differs."""
    p, adjusted = p_value(row[name]), p_value(row[f"{name}_holm"])
    return p if adjusted in (p, ABSENT) else f"{p} ({adjusted} after Holm)"


@pytest.mark.parametrize("kind", ["numbers", "differences"])
def test_the_evidence_of_a_claim_is_that_of_its_row(audited: PageContent, kind: str) -> None:
    found = entries(audited, kind)
    assert found
    for row, entry in found:
        shown, unit = dict(entry.evidence), row["unit"]
        assert shown["95% interval of our mean"] == interval(row)
        assert shown["95% prediction interval of one more seed"] == interval(
            row, "new_seed_low", "new_seed_high"
        )
        assert shown["Ours minus the paper's"] == number(row["deviation"], unit)
        margin = f"±{number(row['margin'], unit)}"
        size = {
            f"outside margin, {margin} around the paper's value (TOST)": "p_equivalence",
            f"inside margin, {margin} around the mean of the paper's runs": "p_h0_within_margin",
        }
        judged = kind == "numbers" or not row["carried"] or row["negligible"]
        for test, column in size.items():
            assert shown.get(f"H0: {test}, p") == (holm(row, column) if judged else None)
        sized = kind == "numbers" or row["negligible"]
        smallest = "deviation shown to exceed the margin" if sized else "difference detected"
        detectable = f"Smallest {smallest} with {row['n']} seeds, 80% power"
        assert shown[detectable] == number(row["detectable"], unit)
        test = "H0: arms equal (paired t-test)"
        if kind == "numbers":
            test = f"H0: our mean equals the paper's ({row['test']})"
        assert shown[test].startswith(f"t = {number(row['t'], '')}, p ")
        assert shown[test].endswith(holm(row, "p"))


def test_a_difference_shows_the_other_tests_of_it_and_its_size(audited: PageContent) -> None:
    for row, entry in entries(audited, "differences"):
        shown = dict(entry.evidence)
        equal = "H0: arms equal (exact"
        assert shown[f"{equal} sign-flip test), p"] == p_value(row["p_sign_flip"])
        assert shown[f"{equal} Wilcoxon signed-rank test), p"] == p_value(row["p_wilcoxon"])
        sized = not row["carried"] or row["negligible"]
        same = p_value(row["p_paper"]) if sized else None
        assert shown.get("H0: our mean equals the paper's, p") == same
        below = shown.get("H0: gain of margin or more, p")
        assert below == (None if row["negligible"] else holm(row, "p_h0_margin_or_more"))
        g, low, high = (number(row[name], "") for name in ("hedges_g", "g_low", "g_high"))
        assert shown["Effect size, Hedges' g"] == (g if low == ABSENT else f"{g} [{low}, {high}]")
        improvement = number(row["probability_of_improvement"], "")
        assert shown["Probability of improvement"] == improvement


def test_only_claims_whose_size_is_tested_have_a_margin_in_their_picture(
    audited: PageContent,
) -> None:
    drawn = {}
    for row, entry in entries(audited, "differences"):
        assert entry.picture is not None
        case = (row["carried"], row["negligible"])
        drawn.setdefault(case, set()).add(entry.picture.band is not None)
    sized = {(False, False): True, (False, True): True, (True, True): True, (True, False): False}
    assert drawn == {case: {band} for case, band in sized.items()}
    assert all(entry.picture.band for _, entry in entries(audited, "numbers"))


@pytest.mark.parametrize("reach", [np.nan, 9.0])
def test_a_picture_has_room_for_its_band_and_the_papers_interval(reach: float) -> None:
    drawn = picture("", 70.0, reach, 5.0, [70.1, 70.2], (np.nan, np.nan), zero=False)
    assert drawn.band is not None
    ends = [*drawn.band, *(drawn.paper_bounds or ())]
    assert len(ends) == (2 if np.isnan(reach) else 4)
    assert all(LEFT <= end <= RIGHT for end in ends)


def test_a_statement_shows_both_its_tests(audited: PageContent) -> None:
    found = entries(audited, "statements")
    assert found
    for row, entry in found:
        assert entry.evidence == (
            ("H0: does not hold (some part), p", holm(row, "p_h0_fails")),
            ("H0: holds (every part), p", holm(row, "p_h0_holds")),
        )


def test_what_is_carried_over_names_the_papers_study_and_epochs(embedded: PageContent) -> None:
    found = entries(embedded, "differences")
    carried = [(row, entry) for row, entry in found if row["carried"]]
    assert carried and any(row["paper_epochs"] != row["epochs"] for row, _ in carried)
    for row, entry in carried:
        title = embedded.titles.study(row["paper_study"])
        assert entry.carried == f"{title}, {row['paper_epochs']} epochs"


def test_a_picture_has_the_papers_own_interval(audited: PageContent) -> None:
    found = [(row, entry) for row, entry in entries(audited, "numbers") if row["paper_sd"] > 0]
    assert found
    for row, entry in found:
        drawn = entry.picture
        assert drawn is not None and drawn.paper_bounds is not None
        quantile = stats.t.ppf(0.975, row["paper_n"] - 1)
        reach = quantile * row["paper_sd"] / np.sqrt(row["paper_n"])
        widths = [high - low for low, high in (drawn.paper_bounds, drawn.band)]
        assert widths[0] * row["margin"] == pytest.approx(
            widths[1] * reach, abs=0.3 * max(row["margin"], reach)
        )


def test_seeds_that_one_arm_lacks_are_in_no_difference(embedded: PageContent) -> None:
    rows = embedded.metrics
    fewer = rows[~((rows["arm"] == "sigreg") & (rows["seed"] == 1))]
    found = entries(embedded._replace(metrics=fewer), "differences")
    against = [entry for _, entry in found if "sigreg" in entry.arms]
    assert against
    for entry in against:
        assert [seed.seed for seed in entry.seeds] == [0, 2, 3, 4]


# --- studies


ARMS = ["sigreg", "hamjepa"]
DIFFERENCE = {
    "epochs": 12, "checkpoint_epoch": 12, "minuend_arm": "hamjepa", "minuend_readout": "q",
    "subtrahend_arm": "sigreg", "subtrahend_readout": "all", "metric": "knn_top1@20",
    "unit": "percent", "n": 5, "mean_difference": 2.5, "ci_low": 1.25, "ci_high": 3.75, "p": 0.01,
    "confidence": 0.95,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "shown", "told"),
    [
        ({}, "2.50 [1.25, 3.75], p 0.0100", "HamJEPA q is 2.50 points above SIGReg"),
        ({"p": 0.06}, "2.50 [1.25, 3.75], p 0.0600", "no arm is shown to differ from SIGReg"),
        ({"p": 0.04, "confidence": 0.99}, "2.50 [1.25, 3.75], p 0.0400",
         "no arm is shown to differ from SIGReg"),
        ({"n": 2, "p": 0.5, "ci_low": np.nan, "ci_high": np.nan}, "2.50 –, p 0.500",
         "no arm is shown to differ from SIGReg"),
        ({"n": 3}, "2.50 [1.25, 3.75], p 0.0100", "HamJEPA q is 2.50 points above SIGReg"),
        ({"n": 2}, "2.50 [1.25, 3.75], p 0.0100", "no arm is shown to differ from SIGReg"),
        ({"n": 1, "p": np.nan, "ci_low": np.nan, "ci_high": np.nan}, "2.50 (1)",
         "no arm is shown to differ from SIGReg"),
        ({"n": 0, "p": np.nan, "mean_difference": np.nan}, "–",
         "no arm is shown to differ from SIGReg"),
    ],
)  # fmt: skip
def test_a_difference_to_the_baseline_in_numbers_and_in_words(
    embedded: PageContent, change: dict[str, float], shown: str, told: str
) -> None:
    early = DIFFERENCE | {"checkpoint_epoch": 6, "mean_difference": -9.0}
    frame = pd.DataFrame([early, DIFFERENCE | change])
    table = to_baseline(frame, ARMS, embedded.titles)
    assert table.rows == [["HamJEPA q", "12", shown]]
    (line,) = findings(frame, ARMS, embedded.titles, minimum_seeds=3)
    assert line == f"kNN@20 top-1: {told}."


def test_findings_name_the_epochs_of_a_study_with_several(embedded: PageContent) -> None:
    later = DIFFERENCE | {"epochs": 30, "checkpoint_epoch": 30, "mean_difference": -3.0}
    (line,) = findings(pd.DataFrame([DIFFERENCE, later]), ARMS, embedded.titles, 3)
    told = "HamJEPA q is 2.50 points above SIGReg at 12 epochs"
    assert line == f"kNN@20 top-1: {told}; HamJEPA q is 3.00 points below SIGReg at 30 epochs."


def test_the_page_says_which_arms_are_within_the_margin_of_the_method(
    embedded: PageContent,
) -> None:
    difference = "knn_top1@20_minus_hamjepa"
    rows = [
        ("sigreg", "all", -3.1, "differs"),  # the baseline, which has a list of its own
        ("identity", "q", 0.18, "within margin"),
        ("mlp", "q", -1.85, "differs"),
        ("mlp", "p", 0.9, "undecided"),
        ("hamjepa", "q", np.nan, None),
    ]
    names = ["arm", "readout", difference, f"{difference}_reading"]
    table = pd.DataFrame(rows, columns=names).assign(epochs=12)
    sides = GainParams(baseline="sigreg", method="hamjepa", accuracies=("knn_top1@20",))
    (line,) = to_method(table, sides, embedded.titles)
    found = "within margin: Identity q; differs: MLP (width-matched) q (-1.85)"
    assert line == f"kNN@20 top-1: {found}."
    (line,) = to_method(table[table["arm"] == "hamjepa"], sides, embedded.titles)
    assert line == "kNN@20 top-1: no arm is shown to be either."
    assert list(to_method(None, sides, embedded.titles)) == []
    (study,) = page_context(embedded)["studies"]
    assert study.method == "HamJEPA" and len(study.to_method) == 2


def test_a_run_says_what_it_was_made_on_and_how_long_it_took(embedded: PageContent) -> None:
    runs = embedded.metrics[["study", "arm", "epochs", "seed", "run_id"]].drop_duplicates()
    records = {
        name: record | {"uncommitted_changes": True, "epoch_seconds": [86400.0, 5.2]}
        for name, record in embedded.records.items()
    }
    params = [tables.params for tables in embedded.studies]
    for condition in conditions(params, runs, records, embedded.titles):
        assert {run.commit for run in condition.runs} == {f"{COMMIT[:12]} with changes"}
        assert {run.took for run in condition.runs} == {"1440 min 5 s"}
        assert dict(condition.parameters) == {
            "arm.objective.kind": "phase_space",
            "arm.objective.budget.weight": "0.2",
            "optimisation.batch_size": "512",
            "optimisation.betas": "0.9, 0.999",
        }


def test_a_run_of_an_installed_package_has_no_commit_and_no_lock(embedded: PageContent) -> None:
    runs = embedded.metrics[["study", "arm", "epochs", "seed", "run_id"]].drop_duplicates()
    without = {"commit": None, "uncommitted_changes": None, "lock_sha256": None}
    records = {name: record | without for name, record in embedded.records.items()}
    params = [tables.params for tables in embedded.studies]
    for condition in conditions(params, runs, records, embedded.titles):
        assert {(run.commit, run.lock) for run in condition.runs} == {(NOT_RECORDED, NOT_RECORDED)}


def test_runs_are_listed_by_their_seeds(embedded: PageContent) -> None:
    rows = embedded.metrics
    tenth = rows["run_id"].str.replace("-s1-", "-s10-")
    renamed = rows.assign(seed=rows["seed"].replace(1, 10), run_id=tenth)
    told = page_context(embedded._replace(metrics=renamed))["conditions"]
    assert told and all([run.seed for run in one.runs] == [0, 2, 3, 4, 10] for one in told)
