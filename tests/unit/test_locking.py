"""Messages if a lock can't be acquired."""

from pathlib import Path

import pytest

from hamjepa_audit.errors import UserError
from hamjepa_audit.locking import sole_process

pytestmark = [pytest.mark.faults, pytest.mark.timeout(60)]


def refuse(path: Path, *_: object, **__: object) -> None:
    raise OSError(28, "No space left on device", str(path))


def test_a_lock_that_can_not_be_made_or_written_is_one_clear_line_and_is_free_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "run.lock"
    with pytest.raises(UserError, match=f"can't lock {below}: "), sole_process(below, "training"):
        pass
    lock = tmp_path / "run.lock"
    told = f"can't lock {lock}: No space left on device; check the folder's permissions and the"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", refuse)
        with pytest.raises(UserError, match=told), sole_process(lock, "training"):
            pass
    with sole_process(lock, "training"):
        assert lock.read_text().startswith("process ")


def missing(path: Path) -> None:
    raise FileNotFoundError(2, "No such file or directory", str(path))


@pytest.mark.parametrize("gone", [True, False])
def test_a_holder_that_has_not_said_who_it_is_is_another_process(
    tmp_path: Path, gone: bool
) -> None:
    """A holder is unknown for a moment after acquiring a lock, and while it ends."""
    lock = tmp_path / "run.lock"
    with sole_process(lock, "training"):
        lock.write_text("")
        with pytest.MonkeyPatch.context() as patch:
            if gone:
                patch.setattr(Path, "read_text", missing)
            with (
                pytest.raises(UserError, match=r"^training: another process is working on it;"),
                sole_process(lock, "training"),
            ):
                pass
