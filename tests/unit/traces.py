"""Traces guard versions of numbers: each is stored once per version, and pinned by digests.

A trace whose numbers changed can't be stored again for the same version, whether by its command or
manually: the digests of its parts are in trace_pins.json, by version, and `stored` compares them.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hamjepa_audit.files import digest_of
from hamjepa_audit.training.device import make_deterministic
from tests.tiny import copy_params

FOLDER = Path(__file__).parent
PINS = "trace_pins.json"


@dataclass(frozen=True)
class Trace:
    """Numbers of tiny computations, by part.

    Attributes:
        name: NAME in the version's name, NAME_NUMERICS, and the file's, NAME_trace.json.
        version: version of the numbers that the code currently gives.
        folder: the folder of the files.
    """

    name: str
    version: int
    folder: Path = FOLDER

    @property
    def path(self) -> Path:
        """Path of the stored trace."""
        return self.folder / f"{self.name}_trace.json"

    def store(self, parts: dict[str, Any]) -> None:
        """Stores a trace: all parts of a new version, but only missing parts of a pinned one."""
        pins = self._pins()
        pinned = pins.setdefault(self.name, {}).setdefault(str(self.version), {})
        if pinned:
            parts = parts | self._content()["parts"]
        pinned |= {
            part: digest_of(numbers) for part, numbers in parts.items() if part not in pinned
        }
        content = {f"{self.name}_numerics": self.version, "parts": parts}
        self.path.write_text(json.dumps(content, indent=1) + "\n")
        (self.folder / PINS).write_text(json.dumps(pins, indent=1) + "\n")

    def make_and_store(self, made: Callable[[Path], dict[str, Any]]) -> None:
        """Stores the result of `made` for a copy of the tiny study's parameters."""
        make_deterministic(threads=1)
        with tempfile.TemporaryDirectory() as temporary:
            self.store(made(copy_params(Path(temporary) / "params")))

    def stored(self) -> dict[str, Any]:
        """The parts; asserts that they are those pinned for this version."""
        command = f"python -m tests.unit.{self.name}_trace"
        content = self._content()
        found = content[f"{self.name}_numerics"]
        assert found == self.version, f"the trace has version {found}; write it again: {command}"
        parts: dict[str, Any] = content["parts"]
        pinned = self._pins().get(self.name, {}).get(str(self.version))
        assert pinned is not None, (
            f"version {self.version} is not pinned; write it again: {command}"
        )
        changed = [part for part in {**pinned, **parts} if _digest(parts, part) != pinned.get(part)]
        assert not changed, (
            f"the trace of {changed} is not the one stored for version {self.version}: raise "
            f"{self.name.upper()}_NUMERICS, then write it again: {command}"
        )
        return parts

    def _content(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.path.read_text())
        return content

    def _pins(self) -> dict[str, dict[str, dict[str, str]]]:
        path = self.folder / PINS
        pins: dict[str, dict[str, dict[str, str]]] = {}
        if path.exists():
            pins = json.loads(path.read_text())
        return pins


def _digest(parts: dict[str, Any], part: str) -> str | None:
    return digest_of(parts[part]) if part in parts else None
