"""The audit as a whole: missing runs, refused metrics, tables, the command and its duration."""

import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from hamjepa_audit.errors import UserError
from hamjepa_audit.metrics import METRICS_SCHEMA, TRAINING_SECONDS
from hamjepa_audit.params.audit import AuditParams
from hamjepa_audit.params.claims import Claims
from hamjepa_audit.reporting.audit_tables import audit_tables
from hamjepa_audit.statistics.audit import Audit, audit
from hamjepa_audit.statistics.hypothesis_tests import MOST_SIGNS
from hamjepa_audit.statistics.metric_checks import hints, without_claims
from tests.tiny import audit as run_command, edit
from tests.unit import paper_audit
from tests.unit.synthetic_claims import as_the_paper

claims, params = paper_audit.claims, paper_audit.params
metrics, found = paper_audit.metrics, paper_audit.found


def test_what_was_not_run_is_said(claims: Claims, params: AuditParams) -> None:
    rows = as_the_paper(claims, 2, "cifar100")
    few = audit(pd.DataFrame(rows)[METRICS_SCHEMA.names], claims, params)
    for table in few[:3]:
        assert set(table["verdict"]) == {"inconclusive", "not run"}
        assert set(table.loc[table["n"] > 0, "reason"]) == {"fewer than 3 seeds"}
    imagenet = few.claims[few.claims["study"] == "imagenet100"]
    assert set(imagenet["verdict"]) == {"not run"}
    assert imagenet[["mean", "sd", "p", "seeds_needed"]].isna().all(axis=None)
    nothing = audit(pd.DataFrame(rows)[METRICS_SCHEMA.names].iloc[:0], claims, params)
    assert {verdict for table in nothing[:3] for verdict in table["verdict"]} == {"not run"}


def test_two_data_sets_under_one_study_are_refused(
    metrics: pd.DataFrame, claims: Claims, params: AuditParams
) -> None:
    other = metrics.assign(dataset="moon", run_id=metrics["run_id"] + "-moon")
    with pytest.raises(UserError) as caught:
        audit(pd.concat([metrics, other]), claims, params)
    words = "the study 'cifar100' has metrics of several data sets: cifar100, moon;"
    assert str(caught.value).startswith(words) and "\n" not in str(caught.value)


def test_fractions_of_which_one_is_1_are_refused(
    metrics: pd.DataFrame, claims: Claims, params: AuditParams
) -> None:
    accuracy = metrics["unit"] == "percent"
    largest = metrics[accuracy].groupby("study")["value"].max()
    share = metrics["value"] / metrics["study"].map(largest)
    with pytest.raises(UserError, match="multiply them by 100"):
        audit(metrics.assign(value=metrics["value"].where(~accuracy, share)), claims, params)


def test_accuracies_as_fractions_or_above_100_percent_are_refused(
    metrics: pd.DataFrame, claims: Claims, params: AuditParams
) -> None:
    accuracy = metrics["unit"] == "percent"
    fractions = metrics.assign(
        value=metrics["value"].where(~accuracy, metrics["value"] / 100),
        unit=metrics["unit"].where(~accuracy, "fraction"),
    )
    with pytest.raises(UserError, match="in 'fraction', but the paper's numbers are in 'percent'"):
        audit(fractions, claims, params)
    with pytest.raises(UserError, match="if its accuracies are fractions, multiply them"):
        audit(fractions.assign(unit=metrics["unit"]), claims, params)
    too_large = metrics.assign(value=metrics["value"].where(~accuracy, 100 * metrics["value"]))
    with pytest.raises(UserError, match=r"percentages outside 0 to 100, the first: \d+\.\d+ as"):
        audit(too_large, claims, params)


@pytest.mark.parametrize("kind", ["measurements", "differences", "statements"])
def test_claims_of_any_kind_keep_a_study_and_those_like_it_from_being_without(
    kind: str, claims: Claims, params: AuditParams
) -> None:
    none = dict.fromkeys(("measurements", "differences", "statements"), ())
    some = {kind: tuple(claim for claim in getattr(claims, kind) if claim.study == "cifar100")}
    alone = claims.model_copy(update=none | some)
    metrics = pd.DataFrame({"study": ["moon", "digits", "cifar100", "imagenet100"]})
    assert without_claims(metrics, alone, params) == ["imagenet100", "moon"]


def test_the_order_of_rows_changes_nothing(
    metrics: pd.DataFrame, found: Audit, claims: Claims, params: AuditParams
) -> None:
    again = audit(metrics.sample(frac=1, random_state=0), claims, params)
    for one_table, other in zip(found, again, strict=True):
        pd.testing.assert_frame_equal(one_table, other, check_exact=True)


def test_earlier_checkpoints_are_not_held_against_the_paper(
    metrics: pd.DataFrame, found: Audit, claims: Claims, params: AuditParams
) -> None:
    earlier = metrics.assign(checkpoint_epoch=5, value=0.5 * metrics["value"])
    again = audit(pd.concat([earlier, metrics]), claims, params)
    for one_table, other in zip(found, again, strict=True):
        pd.testing.assert_frame_equal(one_table, other, check_exact=True)


def test_tables_in_four_formats(found: Audit, tmp_path: Path) -> None:
    written = audit_tables(found, tmp_path)
    names = ("claims", "claim_differences", "statements", "paper_consistency")
    endings = ("csv", "md", "tex", "parquet")
    assert [file.name for file in written] == [f"{n}.{e}" for n in names for e in endings]
    stored = pd.read_parquet(tmp_path / "claims.parquet")
    pd.testing.assert_frame_equal(stored, found.claims, check_dtype=False)
    shown = (tmp_path / "claims.md").read_text()
    assert "31.45 ± 0.27 (3)" in shown and "reproduced" in shown
    assert "| stated as 0.27 to 0.28 over q, p, qp " in shown and "| stated as about 0 " in shown
    for table, lines in {n: (tmp_path / f"{n}.md").read_text().splitlines() for n in names}.items():
        headings = [heading for heading in lines[0].split("|") if heading.strip().startswith("p")]
        assert headings and all("(H0" in heading for heading in headings), table
    text = (tmp_path / "paper_consistency.md").read_text()
    assert "| disagrees " in text and "124.5" in text
    for table in names:
        lines = (tmp_path / f"{table}.md").read_text().splitlines()
        assert len(lines) == 2 + len(getattr(found, table))


def parquet(frame: pd.DataFrame, path: Path) -> Path:
    pq.write_table(pa.Table.from_pandas(frame, schema=METRICS_SCHEMA, preserve_index=False), path)
    return path


def test_the_command_takes_many_files_and_no_torch(
    metrics: pd.DataFrame, params_folder: Path, tmp_path: Path
) -> None:
    first = parquet(metrics[metrics["study"] == "cifar100"], tmp_path / "a.parquet")
    rest = metrics[metrics["study"] != "cifar100"]
    moon = rest.assign(study="moon", run_id=rest["run_id"] + "-moon")
    second = parquet(pd.concat([rest, moon]), tmp_path / "b.parquet")
    code = (
        "import sys\nfrom hamjepa_audit.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print('torch' in sys.modules, file=sys.stderr)"
    )
    arguments = ["--params", str(params_folder), "audit", "--metrics", str(first), str(second)]
    arguments += [
        "--claims",
        str(params_folder / "paper/claims.yaml"),
        "--out",
        str(tmp_path / "o"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[-1] == "False"
    assert "'moon'" in done.stderr
    (told,) = (line for line in done.stdout.splitlines() if line.startswith("statements: "))
    # There are nine, but the one that holds by construction is not counted.
    assert sum(int(number) for number in re.findall(r"\d+", told)) == 8
    table = pd.read_parquet(tmp_path / "o/claims.parquet")
    assert (table["n"] == 6).all()


def test_the_command_tests_the_claims_that_it_is_given_and_leaves_out_what_it_is_told_to(
    metrics: pd.DataFrame,
    params_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By default, it tests the claims in the parameters."""
    rows = parquet(metrics[metrics["study"] == "cifar100"], tmp_path / "rows.parquet")
    folder = Path(shutil.copytree(params_folder, tmp_path / "settings"))
    monkeypatch.chdir(tmp_path)
    fewer = tmp_path / "fewer.yaml"
    shutil.copy(folder / "paper/claims.yaml", fewer)
    edit(fewer, "measurements", yaml.safe_load(fewer.read_text())["measurements"][:28])
    command = ("--params", str(folder), "audit", "--metrics", str(rows), "--out")
    for name, options, tested, consistency in (
        ("a", (), 93, True),
        ("b", ("--claims", str(fewer), "--without-consistency"), 28, False),
    ):
        out = tmp_path / name
        assert run_command(monkeypatch, capsys, *command, str(out), *options)[0] == 0
        assert len(pd.read_csv(out / "claims.csv")) == tested
        assert (out / "paper_consistency.csv").exists() == consistency


@pytest.mark.parametrize(
    ("column", "names", "told"),
    [
        ("arm", {"hamjepa": "hamjepo", "sigreg": "sigrag"},
         "no claim names the arm 'hamjepo' (did you mean 'hamjepa'?), the arm 'sigrag' (did"),
        ("readout", {"q": "position"}, "the readout 'position' (allowed: 'all', 'p', 'q', 'qp')"),
        ("metric", {"linear_probe_top1": "linear_probe"}, "did you mean 'linear_probe_top1'?"),
        ("epochs", {30: 31, 80: 81}, "no row has all that a claim names"),
        ("study", {"cifar100": "moon"}, "no claim is tested on the study 'moon'"),
        ("value", {}, ""),
    ],
)  # fmt: skip
def test_names_that_no_claim_has_are_told_if_nothing_is_tested(
    metrics: pd.DataFrame,
    params_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    column: str,
    names: dict[str, str],
    told: str,
) -> None:
    rows = metrics[(metrics["study"] == "cifar100") & metrics["arm"].isin(["hamjepa", "sigreg"])]
    if names and column not in ("study", "epochs"):
        rows = rows[rows[column].isin(list(names))]
    probe = rows[rows["metric"] == "linear_probe_top1"]
    hamjepa = rows[rows["arm"] == "hamjepa"]
    other_run = hamjepa["run_id"].str.replace("hamjepa", "identity")
    unclaimed = [
        hamjepa.assign(arm="identity", run_id=other_run),
        probe.assign(metric="alignment", unit="dimensionless"),
    ]
    rows = pd.concat([rows, *unclaimed]) if column == "epochs" else rows
    rows = rows.assign(**{column: rows[column].replace(names)})
    rows = rows.assign(checkpoint_epoch=rows["epochs"])
    file, out = str(parquet(rows, tmp_path / "rows.parquet")), str(tmp_path / "out")
    command = ("--params", str(params_folder), "audit", "--metrics", file, "--out", out)
    status, stderr = run_command(monkeypatch, capsys, *command)
    assert (status, len(stderr.splitlines())) == (0, 1 if told else 0), stderr
    assert told in stderr


def test_arms_and_readouts_that_seem_mistyped_and_copied_seeds_are_told(
    metrics: pd.DataFrame, found: Audit, claims: Claims, params: AuditParams
) -> None:
    def told_of(rows: pd.DataFrame) -> list[str]:
        return list(hints(found[:3], rows, claims, params))

    rows = metrics[metrics["study"] == "cifar100"]
    assert told_of(rows) == []
    assert told_of(rows.iloc[:0]) == ["no claim is tested: the metrics have no rows"]
    mistyped = rows.assign(arm=rows["arm"].replace("hamjepa", "HamJPEA"))
    (told,) = told_of(mistyped)
    assert told.startswith("no claim names the arm 'HamJPEA' of the study 'cifar100'; if it is")
    assert "'hamjepa'" in told
    mistyped = rows.assign(readout=rows["readout"].replace({"q": "Q", "qp": "both"}))
    assert told_of(mistyped) == [
        "no claim names the readout 'Q'; correct its name: did you mean 'q'?",
        "no claim names the readout 'both'; correct its name: allowed: 'all', 'p', 'q', 'qp'",
    ]
    both = pd.concat([rows, rows[rows["arm"] == "hamjepa"].assign(arm="hamjepa_k_1")])
    assert told_of(both) == []  # hamjepa itself is there
    of_arm = (rows["arm"] == "hamjepa") & (rows["epochs"] == 30)
    copied = rows[of_arm & (rows["seed"] == 0)].assign(seed=2)
    copied.loc[copied["metric"] == TRAINING_SECONDS, "value"] += 1
    others = rows[~of_arm | (rows["seed"] != 2)]
    (told,) = told_of(pd.concat([others, copied]))
    assert told.startswith("the seeds 0 and 2 of cifar100, hamjepa, 30 epochs have equal numbers")
    incomplete = pd.concat([others[~((others["seed"] == 1) & (others["readout"] == "q"))], copied])
    assert told_of(incomplete) == [told]
    untimed = copied[copied["metric"] != TRAINING_SECONDS]
    assert told_of(pd.concat([others, untimed.head(4)])) == []
    assert told_of(pd.concat([others, untimed.head(5)])) == [told]


def processor_seconds() -> float:
    """CPU time of finished child processes; unlike wall time, independent of other load."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def hundred_thousand_rows(claims: Claims, seeds: int) -> pd.DataFrame:
    """Metrics of six studies, all arms and readouts, with about 10 checkpoints per run."""
    tiny = ("tinyimagenet100", "tinyimagenet100_80epochs")
    studies = [("cifar100", name) for name in ("cifar100", "cifar100_controls", *tiny)]
    studies += [("imagenet100", name) for name in ("imagenet100", "imagenet100_cmc")]
    rows = [row for like, name in studies for row in as_the_paper(claims, seeds, like, name)]
    final = pd.DataFrame(rows)[METRICS_SCHEMA.names]
    noise = np.random.default_rng(3)
    earlier = []
    for checkpoint in range(1, -(-100_000 // len(final))):
        value = final["value"] * (0.5 + checkpoint / 100) + 0.1 * noise.normal(size=len(final))
        earlier.append(final.assign(checkpoint_epoch=checkpoint, value=value))
    return pd.concat([*earlier, final], ignore_index=True)


@pytest.mark.parametrize("seeds", [MOST_SIGNS])  # for which the exact tests take longest
def test_a_hundred_thousand_rows_take_seconds(
    seeds: int, claims: Claims, params_folder: Path, tmp_path: Path
) -> None:
    """The complete command; all rows belong to studies on which claims are tested."""
    many = hundred_thousand_rows(claims, seeds)
    assert len(many) >= 100_000
    path = parquet(many.sample(frac=1, random_state=0), tmp_path / "many.parquet")
    typed = "from hamjepa_audit.cli import main; main()"
    command = [sys.executable, "-c", typed, "--params", str(params_folder), "audit"]
    command += ["--metrics", str(path), "--claims", str(params_folder / "paper/claims.yaml")]
    before = processor_seconds()
    subprocess.run([*command, "--out", str(tmp_path / "out")], check=True, capture_output=True)
    assert processor_seconds() - before < 10
    tables = {n: pd.read_parquet(tmp_path / f"out/{n}.parquet") for n in Audit._fields[:3]}
    assert (tables["claims"]["n"] == seeds).all()
    differences = tables["claim_differences"]
    assert (differences["n"] == seeds).mean() > 0.9 and differences["study"].nunique() == 6
    assert (tables["statements"]["n"] == seeds).sum() > 10


@pytest.mark.parametrize(
    "module",
    [
        "statistics.audit",
        "statistics.power",
        "reporting.page",
        "reporting.audit_figures",
        "cli.audit",
    ],
)
def test_the_audit_does_not_import_torch(module: str) -> None:
    code = f"import sys, hamjepa_audit.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
