"""A training step on fake CUDA tensors: no mixed devices, and no synchronisation with the device.

Fake tensors (torch.compile's) have a device and a shape but no data, so they need no GPU. Reading a
value, as `if`, `float()` or a boolean index do, is an error. Autocast and the backward pass are not
covered, because PyTorch has neither without a GPU.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hamjepa_audit.data.streaming import BatchImages
from hamjepa_audit.data.whole_images import WholeImages
from hamjepa_audit.device_constants import device_constant, device_identity
from hamjepa_audit.model import build_model
from hamjepa_audit.objectives import arms, projected_spectrum
from hamjepa_audit.params import RunParams, load_study, resolve_run
from hamjepa_audit.training.device import autocast, choose_device
from hamjepa_audit.training.loop import Trainer

CUDA = torch.device("cuda:0")
BATCH = 4
CASES = [
    ("cifar100_controls", arm)
    for arm in ("sigreg", "hamjepa", "euler", "volume_preserving", "mlp", "vicreg", "rdmreg")
] + [("imagenet100", "sigreg"), ("imagenet100", "hamjepa")]
WITHOUT_CHECKS = {"aten.linalg_cholesky_ex.default", "aten.linalg_solve_triangular.default"}
"""Decompositions that leave their error codes on the device; others wait for it to read theirs."""


REDRAW = 16
"""A step in which the log-det floors draw new directions."""


class Operations(TorchDispatchMode):
    """Records the device's operations by name, and copies that wait for it.

    A copy to the device does not wait if it comes from page-locked memory and is not blocking.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.waited_for: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if str(function).startswith("aten._to_copy"):
            source, target = args[0].device.type, kwargs.get("device", args[0].device)
            free = kwargs.get("non_blocking") and hasattr(args[0], "page_locked")
            if source != torch.device(target).type and not (source == "cpu" and free):
                self.waited_for.append(f"{tuple(args[0].shape)} from {source} to {target}")
        result = function(*args, **kwargs)
        if any(isinstance(x, Tensor) and x.device.type == "cuda" for x in tree_leaves(result)):
            self.names.add(str(function))
        return result


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes tensors fake, and replaces what doesn't exist without a GPU.

    That is the device's generators, its streams, and page-locked memory.
    """

    def page_locked(tensor: Tensor) -> Tensor:
        copy = tensor.clone()
        copy.page_locked = True  # type: ignore[attr-defined]
        return copy

    def directions(dimension: int, count: int, _: object) -> Tensor:
        return torch.empty(dimension, count, device=CUDA)

    monkeypatch.setattr(Tensor, "pin_memory", page_locked)
    monkeypatch.setattr(arms, "device_generator", lambda *_: None)
    monkeypatch.setattr(arms, "unit_directions", directions)
    for module in (arms, projected_spectrum):
        monkeypatch.setattr(module, "alongside", lambda *_, **__: nullcontext(lambda: None))
    for constant in (device_constant, device_identity):
        constant.cache_clear()
    with FakeTensorMode():
        yield
    for constant in (device_constant, device_identity):
        constant.cache_clear()


def trainer_on_cuda(run: RunParams) -> tuple[Trainer, BatchImages]:
    model = build_model(run)
    for module in (*model.encoder.modules(), *model.objective.modules()):
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(parameter.to(CUDA)))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(CUDA))
    images = images_of(run)
    return Trainer(run, model, images, "fake"), images  # type: ignore[arg-type]


def images_of(run: RunParams) -> BatchImages:
    size = run.data.image_size
    if run.encoder.stem == "cifar":
        return torch.empty(BATCH, 3, size, size, dtype=torch.uint8, device=CUDA)
    sizes = torch.full((BATCH, 2), size, device=CUDA)
    pixels = torch.empty(BATCH * size * size, 3, dtype=torch.uint8, device=CUDA)
    return WholeImages(pixels, torch.arange(BATCH, device=CUDA) * size * size, sizes, size, size)


def losses(run: RunParams) -> tuple[dict[str, Tensor], Operations]:
    """Terms of a later step on fake CUDA tensors; the first step fills caches."""
    small = run.optimisation.model_copy(update={"batch_size": BATCH})
    trainer, images = trainer_on_cuda(run.model_copy(update={"optimisation": small}))
    samples = torch.arange(BATCH, device=CUDA)
    objective = trainer.model.objective
    objective.total(objective.terms(trainer._states(samples, images, 1), 0, 1))
    with Operations() as operations:
        terms = objective.terms(trainer._states(samples, images, 1), REDRAW, 1)
        objective.total(terms)
    return terms, operations


@pytest.mark.usefixtures("fake_cuda")
@pytest.mark.filterwarnings("ignore:CUDA is not available")  # from autocast
@pytest.mark.parametrize(("name", "arm"), CASES)
def test_a_step_stays_on_the_gpu_and_waits_for_nothing(
    params_folder: Path, name: str, arm: str
) -> None:
    study = load_study(params_folder, name)
    run = resolve_run(study, arm, study.epochs[0], 0)
    floor = getattr(run.arm.objective, "logdet_floor", None)
    assert floor is None or REDRAW % floor.redraw_every_steps == 0
    terms, operations = losses(run)
    assert {term.device.type for term in terms.values()} == {"cuda"}
    assert operations.waited_for == []
    assert "aten.convolution.default" in operations.names  # operations were recorded
    waiting = {name for name in operations.names if "linalg" in name or "item" in name}
    assert waiting <= WITHOUT_CHECKS


@pytest.mark.parametrize(("name", "chosen"), [("auto", "cuda"), ("cuda", "cuda"), ("cpu", "cpu")])
def test_a_gpu_is_taken_unless_the_cpu_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, name: Any, chosen: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device(name).type == chosen


@pytest.mark.parametrize(
    ("device", "precision", "enabled"),
    [("cuda", "bf16", True), ("cuda", "fp32", False), ("cpu", "bf16", False)],
)
def test_bf16_is_for_gpus_and_only_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, device: str, precision: Any, enabled: bool
) -> None:
    asked: list[tuple[str, torch.dtype, bool]] = []

    def recorded(kind: str, dtype: torch.dtype, *, enabled: bool) -> nullcontext[None]:
        asked.append((kind, dtype, enabled))
        return nullcontext()

    monkeypatch.setattr(torch, "autocast", recorded)
    with autocast(torch.device(device), precision):
        pass
    assert asked == [(device, torch.bfloat16, enabled)]


@pytest.mark.usefixtures("fake_cuda")
def test_asking_a_fake_gpu_for_a_number_is_seen() -> None:
    with pytest.raises(DataDependentOutputException):
        bool(torch.ones(3, device=CUDA).any())
    with Operations() as operations:
        torch.ones(3).to(CUDA)
        torch.ones(4).to(CUDA, non_blocking=True)
        torch.ones(5).pin_memory().to(CUDA)
        torch.ones(6).pin_memory().to(CUDA, non_blocking=True)
    assert operations.waited_for == [f"({rows},) from cpu to cuda:0" for rows in (3, 4, 5)]
