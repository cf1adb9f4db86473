"""Tables that were edited, or fetched in an older version, get no provenance."""

import shutil
from pathlib import Path

import pytest

from hamjepa_audit.bookkeeping.verification import verify_results
from hamjepa_audit.layout import Layout
from tests.tiny import STUDY, edit
from tests.workflow.conftest import snakemake
from tests.workflow.test_graph import STATISTICS, planned

pytestmark = pytest.mark.workflow


def test_an_edited_table_is_not_sealed_again(
    copy_of_finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy_of_finished)
    edited = [Path(f"results/tables/{STUDY}/overview.md"), Path("results/tables/claims.csv")]
    for path in edited:
        path.write_text(path.read_text().replace("1", "9"))
        said = snakemake(copy_of_finished, "results/tables", succeeds=False)
        assert f"{path} has the SHA-256" in said
        path.unlink()
    snakemake(copy_of_finished, "results/tables")
    assert verify_results(Layout()).problems == []


@pytest.mark.parametrize("engine_remembers", [True, False])
def test_older_tables_that_were_fetched_are_made_again(
    copy_of_finished: Path, monkeypatch: pytest.MonkeyPatch, engine_remembers: bool
) -> None:
    """With newer times than what they should be made from, as after `git checkout`."""
    monkeypatch.chdir(copy_of_finished)
    tables = Path("results/tables")
    shutil.copytree(tables, "older")
    edit(Path(STATISTICS), "confidence", 0.5)
    snakemake(copy_of_finished, "results/tables")
    current = (tables / "paper_consistency.csv").read_bytes()
    assert current != Path("older/paper_consistency.csv").read_bytes()
    shutil.copytree("older", tables, copy_function=shutil.copyfile, dirs_exist_ok=True)
    if not engine_remembers:
        shutil.rmtree(".snakemake")
    assert planned(copy_of_finished)["audit"] == 1
    snakemake(copy_of_finished, "results/tables")
    assert (tables / "paper_consistency.csv").read_bytes() == current
    assert verify_results(Layout()).problems == [] and planned(copy_of_finished) == {}
    # Without their provenance nothing says that they are older, but they don't get one.
    for path in Path("older").glob("paper_consistency.*"):
        shutil.copyfile(path, tables / path.name)
    told = snakemake(copy_of_finished, "results/tables", succeeds=False)
    assert (
        f"{tables / 'paper_consistency.parquet'} says that it is made from studies/claims.json"
        in told
    )
