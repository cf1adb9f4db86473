"""Fixtures that several modules of unit tests share."""

from pathlib import Path

import pytest

from tests.tiny import copy_params


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with only the tiny study's parameters, as the working directory."""
    copy_params(tmp_path / "params")
    monkeypatch.chdir(tmp_path)
    return tmp_path
