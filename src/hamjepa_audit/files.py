"""Files that are complete or absent: atomic writes, canonical JSON, digests."""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from hamjepa_audit.errors import UserError, explained
from hamjepa_audit.leftovers import remove_leftovers, temporary_prefix

JSON_SEAL = "sha256"


@contextlib.contextmanager
def atomic_path(target: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yields a temporary path beside `target`, which replaces `target` when the block succeeds.

    Readers never see a partial file under the final name, and nothing is left behind on failure.
    Temporary files that killed processes left behind are deleted first.

    Args:
        target: the final name.
        durable: whether to wait until the bytes are on the disk; if not, a power failure may
            truncate the file, which its readers must be able to detect.

    Raises:
        UserError: the folder can't be created or written to, or the disk is full.
    """
    temporary = target.with_name(temporary_prefix(target) + secrets.token_hex(4))
    try:
        with _writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(target)
            temporary.touch(exist_ok=False)
            yield temporary
            if durable:
                with temporary.open("rb") as written:
                    os.fsync(written.fileno())
            temporary.replace(target)
    finally:
        # If it can't be deleted, it couldn't be created either, which is the error to report.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `target`, which replaces it when the block succeeds.

    Nothing is left behind on failure. An existing folder is deleted just before it is replaced.
    The bytes may not be on the disk yet when this returns.

    Raises:
        UserError: the folder can't be created or moved.
    """
    temporary = target.with_name(temporary_prefix(target) + secrets.token_hex(4))
    try:
        with _writing(target):
            remove_leftovers(target)
            temporary.mkdir(parents=True)
        yield temporary
        with _writing(target):
            if target.exists():
                shutil.rmtree(target)
            temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _writing(target: Path) -> contextlib.AbstractContextManager[None]:
    return explained(f"write {target}", "check the folder's permissions and the free disk space")


def _reading(source: Path) -> contextlib.AbstractContextManager[None]:
    return explained(f"read {source}", "check its permissions and the disk")


def write_bytes(target: Path, content: bytes, *, durable: bool = True) -> None:
    """Writes `content` atomically."""
    with atomic_path(target, durable=durable) as temporary:
        temporary.write_bytes(content)


def write_text(target: Path, content: str, *, durable: bool = True) -> None:
    """Writes UTF-8 text atomically."""
    write_bytes(target, content.encode(), durable=durable)


def write_json(target: Path, content: Any) -> None:
    """Writes indented JSON with sorted keys atomically."""
    write_text(target, _json_text(content))


def _json_text(content: Any) -> str:
    return json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n"


def write_if_changed(target: Path, content: Any) -> Path:
    """Writes JSON unless the file has this content already, so that its mtime is kept.

    Files that depend on it are remade exactly when the content changes, without any metadata of
    the workflow engine.

    Returns:
        `target`.
    """
    if not target.exists() or canonical_json(read_json(target)) != canonical_json(content):
        write_json(target, content)
    return target


def read_json(source: Path) -> Any:
    """Reads JSON.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        with _reading(source):
            if not source.exists():
                raise UserError(f"missing file {source}; run the step that makes it")
            text = source.read_text(encoding="utf-8")
        return json.loads(text, parse_constant=_refuse_constant)
    except ValueError as error:  # of the syntax, the encoding, or a constant
        raise UserError(
            f"{source} is not JSON ({error}); delete it and run its step again"
        ) from error


def _refuse_constant(name: str) -> NoReturn:
    """Refuses NaN and infinities, which Python's reader accepts although JSON lacks them."""
    raise ValueError(f"{name} is not a number in JSON")


def write_sealed_json(target: Path, content: dict[str, Any], *, durable: bool = True) -> None:
    """Writes JSON that carries a digest of itself, atomically."""
    write_text(target, _json_text(content | {JSON_SEAL: digest_of(content)}), durable=durable)


def read_sealed_json(source: Path) -> dict[str, Any]:
    """Reads what `write_sealed_json` wrote, and checks that no byte of it has changed.

    Raises:
        UserError: the file is missing, is not JSON, or has changed.
    """
    content = read_json(source)
    if not isinstance(content, dict) or JSON_SEAL not in content:
        raise UserError(
            f"{source} does not contain its own digest; delete it and run its step again"
        )
    rest = {key: value for key, value in content.items() if key != JSON_SEAL}
    # The text is compared as well: other whitespace gives the same JSON content.
    if content[JSON_SEAL] != digest_of(rest) or source.read_text("utf-8") != _json_text(content):
        raise UserError(
            f"{source} was changed or damaged since it was written: its content does not match "
            f"its digest; fetch it again, or delete it and run its step again"
        )
    return rest


def canonical_json(content: Any) -> str:
    """The canonical text that digests are computed from: sorted keys, no spaces, no NaN."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest_of(content: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of `content`."""
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def sha256_file(source: Path) -> str:
    """SHA-256 (hex) of a file's bytes.

    Raises:
        UserError: the file is missing or can't be read.
    """
    if not source.exists():
        raise UserError(f"missing file {source}; fetch it again, or run the step that makes it")
    with _reading(source), source.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def require_listable(folder: Path, besides: Path | None = None) -> None:
    """Checks that a folder and all below it, links followed, can be listed: `glob` skips others.

    Args:
        folder: the folder, which may be missing.
        besides: a folder below it that may be unreadable.

    Raises:
        UserError: a folder can't be listed.
    """

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # deleted meanwhile
            raise UserError(
                f"can't list {error.filename}: {error.strerror}; check its permissions and the disk"
            ) from error

    # Links are followed, because results may lie on another disk, but no folder is visited twice.
    seen = set() if besides is None else {besides.resolve()}
    for place, names, _ in os.walk(folder, onerror=refuse, followlinks=True):
        targets = {name: Path(place, name).resolve() for name in names}
        names[:] = [name for name in names if targets[name] not in seen]
        seen.update(targets.values())


def require_sha256(path: Path, recorded: str, where: object, remedy: str) -> None:
    """Checks that a file has the SHA-256 (hex) that was recorded for it.

    Args:
        path: the file.
        recorded: its SHA-256.
        where: what says so, for the message.
        remedy: what to do if it is another one, for the message.

    Raises:
        UserError: it can't be read, or was changed or damaged.
    """
    found = sha256_file(path)
    if found != recorded:
        raise UserError(
            f"{path} has the SHA-256 {found}, but {where} says {recorded}: it was changed or "
            f"damaged; {remedy}"
        )
