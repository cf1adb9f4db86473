"""Atomic writing of files and folders, and leftovers of killed processes."""

import errno
import hashlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hamjepa_audit.errors import UserError
from hamjepa_audit.files import (
    atomic_folder,
    atomic_path,
    read_json,
    read_sealed_json,
    require_listable,
    sha256_file,
    write_bytes,
    write_json,
    write_sealed_json,
    write_text,
)

pytestmark = pytest.mark.faults
HOST = "node.cluster"


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> int:
    """Id of a finished process on this host, whose name has a dot."""
    monkeypatch.setattr(socket, "gethostname", lambda: HOST)
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_a_killed_process_left_is_deleted_and_nothing_else(ended: int, tmp_path: Path) -> None:
    """Files of running processes are kept, and those of other hosts, which may be running."""
    for target in (tmp_path / "a[1].json", tmp_path / "folder"):
        names = [f"{HOST}.{os.getpid()}.1a2b", f"elsewhere.{ended}.1a2b", "notes", "json.old.1"]
        kept = [tmp_path / f".{target.name}.{name}" for name in names]
        kept.append(tmp_path / f".b{target.name}.{HOST}.{ended}.1a2b")
        left = [tmp_path / f".{target.name}.{HOST}.{ended}.{name}" for name in ("file", "folder")]
        for path in (*kept, left[0]):
            path.touch()
        (left[1] / "deep").mkdir(parents=True)
        if target.suffix:
            write_text(target, "{}")
        else:
            with atomic_folder(target):
                pass
        assert target.exists() and all(path.exists() for path in kept)
        assert not any(path.exists() for path in left)


def test_what_a_process_of_another_user_is_writing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(process: int, _: int) -> None:
        raise PermissionError(1, "Operation not permitted", str(process))

    monkeypatch.setattr(os, "kill", refuse)
    theirs = tmp_path / f".file.{socket.gethostname()}.1.1a2b"
    theirs.touch()
    write_text(tmp_path / "file", "mine")
    assert theirs.exists()


def test_what_fails_leaves_the_file_as_it_was_and_nothing_beside_it(tmp_path: Path) -> None:
    """It doesn't hide the reason why a folder could not be made, either."""
    target = tmp_path / "file"
    write_text(target, "before")
    with pytest.raises(ZeroDivisionError), atomic_path(target) as temporary:
        temporary.write_text(str(1 / 0))
    with pytest.raises(UserError, match=f"can't write {target / 'below'}: "):
        write_text(target / "below", "a file is in the folder's place")
    assert list(tmp_path.iterdir()) == [target] and target.read_text() == "before"


def test_a_folder_that_is_read_only_is_told_as_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "touch", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(UserError, match=f"can't write {tmp_path / 'file'}: Read-only file system"):
        write_text(tmp_path / "file", "text")


def test_a_file_takes_its_name_once_its_bytes_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless it isn't durable, for callers that can detect a truncated file."""
    target, there = tmp_path / "file", []
    monkeypatch.setattr(os, "fsync", lambda _: there.append(target.exists()))
    write_bytes(target, b"content", durable=False)
    assert there == []
    target.unlink()
    write_bytes(target, b"content")
    assert there == [False] and target.exists()


@pytest.mark.parametrize("failing", ["mkdir", "replace"])
def test_a_folder_that_can_not_be_made_or_moved_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, failing, refuse)
    told = f"can't write {tmp_path / 'folder'}: Permission denied; check the folder's permissions"
    with pytest.raises(UserError, match=told), atomic_folder(tmp_path / "folder"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_digest_of_a_file_is_of_all_its_bytes(tmp_path: Path) -> None:
    path, content = tmp_path / "file", bytes(range(256)) * (1 << 13) + b"end"
    path.write_bytes(content)
    assert sha256_file(path) == hashlib.sha256(content).hexdigest()
    with pytest.raises(UserError, match=r"missing file .*; fetch it again, or run the step"):
        sha256_file(tmp_path / "gone")
    with pytest.raises(UserError, match=f"can't read {tmp_path}: Is a directory"):
        sha256_file(tmp_path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"5", "does not contain its own digest"),
        (b'["sha256"]', "does not contain its own digest"),
        (b'{"a": 1}', "does not contain its own digest"),
        (b'{"a": "\xff"}', "is not JSON"),
        (b'{"a": NaN, "sha256": "0"}', "is not JSON"),
        (b'{"a": -Infinity, "sha256": "0"}', "is not JSON"),
    ],
)
def test_what_was_not_written_as_sealed_json_is_one_clear_line(
    tmp_path: Path, content: bytes, told: str
) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=told):
        read_sealed_json(path)


def test_sealed_json_must_be_the_text_that_was_written(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_sealed_json(path, {"a": 1})
    path.write_text(json.dumps(read_json(path)))
    with pytest.raises(UserError, match="changed or damaged"):
        read_sealed_json(path)


def test_nothing_that_is_no_number_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_all_folders_but_those_of_raw_data_are_listed_also_behind_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_listable(tmp_path / "missing")
    results, other = tmp_path / "results", tmp_path / "other disk"
    for folder in (results, other / "run", results / "raw" / "mine"):
        folder.mkdir(parents=True)
    (results / "runs").symlink_to(other)
    (other / "back").symlink_to(results)
    listed: list[Path] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (listed.append(Path(path)), scandir(path))[1])
    monkeypatch.chdir(results)
    require_listable(results, besides=Path("raw"))
    places = [results, results / "runs", results / "runs/back", results / "runs/run"]
    assert sorted(listed) == places
