"""What a result was made with: code, environment, machine."""

import hashlib
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import hamjepa_audit

LOCK = "environment.lock.yml"
CODE = ("src", "params", "workflow", "Snakefile", LOCK)
"""What decides a result; other files of a checkout may differ from the commit."""

PACKAGES = (
    "numpy", "pandas", "pyarrow", "safetensors", "scikit-learn", "scipy", "statsmodels", "torch",
    "torchvision",
)  # fmt: skip


def code_and_environment() -> dict[str, Any]:
    """Version of the code (commit, whether files differ from it), lock digest, packages.

    Commit and changes are None where there is no git or no repository.
    """
    repository = Path(hamjepa_audit.__file__).resolve().parents[2]
    lock = repository / LOCK
    changed = _git(repository, "status", "--porcelain", "--", *CODE)
    return {
        "version": hamjepa_audit.__version__,
        "commit": _git(repository, "rev-parse", "HEAD"),
        "uncommitted_changes": None if changed is None else bool(changed),
        "lock_sha256": hashlib.sha256(lock.read_bytes()).hexdigest() if lock.exists() else None,
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "platform": platform.platform(),
    }


def _git(repository: Path, *command: str) -> str | None:
    """Output of a git command; None where there is no git or no repository."""
    try:
        result = subprocess.run(
            ["git", "-C", str(repository), *command], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return result.stdout.strip() if result.returncode == 0 else None
