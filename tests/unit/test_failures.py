"""How a command ends that is interrupted, or loses its memory or its disk."""

import signal
from importlib import import_module
from pathlib import Path

import pytest
import torch

from hamjepa_audit.cli.main import main
from hamjepa_audit.training import session
from tests.tiny import STUDY, audit

MAIN = import_module("hamjepa_audit.cli.main")  # hamjepa_audit.cli.main is the function
PRETRAIN = (
    "pretrain", "--study", STUDY, "--arm", "sigreg", "--epochs", "2", "--seed", "0",
    "--threads", "1",
)  # fmt: skip


@pytest.mark.faults
def test_lost_memory_and_lost_disks_are_one_line_each(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(monkeypatch, capsys, "prepare", "--study", STUDY)[0] == 0

    def exhausting(*_: object) -> torch.Tensor:
        return torch.empty(1 << 50, dtype=torch.uint8)

    def unreadable(*_: object) -> torch.Tensor:
        raise OSError(5, "Input/output error", "data/digits/train_images.npy")

    for broken, expected in (
        (exhausting, "out of memory"),
        (unreadable, "Input/output error data/digits/train_images.npy"),
    ):
        monkeypatch.setattr(session, "training_images", broken)
        status, stderr = audit(monkeypatch, capsys, *PRETRAIN)
        assert status == 1 and stderr.count("\n") == 1
        assert stderr.startswith("error: ") and expected in stderr


@pytest.mark.faults
def test_only_lost_memory_is_called_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lost memory of the machine or of a GPU; other errors of PyTorch are shown unchanged."""

    def failing_with(error: Exception) -> None:
        def fail(**_: object) -> None:
            raise error

        monkeypatch.setattr(MAIN, "app", fail)

    for error, reason in (
        (MemoryError(), "no memory left"),
        (torch.OutOfMemoryError("CUDA out of memory.\nSee above"), "CUDA out of memory."),
    ):
        failing_with(error)
        status, stderr = audit(monkeypatch, capsys)
        assert status == 1 and stderr.startswith(f"error: out of memory ({reason}); lower the")
    failing_with(RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        main()


@pytest.mark.faults
def test_who_is_told_to_end_twice_still_tidies_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tidied = []

    def told_twice(**_: object) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            tidied.append(True)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(MAIN, "app", told_twice)
    try:
        status, stderr = audit(monkeypatch, capsys)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert status == 143 and stderr.startswith("error: terminated (SIGTERM);") and tidied


@pytest.mark.faults
def test_who_interrupts_a_command_is_told_how_to_go_on(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C is reported although Typer handles it itself, without a word."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hamjepa_audit.params.load_study", interrupt)
    command = ("params", "show", "--study", STUDY, "--arm", "sigreg")
    status, stderr = audit(monkeypatch, capsys, *command)
    assert status == 130 and stderr.startswith("error: interrupted; give the same command again")
    assert audit(monkeypatch, capsys, "--debug", *command)[1].startswith("Traceback")
