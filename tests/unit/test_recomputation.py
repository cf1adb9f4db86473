"""Recomputed activations: the same numbers, less memory, no repeated large convolution."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from hamjepa_audit.models.encoder import TokenEncoder
from hamjepa_audit.params import RunParams, load_study, resolve_run
from hamjepa_audit.params.studies import EncoderParams
from hamjepa_audit.training import recomputation
from hamjepa_audit.training.loop import pretrain
from hamjepa_audit.training.recomputation import LARGE_FAN_IN, recompute_large_activations
from tests.conftest import REPOSITORY
from tests.tiny import EPOCHS, STUDY, copy_params

CPU = torch.device("cpu")
LARGE_CONVOLUTIONS = 12
"""Number in three stages with two blocks of two convolutions."""


class Convolutions(TorchDispatchMode):
    """Counts convolutions by fan-in, and the bytes of large ones' outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[int] = Counter()
        self.large_bytes = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if function is torch.ops.aten.convolution.default:
            fan_in = args[1][0].numel()
            self.count[fan_in] += 1
            self.large_bytes += result.nbytes if fan_in >= LARGE_FAN_IN else 0
        return result

    @property
    def large(self) -> int:
        """Number of large convolutions."""
        return sum(count for fan_in, count in self.count.items() if fan_in >= LARGE_FAN_IN)


def run_of(study: str, **optimisation: int) -> RunParams:
    """A run of HamJEPA."""
    params = load_study(REPOSITORY / "params", study)
    run = resolve_run(params, "hamjepa", params.epochs[0], 0)
    changed = run.optimisation.model_copy(update=optimisation)
    return run.model_copy(update={"optimisation": changed})


def encoder(stem: str) -> TokenEncoder:
    """A new encoder in training mode."""
    params = EncoderParams.model_validate(
        {"stem": stem, "width": 64, "token_channels": 8, "token_grid": None}
    )
    return TokenEncoder(params, "phase_space", torch.Generator().manual_seed(0)).train()


def images_for_training() -> Tensor:
    drawn = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return drawn.requires_grad_()


def recomputing(stem: str, monkeypatch: pytest.MonkeyPatch) -> TokenEncoder:
    """The same encoder with recomputed activations."""
    monkeypatch.setattr(recomputation, "LARGE_ACTIVATION", 0)
    result = encoder(stem)
    recompute_large_activations(result, run_of("cifar100"), images=1)
    return result


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_states_gradients_and_statistics_are_the_same(
    stem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for model in (encoder(stem), recomputing(stem, monkeypatch)):
        images = images_for_training()
        for _ in range(2):  # the first step affects the second one's BatchNorm statistics
            states = model(images)
            states.square().mean().backward()
        gradients = [images.grad, *(parameter.grad for parameter in model.parameters())]
        found.append([states, *gradients, *model.buffers(), model.eval()(images)])
    assert len(found[0]) == len(found[1]) > 60
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_large_convolutions_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    model = recomputing("cifar", monkeypatch)
    with Convolutions() as forward:
        states = model(images_for_training())
    with Convolutions() as backward:
        states.square().mean().backward()
    assert forward.large == LARGE_CONVOLUTIONS
    assert backward.large == 0 and backward.count[27] == 1  # only the stem's is


def test_most_activations_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    for model in (encoder("cifar"), recomputing("cifar", monkeypatch)):
        saved: dict[int, int] = {}

        def note(tensor: Tensor, saved: dict[int, int] = saved) -> Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with Convolutions() as convolutions, saved_tensors_hooks(note, lambda tensor: tensor):
            states = model(images_for_training())
        weights = {parameter.data_ptr() for parameter in model.parameters()}
        kept.append(sum(size for place, size in saved.items() if place not in weights))
        del states
    assert kept[1] + convolutions.large_bytes < 0.65 * kept[0]


def test_without_gradients_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model = recomputing("cifar", monkeypatch)
    with torch.no_grad():
        assert not model(images_for_training()).requires_grad


def test_a_run_is_the_same_to_the_last_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = load_study(copy_params(tmp_path / "params"), STUDY)
    run = resolve_run(study, "hamjepa", EPOCHS, 0)
    images = torch.randint(0, 256, (512, 3, 16, 16), dtype=torch.uint8)
    plain = pretrain(run, images, CPU, "plain")
    monkeypatch.setattr(recomputation, "LARGE_ACTIVATION", 0)
    with Convolutions() as counted:
        again = pretrain(run, images, CPU, "again")
    assert counted.count[27] == 2 * EPOCHS * 2  # the stem's, in forward and backward passes
    assert plain.history == again.history
    for one, other in zip(
        plain.model.encoder.state_dict().values(),
        again.model.encoder.state_dict().values(),
        strict=True,
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("study", "batch_size", "recomputes"),
    [
        ("cifar100", 512, True),
        ("cifar100", 64, False),
        ("digits", 64, False),
        ("imagenet100", 128, True),
        ("imagenet100", 64, False),
    ],
)
def test_only_large_activations_are_recomputed(
    study: str, batch_size: int, recomputes: bool
) -> None:
    run = run_of(study, batch_size=batch_size)
    model = TokenEncoder(run.encoder, "phase_space", torch.Generator().manual_seed(0))
    recompute_large_activations(model, run, images=2 * batch_size)
    assert ("forward" in vars(model.layer1)) is recomputes


def test_on_a_gpu_nothing_is_recomputed() -> None:
    run = run_of("cifar100")
    model = TokenEncoder(run.encoder, "phase_space", torch.Generator().manual_seed(0)).to("meta")
    recompute_large_activations(model, run, images=1024)
    assert "forward" not in vars(model.layer1)
