"""Published results, which have no weights: verification and adoption."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from hamjepa_audit.bookkeeping import publication
from hamjepa_audit.bookkeeping.inventory import take_inventory
from hamjepa_audit.bookkeeping.measurements import write_measurement
from hamjepa_audit.bookkeeping.publication import adopt, publish
from hamjepa_audit.bookkeeping.verification import verify_results
from hamjepa_audit.checkpoints import recorded_checkpoint
from hamjepa_audit.errors import UserError
from hamjepa_audit.files import (
    atomic_folder,
    digest_of,
    read_sealed_json,
    write_if_changed,
    write_json,
    write_sealed_json,
    write_text,
)
from hamjepa_audit.layout import Layout
from hamjepa_audit.parquet import read_parquet
from hamjepa_audit.plans.audit import AuditPlan
from hamjepa_audit.plans.figures import figure_files
from tests.tiny import SEEDS, STUDY, audit, edit, files_below
from tests.unit import whole_results
from tests.unit.fabricated import plan_of
from tests.unit.whole_results import LAYOUT

whole, place = whole_results.whole, whole_results.place
PUBLISHED = Path("published")


@pytest.fixture
def published(place: Path) -> Layout:
    """The published study; the original results and the data are deleted."""
    (LAYOUT.figures(STUDY) / "seeds_e9.png").write_bytes(b"of other epochs")
    publish(plan_of(LAYOUT, STUDY), PUBLISHED)
    shutil.rmtree(LAYOUT.results)
    shutil.rmtree(LAYOUT.data)
    return Layout(results=PUBLISHED)


def test_what_is_published_verifies_without_weights(
    published: Layout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not [path for path in files_below(PUBLISHED) if path.endswith((".safetensors", ".pdf"))]
    figures = {path.name for path in published.figures(STUDY).iterdir()}
    planned = figure_files(plan_of(published, STUDY).study, AuditPlan.load(published))
    assert figures == {path.name for path in planned if path.suffix == ".png"}
    status, stderr = audit(monkeypatch, capsys, "--results", str(PUBLISHED), "verify")
    assert status == 0 and "not checked: checkpoints of 8 runs" in stderr
    checked = verify_results(published).checked
    plan = plan_of(published, STUDY)
    assert checked["files of runs"] == 2 * checked["runs"] == 2 * len(plan.runs)
    said = published.publication()
    whole_text = said.read_text()
    said.write_text(whole_text.replace(STUDY, "moon"))
    (problem,) = verify_results(published).problems
    assert str(said) in problem
    said.write_text(whole_text)
    history = published.run_history(next(iter(plan.runs)))
    history.write_bytes(history.read_bytes()[:-1])
    weights = published.checkpoint(list(plan.runs)[1])
    weights.write_bytes(b"others")
    problems = verify_results(published).problems
    assert all(any(str(path) in problem for problem in problems) for path in (history, weights))


def test_published_runs_are_adopted_as_done(
    published: Layout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(LAYOUT, STUDY)
    there = ("adopt", "--study", STUDY, "--from", str(PUBLISHED))
    status, stderr = audit(monkeypatch, capsys, *there)
    count = len(plan.runs)
    assert (status, stderr) == (0, f"adopted {count} of {count} runs\n")
    files = plan.measurements("knn", "probe", "geometry", "curves") + plan.histories()
    assert all(path.exists() for path in [*files, *map(LAYOUT.record, plan.runs)])
    assert verify_results(LAYOUT).problems == []
    assert {entry.state for entry in take_inventory(LAYOUT)} == {"current"}
    again = audit(monkeypatch, capsys, *there)[1]
    assert again == f"adopted 0 of {count} runs; {count} had been adopted before\n"
    files[0].unlink()
    assert audit(monkeypatch, capsys, *there)[1].startswith(f"adopted {len(SEEDS)} of")
    assert files[0].exists()
    files[0].unlink()
    (published.results / files[0].relative_to(LAYOUT.results)).unlink()
    told = audit(monkeypatch, capsys, *there)[1].splitlines()
    assert told[0].startswith("adopted 0 of")
    assert len(told) == 2 and told[1].startswith("not published: ") and files[0].name in told[1]


def test_a_study_is_published_and_adopted_below_the_results_unless_told_otherwise(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for out in ((), ("--out", str(PUBLISHED))):
        assert audit(monkeypatch, capsys, "publish", "--study", STUDY, *out) == (0, "")
    assert files_below(PUBLISHED) == files_below(LAYOUT.results / "published" / STUDY)
    assert verify_results(Layout(results=LAYOUT.results / "published" / STUDY)).problems == []
    for folder in (LAYOUT.runs(), LAYOUT.evaluations()):
        shutil.rmtree(folder)
    status, stderr = audit(monkeypatch, capsys, "adopt", "--study", STUDY)
    runs = len(plan_of(LAYOUT, STUDY).runs)
    assert (status, stderr) == (0, f"adopted {runs} of {runs} runs\n")


def test_a_study_that_was_never_published_is_said_to_be_so_without_its_data(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(LAYOUT.params / "studies" / f"{STUDY}.yaml", "data.digest", None)
    shutil.rmtree(LAYOUT.data)
    status, stderr = audit(monkeypatch, capsys, "adopt", "--study", STUDY)
    assert status == 2 and "holds no published study" in stderr


def test_only_what_the_parameters_ask_for_is_adopted(published: Layout) -> None:
    edit(LAYOUT.params / "arms/sigreg.yaml", "objective.weight", 0.05)
    plan = plan_of(LAYOUT, STUDY)
    adopted = adopt(plan, PUBLISHED)
    assert adopted.runs == len(plan.runs) - len(SEEDS)
    (told,) = adopted.lacking
    assert told.startswith("sigreg with ") and told.endswith("/run.json is missing)")
    assert not list(LAYOUT.runs().glob("*-sigreg-*"))
    assert not list(LAYOUT.evaluations().glob("*-sigreg-*"))


def test_runs_that_belong_together_are_adopted_together(published: Layout) -> None:
    plan = plan_of(LAYOUT, STUDY)
    first, second = next(iter(plan.batches.values())).run_ids
    shutil.copytree(published.run(first), LAYOUT.run(first))
    LAYOUT.without_weights(first).unlink()  # as if the run had been trained here
    with pytest.raises(UserError, match=f"{first} was trained here"):
        adopt(plan, PUBLISHED)
    assert not LAYOUT.run(second).exists()
    # An arm that was trained here whole is left, and the others are adopted.
    shutil.copytree(published.run(second), LAYOUT.run(second))
    LAYOUT.without_weights(second).unlink()
    adopted = adopt(plan, PUBLISHED)
    assert adopted.runs == len(plan.runs) - len(SEEDS) and adopted.lacking == []
    assert not LAYOUT.without_weights(first).exists()
    study = LAYOUT.params / "studies" / f"{STUDY}.yaml"
    edit(study, "seeds", [*SEEDS, 7])  # no published measurement covers these seeds
    assert adopt(plan_of(LAYOUT, STUDY), PUBLISHED).runs == 0


def test_what_is_damaged_or_of_another_study_is_not_adopted(published: Layout) -> None:
    plan = plan_of(LAYOUT, STUDY)
    last = list(plan.runs)[-1]
    for path in (published.record(last), published.run_history(last)):
        whole_bytes = path.read_bytes()
        path.write_bytes(whole_bytes[:-2] + bytes([whole_bytes[-2] ^ 1]) + whole_bytes[-1:])
        with pytest.raises(UserError, match=path.name):
            adopt(plan, PUBLISHED)
        path.write_bytes(whole_bytes)
        assert not list(LAYOUT.runs().glob("*"))
    with pytest.raises(UserError, match=f"is a publication of the study '{STUDY}', not of"):
        adopt(plan_of(LAYOUT, f"{STUDY}_controls"), PUBLISHED)
    with pytest.raises(UserError, match="nowhere holds no published study"):
        adopt(plan, Path("nowhere"))


def test_measurements_of_other_checkpoints_than_were_published_are_not_adopted(
    published: Layout,
) -> None:
    batch = replace(next(iter(plan_of(LAYOUT, STUDY).batches.values())), layout=published)
    knn = batch.measurement("knn")
    others = {name: {"checkpoint.safetensors": "0" * 64} for name in batch.run_ids}
    write_measurement(knn, [read_parquet(knn)], others)
    with pytest.raises(UserError, match=f"{knn} was measured on another checkpoint"):
        adopt(plan_of(LAYOUT, STUDY), PUBLISHED)
    assert not LAYOUT.runs().exists()


def test_the_record_of_a_run_is_adopted_last(
    published: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record marks a run as complete, so it must not exist before the other files."""
    copied: list[Path] = []
    original = publication._copy

    def recording(path: Path, source: Layout, target: Layout) -> None:
        copied.append(path)
        original(path, source, target)

    monkeypatch.setattr(publication, "_copy", recording)
    plan = plan_of(LAYOUT, STUDY)
    adopt(plan, PUBLISHED)
    for batch in plan.batches.values():
        theirs = replace(batch, layout=published)
        measured = [copied.index(theirs.measurement(step)) for step in batch.steps]
        for name in batch.run_ids:
            history, mark, record = (
                copied.index(part(name))
                for part in (published.run_history, published.without_weights, published.record)
            )
            assert max(measured) < min(history, mark) and max(history, mark) < record


def test_only_whole_results_of_one_study_and_these_parameters_are_published(place: Path) -> None:
    plan = plan_of(LAYOUT, STUDY)

    def refused(words: str) -> None:
        with pytest.raises(UserError, match=words):
            publish(plan_of(LAYOUT, STUDY), PUBLISHED)
        assert not PUBLISHED.exists()

    write_json(LAYOUT.studies_selection(), [STUDY, "cifar100"])
    refused("alone")
    write_json(LAYOUT.studies_selection(), [STUDY])
    statistics = LAYOUT.params / "statistics.yaml"
    as_published = statistics.read_text()
    edit(statistics, "minimum_seeds", 6)
    refused(f"{LAYOUT.claims_selection()} was not made from")
    statistics.write_text(as_published)
    table = LAYOUT.audit_tables() / "claims.md"
    text = table.read_text()
    table.write_text(f"{text}more\n")
    refused(rf"can't be published: {table} ")
    table.write_text(text)
    history = LAYOUT.run_history(next(iter(plan.runs)))
    history.write_bytes(history.read_bytes()[:-1])
    refused(f"can't be published: .*{history.name}")
    history.unlink()
    refused(f"{history.name} is missing; run: snakemake")
    edit(LAYOUT.params / "studies" / f"{STUDY}.yaml", "seeds", [0])
    refused("alone with the current parameters")


@pytest.mark.parametrize(
    ("figure", "source"),
    [
        ("seeds", LAYOUT.selection(STUDY)),
        ("knn_sweep", LAYOUT.study_table(STUDY, "metrics")),
        ("power", LAYOUT.claims_selection()),
        ("seeds", None),
        ("seeds", LAYOUT.claims_selection()),
    ],
)
def test_figures_older_than_what_they_are_drawn_from_are_not_published(
    place: Path, figure: str, source: Path | None
) -> None:
    """Figures of measurements alone don't depend on the claims."""
    plan = plan_of(LAYOUT, STUDY)
    path = LAYOUT.figures(STUDY) / f"{figure}_e{plan.study.epochs[0]}.png"
    if source is not None:
        for drawn in LAYOUT.figures(STUDY).iterdir():
            os.utime(drawn)
        older = source.stat().st_mtime_ns - 1
        os.utime(path, ns=(older, older))
    depends = source is not None and not (figure == "seeds" and "claims" in source.name)
    if depends:
        with pytest.raises(UserError, match=f"{path} is older than {source}, from which"):
            publish(plan, PUBLISHED)
    else:
        publish(plan, PUBLISHED)
    assert PUBLISHED.exists() != depends


def test_a_publication_lists_its_files_and_nothing_else_is_published(published: Layout) -> None:
    listed = read_sealed_json(published.publication())["files"]
    assert set(listed) == files_below(PUBLISHED) - {published.publication().name}
    figure = next(published.figures(STUDY).iterdir())
    for path in (figure, published.metrics(), published.audit_tables() / "claims.md"):
        content = path.read_bytes()
        path.unlink()
        assert any(f"missing file {path}" in line for line in verify_results(published).problems)
        path.write_bytes(content + b" ")
        assert any(str(path) in problem for problem in verify_results(published).problems)
        path.write_bytes(content)
    assert verify_results(published).problems == []


def test_nothing_but_the_same_study_published_gives_way(place: Path) -> None:
    plan = plan_of(LAYOUT, STUDY)
    for _ in range(2):
        publish(plan, PUBLISHED)
    for folder in (LAYOUT.results, PUBLISHED / "tables", Path()):
        before = files_below(place)
        with pytest.raises(UserError, match="give --out another folder"):
            publish(plan, folder)
        assert files_below(place) == before


def test_another_study_that_was_published_does_not_give_way(place: Path) -> None:
    plan = plan_of(LAYOUT, STUDY)
    publish(plan, PUBLISHED)
    write_sealed_json(Layout(results=PUBLISHED).publication(), {"study": "moon", "runs": []})
    with pytest.raises(UserError, match=f"something other than a publication of '{STUDY}'"):
        publish(plan, PUBLISHED)


def test_results_are_published_whatever_became_of_the_data(place: Path) -> None:
    (LAYOUT.store(STUDY) / "train_images.npy").write_bytes(b"")
    assert publish(plan_of(LAYOUT, STUDY), PUBLISHED).is_dir()


def test_a_folder_is_whole_or_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "folder"
    for word in ("old", "new"):
        with atomic_folder(target) as folder:
            (folder / word).touch()
        assert [path.name for path in target.iterdir()] == [word]
    with pytest.raises(ZeroDivisionError), atomic_folder(target) as folder:
        (folder / "half").touch()
        _ = 1 / 0
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in target.parent.iterdir()] == ["folder"]


def test_who_reads_a_file_while_it_is_rewritten_reads_the_old_one_to_its_end(
    tmp_path: Path,
) -> None:
    target = tmp_path / "file"
    write_text(target, "old")
    with target.open() as reader:
        write_text(target, "new and longer")
        assert reader.read() == "old"
    assert target.read_text() == "new and longer"
    assert list(tmp_path.iterdir()) == [target]


def test_what_says_the_same_already_is_not_written_again(tmp_path: Path) -> None:
    target = tmp_path / "selection.json"
    write_if_changed(target, {"arms": ("a", "b"), "seeds": [0]})
    os.utime(target, (0, 0))
    write_if_changed(target, {"seeds": [0], "arms": ["a", "b"]})
    write_if_changed(target, {"seeds": (0,), "arms": ("a", "b")})
    assert target.stat().st_mtime == 0
    write_if_changed(target, {"seeds": [0.0], "arms": ["a", "b"]})
    assert target.stat().st_mtime > 0


def test_nothing_that_is_no_number_has_a_digest() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest_of({"value": float("nan")})


def test_an_adopted_run_has_no_checkpoint_to_load_and_the_way_to_one_is_said(
    published: Layout,
) -> None:
    plan = plan_of(LAYOUT, STUDY)
    adopt(plan, PUBLISHED)
    name, run = next(iter(plan.runs.items()))
    with pytest.raises(UserError, match=f"without weights: delete {LAYOUT.run(name)}, then run:"):
        recorded_checkpoint(LAYOUT, run, name)
