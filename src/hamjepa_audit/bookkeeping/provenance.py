"""Collects what a result was made with: code, environment and platform."""

import hashlib
import platform
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import hamjepa_audit

LOCK = "environment.lock.yml"
CODE = ("src", "params", "workflow", "Snakefile", LOCK)
"""The files that determine results; other files of a checkout may differ from the commit."""

PACKAGES = (
    "numpy", "pandas", "pyarrow", "safetensors", "scikit-learn", "scipy", "torch", "torchvision",
)  # fmt: skip


def code_and_environment() -> dict[str, Any]:
    """The version of the code (commit, uncommitted changes), digest of the lock, and packages.

    The version of a package that is not installed is None: no step needs all of them. The commit,
    changes and lock are None if the package is not in a checkout of this project; the commit and
    changes also if git is missing or the checkout is not a repository.
    """
    checkout = _checkout()
    changed = checkout and _git(checkout, "status", "--porcelain", "--", *CODE)
    return {
        "version": hamjepa_audit.__version__,
        "commit": checkout and _git(checkout, "rev-parse", "HEAD"),
        "uncommitted_changes": None if changed is None else bool(changed),
        "lock_sha256": checkout and hashlib.sha256((checkout / LOCK).read_bytes()).hexdigest(),
        "python": platform.python_version(),
        "packages": {name: _installed(name) for name in PACKAGES},
        "platform": platform.platform(),
    }


def _installed(package: str) -> str | None:
    """The installed version of a package, if any."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _checkout() -> Path | None:
    """The checkout that contains the package; None if it is installed without one.

    A site-packages folder may lie in an unrelated repository, whose commit does not describe this
    code.
    """
    folder = Path(hamjepa_audit.__file__).resolve().parents[2]
    project = folder / "pyproject.toml"
    if not (project.is_file() and (folder / LOCK).is_file()):
        return None
    named = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {}).get("name")
    return folder if named == "hamjepa-audit" else None


def _git(repository: Path, *command: str) -> str | None:
    """The output of a git command; None if git is missing or there is no repository."""
    try:
        result = subprocess.run(
            ["git", "-C", str(repository), *command], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return result.stdout.strip() if result.returncode == 0 else None
