"""Compilation of the encoder: only on a GPU with what it needs, and for the same kernels always."""

import importlib.util
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hamjepa_audit.files import read_sealed_json
from hamjepa_audit.model import build_model
from hamjepa_audit.params import load_study, resolve_run
from hamjepa_audit.plans.identity import run_id
from hamjepa_audit.training import compilation, loop
from hamjepa_audit.training.compilation import can_compile, compiled
from tests.tiny import EPOCHS, STUDY, audit, edit

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
PRETRAIN = (
    "pretrain", "--study", STUDY, "--arm", "sigreg", "--epochs", str(EPOCHS), "--seed", "0",
    "--threads", "1", "--device", "cpu",
)  # fmt: skip


def machine_with(
    patch: pytest.MonkeyPatch,
    *programs: str,
    triton: bool = True,
    headers: bool = True,
    capability: tuple[int, int] = (9, 0),
) -> None:
    """A machine with these programs, with or without what else the compiler needs."""
    spec = importlib.util.find_spec("torch") if triton else None
    patch.setattr(importlib.util, "find_spec", lambda name: spec if name == "triton" else None)
    patch.setattr(shutil, "which", lambda name: name if name in programs else None)
    patch.delenv("CC", raising=False)
    patch.setattr(Path, "exists", lambda path: headers and path.name == "Python.h")
    patch.setattr(torch.cuda, "get_device_capability", lambda _: capability)


def test_a_cpu_is_not_compiled_for_and_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for programs in ((), ("gcc",)):
        machine_with(monkeypatch, *programs, triton=bool(programs))
        assert not can_compile(CPU)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_a_gpu_is_compiled_for_with_triton_and_any_c_compiler(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], compiler: str
) -> None:
    machine_with(monkeypatch, compiler)
    assert can_compile(CUDA)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("programs", "there", "said"),
    [
        ((), {}, "a C compiler (gcc, clang or CC)"),
        (("gcc",), {"triton": False}, "Triton (`pip install triton`)"),
        (("gcc",), {"headers": False}, "Python.h)"),
        (("gcc",), {"capability": (6, 1)}, "a GPU of compute capability 7.0"),
        ((), {"triton": False}, "(`pip install triton`), a C compiler (gcc, clang or CC)"),
    ],
)
def test_what_a_gpu_lacks_is_said_and_it_is_not_compiled_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    programs: tuple[str, ...], there: dict[str, Any], said: str,
) -> None:  # fmt: skip
    machine_with(monkeypatch, *programs, **there)
    assert not can_compile(CUDA)
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith("warning: the encoder is not compiled")
    assert f"{said}; install it, or set compile_on_gpu to false" in err


@pytest.mark.parametrize(
    ("named", "there"), [("cc-12", True), ("cc-12 -m64", True), ("gcc", False), ("", True)]
)
def test_the_compiler_that_cc_names_is_the_only_one_looked_for(
    monkeypatch: pytest.MonkeyPatch, named: str, there: bool
) -> None:
    """An empty CC names none."""
    machine_with(monkeypatch, "clang", "cc-12")
    monkeypatch.setenv("CC", named)
    assert can_compile(CUDA) == there


def test_compilation_asks_for_the_same_kernels_in_every_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[dict[str, Any]] = []

    def fake(module: nn.Module, **settings: Any) -> nn.Module:
        asked.append(settings)
        return module

    monkeypatch.setattr(torch, "compile", fake)
    encoder = nn.Linear(2, 2)
    assert compiled(encoder) is encoder
    assert asked == [{"dynamic": False, "options": {"deterministic": True}}]


@pytest.mark.parametrize(
    ("asked", "able", "expected"), [(True, None, False), (True, True, True), (False, True, False)]
)
def test_a_run_is_compiled_where_it_can_be_and_is_to_be_and_its_record_says_so(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    asked: bool, able: bool | None, expected: bool,
) -> None:  # fmt: skip
    """None stands for this machine's CPU, as it is."""
    made: list[nn.Module] = []
    monkeypatch.setattr(loop, "compiled", lambda encoder: made.append(encoder) or encoder)
    if able is not None:
        monkeypatch.setattr(compilation, "can_compile", lambda _: able)
    edit(place / "params/studies" / f"{STUDY}.yaml", "compile_on_gpu", asked)
    assert audit(monkeypatch, capsys, "prepare", "--study", STUDY)[0] == 0
    assert audit(monkeypatch, capsys, *PRETRAIN)[0] == 0
    (record,) = (place / "results").rglob("run.json")
    assert read_sealed_json(record)["determinism"].get("compiled", False) is expected
    assert len(made) == expected


def test_the_time_of_compilation_is_not_that_of_an_epoch(
    params_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It depends on whether another process has compiled the same encoder before."""
    took = 2.0

    def fake(encoder: nn.Module) -> Callable[[Tensor], Tensor]:
        waits = iter([took])

        def encode(views: Tensor) -> Tensor:
            time.sleep(next(waits, 0.0))
            result: Tensor = encoder(views)
            return result

        return encode

    monkeypatch.setattr(loop, "compiled", fake)
    run = resolve_run(load_study(params_folder, "digits"), "sigreg", 12, 0)
    size = run.data.image_size
    images = torch.zeros(2 * run.optimisation.batch_size, 3, size, size, dtype=torch.uint8)
    trainer = loop.Trainer(run, build_model(run), images, "x", compile_encoder=True)
    started = time.monotonic()
    trainer.train(2, [])
    assert time.monotonic() - started > took
    assert 0 < trainer.position.epoch_seconds[0] < took


def test_run_ids_do_not_depend_on_compilation(place: Path) -> None:
    ids = set()
    for asked in (True, False):
        edit(place / "params/studies" / f"{STUDY}.yaml", "compile_on_gpu", asked)
        study = load_study(place / "params", STUDY)
        assert study.compile_on_gpu is asked
        ids.add(run_id(resolve_run(study, "sigreg", EPOCHS, 0), 64 * "0"))
    assert len(ids) == 1
