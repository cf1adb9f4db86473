"""Makes, reads and checks environment.lock.yml, the pinned environment of the project.

    python tools/lock.py make [--upgrade]      resolve pyproject.toml and write the lock
    python tools/lock.py requirements [NAME]   print the lock as pip requirements
    python tools/lock.py check [--installed]   compare the lock with pyproject.toml and with the
                                               running environment

The lock is a conda environment file whose `pip:` list holds one line per package, with its version
and the hashes of its files. Both conda and the Makefile pass that list to pip. Only the standard
library is needed, except by `check`, which uses `packaging` (a locked package).
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PYTHON = "3.11"
DIGEST_LABEL = "# sha256 of the requirements in pyproject.toml: "
PIN = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9.!+_-]+)"
    r"(?: ; (?P<marker>(?:(?! --hash=).)+))?"
    r"(?P<hashes>(?: --hash=sha256:[0-9a-f]{64})+)"
)
# True wherever the lock has to work (tool.uv.environments), so redundant in a marker.
ALWAYS_TRUE = (
    "python_full_version < '3.12'",
    "(sys_platform == 'darwin' or sys_platform == 'linux')",
)


class LockError(Exception):
    """A problem that the user can fix, described in one line."""


@dataclass(frozen=True)
class Pin:
    """One package of the lock, and the line that it was read from."""

    name: str
    version: str
    marker: str | None
    line: str


def normalised(name: str) -> str:
    """A package's name, normalised as in PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_text(path: Path) -> str:
    """The text of a required file.

    Raises:
        LockError: the file is missing or can't be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a UTF-8 text"
        raise LockError(f"can't read {path}: {reason}; restore it from version control") from error


def read_project(path: Path) -> dict[str, Any]:
    """pyproject.toml as a dictionary.

    Raises:
        LockError: the file can't be read, isn't TOML or has no `project` table.
    """
    try:
        document = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise LockError(f"{path}: not valid TOML: {error}; correct the file") from error
    if "project" not in document:
        raise LockError(f"{path}: the table [project] is missing; restore it from version control")
    return document


def loose_requirements(document: dict[str, Any]) -> list[str]:
    """All requirements in pyproject.toml: for running, development and building."""
    project = document["project"]
    extras: dict[str, list[str]] = project.get("optional-dependencies", {})
    build: list[str] = document.get("build-system", {}).get("requires", [])
    return [*project.get("dependencies", []), *(r for e in extras.values() for r in e), *build]


def requirements_digest(document: dict[str, Any]) -> str:
    """The SHA-256 of everything that the lock is resolved from.

    It covers the parsed values, so changed comments or order of keys don't require a new lock.
    """
    project = document["project"]
    inputs = {
        "requires-python": project.get("requires-python"),
        "dependencies": project.get("dependencies", []),
        "optional-dependencies": project.get("optional-dependencies", {}),
        "build-requires": document.get("build-system", {}).get("requires", []),
        "environments": document.get("tool", {}).get("uv", {}).get("environments", []),
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def lock_lines(path: Path) -> list[str]:
    """The lines of the lock's `pip:` list, not yet parsed.

    Raises:
        LockError: the file can't be read or has no such list.
    """
    _, found, tail = read_text(path).partition("\n  - pip:\n")
    lines = [line.strip().removeprefix("- ") for line in tail.splitlines() if line.strip()]
    if not found or not lines:
        raise LockError(f"{path}: has no list '- pip:'; run `make lock`")
    return lines


def read_pins(path: Path) -> list[Pin]:
    """The packages of the lock.

    Raises:
        LockError: a line isn't a name, a version and at least one hash.
    """
    pins = []
    for line in lock_lines(path):
        match = PIN.fullmatch(line)
        if match is None:
            shown = line if len(line) <= 60 else line[:60] + "..."
            raise LockError(
                f"{path}: the line '{shown}' isn't 'name==version ; marker --hash=sha256:...'; "
                "run `make lock`"
            )
        pins.append(Pin(normalised(match["name"]), match["version"], match["marker"], line))
    return pins


def simplified(line: str) -> str:
    """A line of uv's output with single spaces and without conditions that are always true."""
    requirement, *hashes = line.replace("\\", " ").split(" --hash=")
    pin, _, marker = (part.strip() for part in requirement.partition(" ; "))
    conditions = [part for part in marker.split(" and ") if part and part not in ALWAYS_TRUE]
    if conditions:
        pin += " ; " + " and ".join(conditions)
    return " ".join([pin, *(f"--hash={value.strip()}" for value in hashes)])


def resolve(project: Path, uv: str, pins: list[Pin]) -> list[str]:
    """Resolves pyproject.toml with uv into one line per package, sorted by name.

    Args:
        project: path of pyproject.toml.
        uv: the uv program.
        pins: pins that uv keeps if they satisfy the requirements.

    Raises:
        LockError: uv is missing or found no solution (it prints its own message first).
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "requirements.txt"
        output.write_text("".join(f"{pin.line}\n" for pin in pins), encoding="utf-8")
        command = [uv, "pip", "compile", "--quiet", "--universal", "--generate-hashes"]
        command += ["--python-version", PYTHON, "--all-extras", "--no-header", "--no-annotate"]
        command += ["--no-emit-index-url", "--no-emit-find-links"]
        command += ["--output-file", str(output), str(project)]
        try:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        except OSError as error:
            reason = error.strerror or str(error)
            raise LockError(
                f"can't run uv ('{uv}'): {reason}; run `make environment`, or install uv"
            ) from error
        except subprocess.CalledProcessError as error:
            raise LockError(
                f"uv found no lock for {project} (exit status {error.returncode}, message above); "
                "correct the requirements"
            ) from error
        text = output.read_text(encoding="utf-8").replace("\\\n", " ")
    if "==" not in text:
        raise LockError(f"uv ('{uv}') wrote no packages for {project}; run `make lock` again")
    lines = (simplified(line) for line in text.splitlines() if "==" in line)
    return sorted(lines, key=lambda line: line.partition("==")[0])


def render(name: str, digest: str, lines: list[str]) -> str:
    """The text of the lock."""
    header = [
        "# Every package that the project runs on, with the hashes of its files. Do not edit:",
        "# `make lock` writes it with `uv pip compile --universal --generate-hashes` from the",
        "# requirements in pyproject.toml and keeps the pins that still satisfy them;",
        "# `make lock UPGRADE=1` takes the newest versions.",
        f"{DIGEST_LABEL}{digest}",
        f"name: {name}",
        "channels:",
        "  - conda-forge",
        "  - nodefaults",
        "dependencies:",
        f"  - python={PYTHON}",
        "  - pip",
        "  - pip:",
    ]
    return "\n".join([*header, *(f"    - {line}" for line in lines)]) + "\n"


def write_atomically(path: Path, text: str) -> None:
    """Writes a file atomically, so that no reader sees a partial file.

    Raises:
        LockError: the folder can't be written to, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise LockError(f"can't write {path}: {reason}; check permissions and space") from error
    finally:
        temporary.unlink(missing_ok=True)


def make(project: Path, lock: Path, uv: str, upgrade: bool) -> None:
    """Writes the lock from pyproject.toml; the old pins are kept unless `upgrade`."""
    document = read_project(project)
    pins = read_pins(lock) if lock.exists() and not upgrade else []
    lines = resolve(project, uv, pins)
    write_atomically(
        lock, render(document["project"]["name"], requirements_digest(document), lines)
    )
    print(f"{lock}: {len(lines)} packages")


def print_requirements(lock: Path, names: list[str]) -> None:
    """Prints the lock as pip requirements: all of it, or only the named packages.

    Raises:
        LockError: a named package isn't in the lock.
    """
    pins = read_pins(lock)
    missing = sorted({normalised(name) for name in names} - {pin.name for pin in pins})
    if missing:
        raise LockError(
            f"{lock}: has no package '{missing[0]}'; add it to pyproject.toml, then run `make lock`"
        )
    wanted = {normalised(name) for name in names} or {pin.name for pin in pins}
    for pin in pins:
        if pin.name in wanted:
            print(pin.line)


def project_problems(document: dict[str, Any], lock: Path) -> Iterator[str]:
    """Yields the lock's disagreements with pyproject.toml, one line each."""
    from packaging.requirements import Requirement

    pins = read_pins(lock)
    for text in dict.fromkeys(loose_requirements(document)):
        requirement = Requirement(text)
        found = [pin for pin in pins if pin.name == normalised(requirement.name)]
        if not found:
            yield f"{lock}: '{text}' of pyproject.toml is not pinned; run `make lock`"
        for pin in found:
            if not requirement.specifier.contains(pin.version, prereleases=True):
                yield (
                    f"{lock}: {pin.name} is pinned at {pin.version}, pyproject.toml allows "
                    f"'{text}'; run `make lock`"
                )
    expected = requirements_digest(document)
    stated = re.search(f"^{re.escape(DIGEST_LABEL)}(.*)$", read_text(lock), re.MULTILINE)
    if stated is None or stated[1] != expected:
        value = stated[1][:12] if stated else "missing"
        yield (
            f"{lock}: was made from other requirements (digest {value}, pyproject.toml has "
            f"{expected[:12]}); run `make lock`"
        )


def installed_versions() -> set[tuple[str, str]]:
    """The name and version of every package that this Python would import."""
    found = importlib.metadata.distributions()
    return {
        (normalised(one.metadata["Name"]), one.version) for one in found if one.metadata["Name"]
    }


def installed_problems(project_name: str, lock: Path) -> Iterator[str]:
    """Yields the running environment's differences from the lock, one line each."""
    from packaging.markers import Marker

    remedy = "run `make environment`"
    pins = [pin for pin in read_pins(lock) if not pin.marker or Marker(pin.marker).evaluate()]
    expected = {pin.name: pin.version for pin in pins}
    installed = installed_versions()
    for name in sorted(expected.keys() - {name for name, _ in installed}):
        yield f"{name}: not installed, the lock has {expected[name]}; {remedy}"
    for name, version in sorted(installed):
        if name not in expected and name != normalised(project_name):
            yield f"{name}: {version} is installed, the lock doesn't have it; {remedy}"
        elif name in expected and version != expected[name]:
            yield f"{name}: {version} is installed, the lock has {expected[name]}; {remedy}"


def check(project: Path, lock: Path, installed: bool) -> int:
    """Prints everything that disagrees with the lock.

    Returns:
        The exit status: 0, or 2 if there is a problem.
    """
    document = read_project(project)
    try:
        problems = list(project_problems(document, lock))
        if installed:
            problems += installed_problems(document["project"]["name"], lock)
    except ImportError as error:
        raise LockError(f"{error.name}: not installed; run `make environment`") from error
    for problem in problems:
        print(problem, file=sys.stderr)
    return 2 if problems else 0


def default_uv() -> str:
    """The uv of the running environment, else the one on PATH."""
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else shutil.which("uv") or "uv"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="tools/lock.py", description="The pinned environment.")
    parser.add_argument("--project", type=Path, default=ROOT / "pyproject.toml")
    parser.add_argument("--lock", type=Path, default=ROOT / "environment.lock.yml")
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make", help="resolve pyproject.toml and write the lock")
    making.add_argument("--upgrade", action="store_true", help="take the newest versions")
    making.add_argument("--uv", default=default_uv(), help="the program (default: %(default)s)")
    printing = commands.add_parser("requirements", help="print the lock as pip requirements")
    printing.add_argument("names", nargs="*", metavar="NAME", help="only these packages")
    checking = commands.add_parser("check", help="compare the lock with pyproject.toml")
    checking.add_argument("--installed", action="store_true", help="and with this environment")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Runs a subcommand; a problem is printed as one line.

    Returns:
        The exit status: 0, or 2 for a problem that the user can fix.
    """
    options = parse(arguments)
    try:
        if options.command == "make":
            make(options.project, options.lock, options.uv, options.upgrade)
        elif options.command == "requirements":
            print_requirements(options.lock, options.names)
        else:
            return check(options.project, options.lock, options.installed)
    except LockError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
