"""README and docs/ agree with the repository: links, studies, code and published numbers."""

import math
import re
from pathlib import Path

import pytest
import yaml

from hamjepa_audit.evaluation.geometry import Draw, random_pairs
from hamjepa_audit.params import load_study
from hamjepa_audit.params.audit import load_audit
from hamjepa_audit.randomness import Stream, generator
from tests.conftest import REPOSITORY
from tests.tiny import copy_params, edit

README = REPOSITORY / "README.md"
PAGES = [README, *sorted((REPOSITORY / "docs").glob("*.md"))]
STUDIES = (REPOSITORY / "docs/studies.md").read_text()


def anchors(page: Path) -> set[str]:
    """Link anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_overviews_are_the_published_ones() -> None:
    pattern = r"<!-- overview: (\S+) -->\n(.*?)<!-- end -->"
    blocks = re.findall(pattern, README.read_text(), re.DOTALL)
    assert len(blocks) == 2
    for path, shown in blocks:
        assert shown.strip() == (REPOSITORY / path).read_text().strip(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not link.startswith("https://"):
            name, _, anchor = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_every_page_is_linked_from_the_readme() -> None:
    text = README.read_text()
    assert len(PAGES) >= 6
    assert all(f"(docs/{page.name})" in text for page in PAGES if page != README)


def test_the_studies_that_are_named_exist() -> None:
    names = {
        name
        for page in PAGES
        for name in re.findall(r"(?:studies='\[|--study )(\w+)", page.read_text())
    } - {"NAME", "STUDY"}
    assert len(names) >= 4
    for name in names:
        assert (REPOSITORY / "params" / "studies" / f"{name}.yaml").is_file(), name


def test_the_study_and_the_arm_of_the_docs_are_ones(tmp_path: Path) -> None:
    study, parquet, stands_for, arm = re.findall(r"```yaml\n(.*?)```", STUDIES, re.DOTALL)
    params = tmp_path / "params"
    copy_params(params)
    (params / "studies" / "mine.yaml").write_text(study)
    (params / "arms" / "my_arm.yaml").write_text(arm)
    edit(params / "studies" / "mine.yaml", "arms", ["my_arm"])
    (found,) = load_study(params, "mine").arms
    assert found.model_dump()["objective"]["predictor"]["steps"] == 3
    edit(params / "studies" / "mine.yaml", "data", yaml.safe_load(parquet)["data"])
    assert load_study(params, "mine").data.source == "parquet"
    edit(
        params / "statistics.yaml",
        "stands_for",
        yaml.safe_load(stands_for.replace("NAME", "mine"))["stands_for"],
    )
    assert load_audit(params).stands_for["mine"].study == "cifar100"


def test_the_setting_for_few_images_is_one(tmp_path: Path) -> None:
    study, *_ = re.findall(r"```yaml\n(.*?)```", STUDIES, re.DOTALL)
    copy_params(tmp_path / "params")
    path = tmp_path / "params" / "studies" / "mine.yaml"
    path.write_text(study.replace("# evaluation:", "evaluation:"))
    assert max(load_study(tmp_path / "params", "mine").evaluation.knn.neighbours) < 200


def test_the_python_of_the_docs_runs_and_gives_what_it_says() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", STUDIES, re.DOTALL)
    found: dict[str, object] = {}
    exec(code, found)
    assert 0 <= float(str(found["defect"])) < 1e-12


def test_what_rows_paired_with_themselves_add_to_the_uniformity() -> None:
    params = load_study(REPOSITORY / "params", "digits").evaluation.geometry
    own, share = {}, {}
    for rows in (359, 10_000):
        draw = generator(Stream.GEOMETRY, params.seed, Draw.UNIFORMITY_PAIRS)
        first, second = random_pairs(rows, min(params.pairs, 2 * rows), draw)
        own[rows] = int((first == second).sum())
        share[rows] = own[rows] / len(first)

    def raised(rows: int, uniformity: float) -> float:
        return math.log1p(share[rows] * math.expm1(-uniformity))

    assert raised(10_000, -1) < 0.001
    assert (
        f"{own[359]} of 718 pairs for 359 images, and {own[10_000]} of 20,000 for 10,000. Such "
        "pairs raise the uniformity of evenly spread features (-4) by "
        f"{raised(359, -4):.2f} and {raised(10_000, -4):.3f}, and that of concentrated features "
        f"(-1) by {raised(359, -1):.2f} and less than 0.001."
    ) in " ".join((REPOSITORY / "docs/protocol.md").read_text().split())
