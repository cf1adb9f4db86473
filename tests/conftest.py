"""Options and fixtures shared by all tests."""

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
GOLDEN_CASES = Path(__file__).parent / "golden" / "cases"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cases",
        type=Path,
        default=GOLDEN_CASES,
        help="folder of golden cases (index.json and .npz files) for tests/golden",
    )
    parser.addoption(
        "--axe",
        type=Path,
        default=REPOSITORY / "node_modules" / "axe-core" / "axe.min.js",
        help="axe-core's axe.min.js (npm install --no-save axe-core) for tests/browser",
    )
    parser.addoption(
        "--screenshots",
        type=Path,
        default=None,
        help="folder that tests/browser writes pictures of the page to",
    )


@pytest.fixture(scope="session")
def params_folder() -> Path:
    return REPOSITORY / "params"
