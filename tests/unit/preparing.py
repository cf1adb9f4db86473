"""Helpers for tests of data preparation: its failures, their messages and files left behind.

A test module assigns the fixtures that it needs, directly or indirectly, to its own names:
`raw = preparing.raw`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hamjepa_audit.data.preparation import prepare
from hamjepa_audit.errors import UserError
from hamjepa_audit.params.sources import DigitsParams

DIGITS = DigitsParams(
    name="digits", source="digits", image_size=16, digest=None, test_fraction=0.2, split_seed=0
)
STORE_FILES = [
    "manifest.json",
    "test_images.npy",
    "test_labels.npy",
    "train_images.npy",
    "train_labels.npy",
]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


def error_of(call: Callable[[], Any], *culprits: object) -> str:
    """The one-line error message of `call`, which must contain every culprit."""
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for culprit in culprits:
        assert str(culprit) in message, message
    return message


def contents(root: Path) -> list[Path]:
    return sorted(root.rglob("*")) if root.exists() else []


def rejects(source: Any, raw: Path, *culprits: object) -> str:
    """The one-line error message of preparation, which must leave no files behind."""
    root = raw.parent / "prepared"
    message = error_of(lambda: prepare(source, raw, root), *culprits)
    assert contents(root) == []
    return message


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
