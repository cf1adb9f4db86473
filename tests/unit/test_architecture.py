"""Packages import only those that docs/architecture.md lists above them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import hamjepa_audit
from tests.conftest import REPOSITORY

SOURCE = Path(hamjepa_audit.__file__).parent
PAGE = (REPOSITORY / "docs/architecture.md").read_text()
LAYERS = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)


def imported_packages(module: Path) -> Iterator[str]:
    """Packages of the project that a module imports, anywhere in its code."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            project, _, rest = node.module.partition(".")
            if project == "hamjepa_audit" and rest.split(".")[0] in LAYERS:
                yield rest.split(".")[0]


def test_the_page_lists_every_package() -> None:
    assert sorted(LAYERS) == sorted(path.parent.name for path in SOURCE.glob("*/__init__.py"))


def test_packages_import_only_those_above_them() -> None:
    upward = {
        f"{module.relative_to(SOURCE)} imports {package}"
        for module in SOURCE.glob("*/**/*.py")
        for package in imported_packages(module)
        if LAYERS.index(package) > LAYERS.index(module.relative_to(SOURCE).parts[0])
    }
    assert upward == set()
