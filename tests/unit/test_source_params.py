"""Parameters of data sets: distinct parts and files, and studies that share data."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hamjepa_audit.errors import UserError
from hamjepa_audit.params import load_study
from hamjepa_audit.params.loading import require_own_data, validate
from hamjepa_audit.params.sources import ImageFolderParams, ParquetParams
from tests.tiny import edit


@pytest.fixture
def folder(tmp_path: Path, params_folder: Path) -> Path:
    """A copy of the parameters that a test may change."""
    return Path(shutil.copytree(params_folder, tmp_path / "params"))


FOLDER = {"name": "x", "image_size": 8, "digest": None, "source": "image_folder", "folder": "x"}
FILES = {"name": "x", "image_size": 8, "digest": None, "source": "parquet"}


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (FOLDER | {"train": ["train"], "test": ["val"], "classes": ["cat", "dog", "cat"]},
         "classes: 'cat' is listed more than once"),
        (FOLDER | {"train": ["train"], "test": ["./train"]},
         "'train' is listed more than once: test images must not be trained on"),
        (FILES | {"train": [{"path": "a.parquet", "sha256": None}] * 2,
                  "test": [{"path": "b.parquet", "sha256": None}]},
         "'a.parquet' is listed more than once: test images"),
    ],
)  # fmt: skip
def test_what_is_listed_twice_is_refused(tree: dict[str, Any], words: str) -> None:
    model = {"image_folder": ImageFolderParams, "parquet": ParquetParams}[tree["source"]]
    with pytest.raises(UserError, match=re.escape(words)):
        validate(model, tree, "there")


def test_images_that_are_trained_on_are_no_test(folder: Path) -> None:
    edit(folder / "studies/imagenet100.yaml", "data.test", ["val.X", "train.X1"])
    with pytest.raises(UserError, match=r"'train\.X1' is listed more than once"):
        load_study(folder, "imagenet100")


def test_data_that_another_study_describes_otherwise_are_refused(folder: Path) -> None:
    require_own_data(folder, load_study(folder, "digits"))
    copy = folder / "studies/copy.yaml"
    copy.write_text("extends: digits\ntitle: Copy\ndata: {split_seed: 5}\n")
    (folder / "studies/broken.yaml").write_text("extends: nothing\n")
    for study in ("digits", "copy"):
        with pytest.raises(UserError, match="describe the data set 'digits' differently; give one"):
            require_own_data(folder, load_study(folder, study))
    copy.write_text("extends: digits\ntitle: Copy\ndata: {split_seed: 5, name: another}\n")
    require_own_data(folder, load_study(folder, "digits"))


def test_titles_are_read_as_utf_8_in_any_locale(params_folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from hamjepa_audit.params import load_study; "
        "titles = load_study(Path(sys.argv[1]), 'digits_controls').arm_titles; "
        "sys.exit('\\u03bb' not in titles['sigreg_lambda_0_2'])"
    )
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", code, params_folder], env=os.environ | plain, check=True)
