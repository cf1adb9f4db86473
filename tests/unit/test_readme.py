"""The README says what the repository has."""

import re
from pathlib import Path

from hamjepa_audit.params import load_study
from tests.conftest import REPOSITORY
from tests.tiny import copy_params, edit

README = (REPOSITORY / "README.md").read_text()


def test_the_overview_is_the_published_one() -> None:
    block = re.search(r"<!-- overview: (\S+) -->\n(.*?)<!-- end -->", README, re.DOTALL)
    assert block is not None
    assert block[2].strip() == (REPOSITORY / block[1]).read_text().strip()


def test_pictures_and_files_that_it_names_exist() -> None:
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README)
    assert len(pictures) >= 4
    for name in pictures:
        assert (REPOSITORY / name).is_file(), name
    for name in ("environment.lock.yml", "CITATION.cff", "params", "tests/golden"):
        assert name in README
        assert (REPOSITORY / name).exists()


def test_the_studies_that_it_names_exist() -> None:
    names = re.findall(r"studies='\[(\w+)\]'", README)
    assert len(names) >= 3
    for name in names:
        assert (REPOSITORY / "params" / "studies" / f"{name}.yaml").is_file()


def test_its_study_and_its_arm_are_ones(tmp_path: Path) -> None:
    study, arm = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    params = tmp_path / "params"
    copy_params(params)
    (params / "studies" / "mine.yaml").write_text(study)
    (params / "arms" / "my_arm.yaml").write_text(arm)
    edit(params / "studies" / "mine.yaml", "arms", ["my_arm"])
    (found,) = load_study(params, "mine").arms
    assert found.model_dump()["objective"]["predictor"]["steps"] == 3


def test_its_python_runs_and_gives_what_it_says() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    found: dict[str, object] = {}
    exec(code, found)
    assert 0 <= float(str(found["defect"])) < 1e-12
