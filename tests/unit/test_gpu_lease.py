"""Leases of GPUs. The tests need no GPU, because GPUs are only names here."""

import contextlib
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hamjepa_audit import gpu_lease
from hamjepa_audit.errors import UserError
from hamjepa_audit.gpu_lease import leased_gpus
from hamjepa_audit.machine import gpu_count, visible_gpus
from hamjepa_audit.training import device, distributed
from hamjepa_audit.training.device import leased_device
from tests.tiny import audit

HOLDER = """
import sys
from pathlib import Path
from hamjepa_audit.gpu_lease import leased_gpus
with leased_gpus(sys.argv[4:], int(sys.argv[2]), Path(sys.argv[1]), int(sys.argv[3])) as gpus:
    print(*gpus, flush=True)
    sys.stdin.read()
"""
pytestmark = pytest.mark.timeout(60)
MIG = "MIG-GPU-5c7c0b2e/1/0"


class Holder:
    """A process that leases GPUs, and keeps them until it is told to end or killed."""

    def __init__(self, folder: Path, runs_per_gpu: int, *gpus: str, count: int = 1) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(folder), str(runs_per_gpu), str(count), *gpus],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def gpu(self) -> str:
        """The leased GPU or GPUs; waits until they are leased."""
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def waits(self, for_: str = "a GPU: ") -> bool:
        """Whether it reports that it waits; blocks until its first message."""
        assert self.process.stderr
        return self.process.stderr.readline().startswith(f"waiting for {for_}")

    def end(self) -> None:
        self.process.communicate()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Short polling interval, leases in the test's folder, and no Slurm job."""
    monkeypatch.setattr(gpu_lease, "POLL_SECONDS", 0.05)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


@contextlib.contextmanager
def held(count: int, runs_per_gpu: int, folder: Path, *gpus: str) -> Iterator[list[str]]:
    """Takes `count` leases one after another; yields their GPUs."""
    with contextlib.ExitStack() as stack:
        leases = [leased_gpus(gpus, runs_per_gpu, folder) for _ in range(count)]
        yield [gpu for lease in leases for gpu in stack.enter_context(lease)]


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("0,2", ["0", "2"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1, -1, 3", ["1"]),
        ("1,1", ["1"]),
        (f"GPU-8932f937,{MIG}", ["GPU-8932f937", MIG]),
    ],
)
def test_a_preset_selection_is_respected(
    monkeypatch: pytest.MonkeyPatch, preset: str, expected: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", preset)
    assert visible_gpus() == expected and gpu_count() == len(expected)


def test_without_a_selection_all_gpus_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(Path, "glob", lambda *_: [Path("/dev/nvidia0"), Path("/dev/nvidia7")])
    assert visible_gpus() == ["0", "1"]


def test_processes_that_start_together_get_a_gpu_each(tmp_path: Path) -> None:
    gpus = ("0", "GPU-8932f937", MIG)
    holders = [Holder(tmp_path, 1, *gpus) for _ in gpus]
    assert {holder.gpu() for holder in holders} == set(gpus)
    for holder in holders:
        holder.end()


@pytest.mark.faults
def test_one_too_many_waits_and_a_killed_process_keeps_nothing(tmp_path: Path) -> None:
    first, second = Holder(tmp_path, 1, "0", "1"), Holder(tmp_path, 1, "0", "1")
    killed = first.gpu()
    assert {killed, second.gpu()} == {"0", "1"}
    third = Holder(tmp_path, 1, "0", "1")
    assert third.waits()
    first.kill()
    assert third.gpu() == killed
    third.end()
    second.end()


def test_gpus_fill_up_evenly(tmp_path: Path) -> None:
    with held(6, 3, tmp_path, "0", "1") as gpus:
        assert gpus == ["0", "1", "0", "1", "0", "1"]


def test_the_emptier_gpu_is_taken_whichever_places_are_left(tmp_path: Path) -> None:
    with contextlib.ExitStack() as first, contextlib.ExitStack() as others:
        assert first.enter_context(leased_gpus(["0", "1"], 2, tmp_path)) == ["0"]
        others.enter_context(held(1, 2, tmp_path, "0"))
        first.close()
        # GPU 0 has its first place free and its second taken; GPU 1 has both.
        assert others.enter_context(leased_gpus(["0", "1"], 2, tmp_path)) == ["1"]


def test_who_shares_with_nobody_waits_for_an_empty_gpu(tmp_path: Path) -> None:
    with held(1, 2, tmp_path, "0"):
        alone = Holder(tmp_path, 1, "0")
        assert alone.waits()
    assert alone.gpu() == "0"
    alone.end()


def test_jobs_of_several_gpus_that_start_together_do_not_wait_for_each_other(
    tmp_path: Path,
) -> None:
    """All want both GPUs: one gets both at a time, and the others get none until then."""
    holders = [Holder(tmp_path, 1, "0", "1", count=2) for _ in range(4)]
    for _ in range(len(holders)):
        ready, *_ = select.select([holder.process.stdout for holder in holders], [], [])
        (first,) = (holder for holder in holders if holder.process.stdout in ready)
        assert first.gpu() == "0 1"
        first.end()
        holders.remove(first)


def test_who_waits_for_several_gpus_holds_none(tmp_path: Path) -> None:
    with held(1, 1, tmp_path, "0"):
        several = Holder(tmp_path, 1, "0", "1", count=2)
        assert several.waits(for_="2 GPUs of 0, 1 on which nothing runs")
        with held(1, 1, tmp_path, "0", "1") as gpus:
            assert gpus == ["1"]
    assert several.gpu() == "0 1"
    several.end()


def test_a_job_of_several_gpus_shares_none_of_them(tmp_path: Path) -> None:
    with (
        held(1, 2, tmp_path, "0"),
        leased_gpus(["0", "1", "2"], 2, tmp_path, count=2) as several,
        held(1, 2, tmp_path, "0", "1", "2") as one,
    ):
        assert several == ["1", "2"] and one == ["0"]
        another = Holder(tmp_path, 2, "0", "1", "2")
        assert another.waits()
    another.kill()


def test_a_lease_ends_with_its_block_also_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), leased_gpus(["0"], 1, tmp_path):
        raise ZeroDivisionError
    with leased_gpus(["0"], 1, tmp_path) as gpus:
        assert gpus == ["0"]


def test_gpus_of_different_slurm_jobs_are_different(monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.ExitStack() as stack:
        for job in ("17", "18"):
            monkeypatch.setenv("SLURM_JOB_ID", job)
            assert stack.enter_context(leased_gpus(["0", "1"], 1)) == ["0"]
        assert stack.enter_context(leased_gpus(["0", "1"], 1)) == ["1"]


def test_the_only_gpu_of_a_slurm_job_needs_no_lease(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    with leased_gpus([MIG], 1) as gpus:
        assert gpus == [MIG]
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / f"hamjepa-audit-gpus-{os.getuid()}").write_text("in the way")
    with pytest.raises(UserError, match="the folder of GPU leases: File exists"):  # noqa: SIM117
        with leased_gpus(["0"], 1):
            pass


@pytest.mark.parametrize("name", ["choosing.lock", "1.0.lock"])
def test_a_lock_that_cannot_be_written_is_one_clear_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(UserError) as caught, leased_gpus(["0", "1"], 1, tmp_path):
        pass
    told = f"can't write {tmp_path / name}, a lock of GPU leases: Is a directory"
    assert str(caught.value).startswith(told)
    (tmp_path / name).rmdir()
    with leased_gpus(["0", "1"], 1, tmp_path, count=2) as gpus:  # no lease is left
        assert gpus == ["0", "1"]


@pytest.mark.parametrize("preset", ["0,1", None])
def test_pytorch_sees_the_leased_gpu_alone(
    monkeypatch: pytest.MonkeyPatch, preset: str | None
) -> None:
    monkeypatch.setattr(device, "visible_gpus", lambda: ["0", "1"])
    if preset is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", preset)
    seen = []
    monkeypatch.setattr(
        device, "choose_device", lambda name: seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
    )
    with leased_device("auto"), leased_device("auto"):
        assert seen == ["0", "1"]
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == preset


@pytest.mark.parametrize(("name", "preset"), [("cpu", "0"), ("auto", ""), ("cpu", "")])
def test_no_gpu_is_leased_where_none_is_asked_for_or_allowed(
    monkeypatch: pytest.MonkeyPatch, name: str, preset: str, tmp_path: Path
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", preset)
    with leased_device(name) as where:  # type: ignore[arg-type]
        assert where.type == "cpu" and os.environ["CUDA_VISIBLE_DEVICES"] == preset
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command", ["pretrain", "extract", "knn", "probe", "trajectory", "dynamics"]
)
def test_every_step_that_computes_on_a_gpu_leases_one(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    params_folder: Path,
    command: str,
) -> None:
    def refuse(name: str, runs_per_gpu: int) -> None:
        raise UserError(f"asked for {name}, {runs_per_gpu} runs each")

    for module in (device, distributed):
        monkeypatch.setattr(module, "leased_device", refuse)
    monkeypatch.setattr("hamjepa_audit.plans.study.data_digest", lambda *_: 64 * "0")
    monkeypatch.setattr("hamjepa_audit.plans.study.Batch.require", lambda *_: None)
    run = ["--study", "digits", "--arm", "hamjepa", "--epochs", "12", "--threads", "1"]
    status, stderr = audit(
        monkeypatch, capsys, "--params", str(params_folder), command, *run,
        *(["--seed", "0"] if command == "pretrain" else []), "--device", "cuda",
        "--runs-per-gpu", "3",
    )  # fmt: skip
    assert status == 2 and "asked for cuda, 3 runs each" in stderr


def test_nothing_is_leased_for_what_can_not_be_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], params_folder: Path
) -> None:
    def refuse(name: str, runs_per_gpu: int) -> None:
        raise UserError("leased")

    monkeypatch.setattr(device, "leased_device", refuse)
    monkeypatch.setattr("hamjepa_audit.plans.study.data_digest", lambda *_: 64 * "0")
    for command, told in (("dynamics", "no predictor"), ("trajectory", "keeps no checkpoints")):
        run = [command, "--study", "digits", "--arm", "sigreg", "--epochs", "12"]
        status, stderr = audit(monkeypatch, capsys, "--params", str(params_folder), *run)
        assert status == 2 and told in stderr
