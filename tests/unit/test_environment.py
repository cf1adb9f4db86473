"""The lock, pyproject.toml and the running environment agree, and disagreement is detected."""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "lock.py"
PROJECT = ROOT / "pyproject.toml"
LOCK = ROOT / "environment.lock.yml"
PIN = re.compile(r"[a-z0-9-]+==\S+( ; .+)?( --hash=sha256:[0-9a-f]{64})+")


def run_lock(
    *arguments: str, project: Path = PROJECT, lock: Path = LOCK
) -> subprocess.CompletedProcess[str]:
    """Runs tools/lock.py as the Makefile does, on the given files."""
    command = [sys.executable, str(TOOL), "--project", str(project), "--lock", str(lock)]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


def pip_lines(lock: Path) -> list[str]:
    """The lock's pip list, read with a YAML parser like conda's."""
    dependencies = yaml.safe_load(lock.read_text())["dependencies"]
    lists = [entry["pip"] for entry in dependencies if isinstance(entry, dict)]
    assert len(lists) == 1
    lines: list[str] = lists[0]
    return lines


@dataclass(frozen=True)
class Copies:
    """Copies of pyproject.toml and the lock that a test may break."""

    project: Path
    lock: Path

    def edit(self, path: Path, change: Callable[[str], str]) -> None:
        before = path.read_text()
        after = change(before)
        assert after != before, "the test broke nothing"
        path.write_text(after)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_lock(*arguments, project=self.project, lock=self.lock)

    def problem(self, *arguments: str) -> str:
        """The one-line message of a failing run."""
        result = self.run(*arguments)
        assert result.returncode == 2, result.stdout + result.stderr
        assert result.stdout == ""
        assert result.stderr.count("\n") == 1, result.stderr
        return result.stderr.strip()


@pytest.fixture
def copies(tmp_path: Path) -> Copies:
    files = Copies(tmp_path / PROJECT.name, tmp_path / LOCK.name)
    files.project.write_text(PROJECT.read_text())
    files.lock.write_text(LOCK.read_text())
    return files


def digest_refreshed(copies: Copies) -> None:
    """Updates the digest of the copied pyproject.toml in the copied lock."""
    fake_uv(copies, "exit 0")
    result = copies.run("make", "--uv", str(copies.lock.with_name("uv")))
    assert result.returncode == 0, result.stderr


def fake_uv(copies: Copies, script: str) -> None:
    """Writes a script that replaces uv; `exit 0` resolves to the given pins."""
    program = copies.lock.with_name("uv")
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_python_is_the_one_the_lock_is_for() -> None:
    assert sys.version_info[:2] == (3, 11)


def test_lock_agrees_with_pyproject() -> None:
    result = run_lock("check")
    assert result.returncode == 0, result.stderr


def test_running_environment_is_the_locked_one() -> None:
    result = run_lock("check", "--installed")
    assert result.returncode == 0, result.stderr


def test_every_line_of_the_lock_has_a_version_and_hashes() -> None:
    lines = pip_lines(LOCK)
    assert [line for line in lines if not PIN.fullmatch(line)] == []
    names = [line.partition("==")[0] for line in lines]
    assert names == sorted(set(names))


def test_lock_names_no_package_registry() -> None:
    assert "://" not in LOCK.read_text()


def test_requirements_are_what_conda_would_hand_to_pip() -> None:
    assert run_lock("requirements").stdout.splitlines() == pip_lines(LOCK)


def test_requirements_of_named_packages_only() -> None:
    printed = run_lock("requirements", "UV", "pip").stdout.splitlines()
    assert [line.partition("==")[0] for line in printed] == ["pip", "uv"]


def test_requirements_of_an_unknown_package(copies: Copies) -> None:
    problem = copies.problem("requirements", "no-such-package")
    assert "has no package 'no-such-package'" in problem
    assert "make lock" in problem


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        (r"(    - tqdm==\S+) .*", r"\1"),
        (r"(    - tqdm)==\S+", r"\1"),
        (r"(    - tqdm)==", r"\1>="),
        (r"(    - tqdm==\S+ --hash=sha256:)[0-9a-f]{4}", r"\1"),
        (r"(    - tqdm==\S+) --hash=sha256", r"\1 --hash=md5"),
    ],
    ids=["no hash", "no version", "loose version", "short hash", "weak hash"],
)
def test_broken_line_is_named(copies: Copies, pattern: str, replacement: str) -> None:
    copies.edit(copies.lock, lambda text: re.sub(pattern, replacement, text))
    for command in (["check"], ["requirements"]):
        problem = copies.problem(*command)
        assert f"{copies.lock}: the line 'tqdm" in problem
        assert "make lock" in problem


def test_requirement_missing_from_the_lock(copies: Copies) -> None:
    copies.edit(copies.lock, lambda text: re.sub(r"    - typer==.*\n", "", text))
    assert "'typer' of pyproject.toml is not pinned; run `make lock`" in copies.problem("check")


def test_build_requirement_missing_from_the_lock(copies: Copies) -> None:
    copies.edit(copies.project, lambda text: text.replace('"setuptools>=77"', '"hatchling"'))
    digest_refreshed(copies)
    assert "'hatchling' of pyproject.toml is not pinned" in copies.problem("check")


def test_pin_that_pyproject_does_not_allow(copies: Copies) -> None:
    copies.edit(copies.lock, lambda text: re.sub(r"- pydantic==\S+", "- pydantic==2.9.2", text))
    problem = copies.problem("check")
    assert "pydantic is pinned at 2.9.2, pyproject.toml allows 'pydantic>=2.10'" in problem


def test_requirements_changed_since_the_lock_was_made(copies: Copies) -> None:
    copies.edit(copies.project, lambda text: text.replace('"numpy",', '"numpy>=1",'))
    problem = copies.problem("check")
    assert "was made from other requirements" in problem
    assert problem.endswith("run `make lock`")


def test_comments_and_tool_settings_need_no_new_lock(copies: Copies) -> None:
    copies.edit(copies.project, lambda text: text.replace("line-length = 100", "line-length = 99"))
    copies.edit(copies.project, lambda text: "# A comment.\n" + text)
    assert copies.run("check").returncode == 0


def test_every_problem_has_its_line(copies: Copies) -> None:
    copies.edit(copies.project, lambda text: text.replace('"numpy",', '"numpy<1", "absent",'))
    result = copies.run("check")
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 3


def test_installed_version_other_than_the_pin(copies: Copies) -> None:
    copies.edit(copies.lock, lambda text: re.sub(r"- tqdm==\S+", "- tqdm==0.0.1", text))
    problem = copies.problem("check", "--installed")
    assert re.fullmatch(
        r"tqdm: \S+ is installed, the lock has 0\.0\.1; run `make environment`", problem
    )


def test_installed_package_that_the_lock_lacks(copies: Copies) -> None:
    copies.edit(copies.lock, lambda text: re.sub(r"    - tqdm==.*\n", "", text))
    problem = copies.problem("check", "--installed")
    assert re.fullmatch(
        r"tqdm: \S+ is installed, the lock doesn't have it; run `make environment`", problem
    )


def test_locked_package_that_is_not_installed(copies: Copies) -> None:
    line = f"    - not-installed==1.0 --hash=sha256:{'0' * 64}\n"
    copies.edit(copies.lock, lambda text: text + line)
    problem = copies.problem("check", "--installed")
    assert problem == "not-installed: not installed, the lock has 1.0; run `make environment`"


def test_locked_package_for_another_platform_need_not_be_installed(copies: Copies) -> None:
    line = f"    - elsewhere==1.0 ; sys_platform == 'win32' --hash=sha256:{'0' * 64}\n"
    copies.edit(copies.lock, lambda text: text + line)
    assert copies.run("check", "--installed").returncode == 0


@pytest.mark.parametrize("name", ["lock", "project"])
def test_missing_file_is_named(copies: Copies, name: str) -> None:
    path: Path = getattr(copies, name)
    path.unlink()
    assert copies.problem("check").startswith(f"can't read {path}: No such file")


def test_lock_without_a_pip_list(copies: Copies) -> None:
    copies.lock.write_text("name: hamjepa-audit\n")
    assert "has no list '- pip:'" in copies.problem("requirements")


def test_invalid_pyproject(copies: Copies) -> None:
    copies.project.write_text("[project\n")
    assert f"{copies.project}: not valid TOML" in copies.problem("check")


def test_making_a_lock_of_the_same_pins_gives_the_same_file(copies: Copies) -> None:
    digest_refreshed(copies)
    assert copies.lock.read_text() == LOCK.read_text()


def test_always_true_conditions_are_left_out_of_a_new_lock(copies: Copies) -> None:
    digest = "0" * 64
    platforms = "(sys_platform == 'darwin' or sys_platform == 'linux')"
    lines = [
        f"b==2 ; python_full_version < '3.12' and sys_platform == 'linux' --hash=sha256:{digest}",
        f"a==1 ; python_full_version < '3.12' and {platforms} --hash=sha256:{digest}",
    ]
    answer = copies.lock.with_name("answer.txt")
    answer.write_text("\n".join(lines).replace(" --hash", " \\\n    --hash") + "\n")
    fake_uv(copies, f'while [ "$1" != --output-file ]; do shift; done; cp "{answer}" "$2"')
    assert copies.run("make", "--uv", str(copies.lock.with_name("uv"))).returncode == 0
    assert pip_lines(copies.lock) == [
        f"a==1 --hash=sha256:{digest}",
        f"b==2 ; sys_platform == 'linux' --hash=sha256:{digest}",
    ]


def test_upgrade_forgets_the_pins(copies: Copies) -> None:
    seen = copies.lock.with_name("seen.txt")
    fake_uv(copies, f'while [ "$1" != --output-file ]; do shift; done; cp "$2" "{seen}"')
    for arguments, expected in [([], pip_lines(LOCK)), (["--upgrade"], [])]:
        copies.run("make", "--uv", str(copies.lock.with_name("uv")), *arguments)
        assert seen.read_text().splitlines() == expected
        copies.lock.write_text(LOCK.read_text())


def test_failing_uv_leaves_the_old_lock(copies: Copies) -> None:
    fake_uv(copies, "exit 1")
    problem = copies.problem("make", "--uv", str(copies.lock.with_name("uv")))
    assert f"uv found no lock for {copies.project}" in problem
    assert copies.lock.read_text() == LOCK.read_text()


def test_missing_uv_is_named(copies: Copies) -> None:
    problem = copies.problem("make", "--uv", "/nowhere/uv")
    assert "can't run uv ('/nowhere/uv')" in problem
    assert "make environment" in problem
