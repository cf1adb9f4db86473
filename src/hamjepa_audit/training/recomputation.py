"""Selective activation checkpointing (Chen et al. 2016, arXiv 1604.06174): less memory for a step.

A part of the encoder keeps for the backward pass its input and the outputs of its large
convolutions alone. Everything else is cheap, and computed again when the gradient arrives. No
number changes.

torch.utils.checkpoint can do the same, but imports the compiler: 160 MB and a second.
"""

import contextlib
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.autograd.graph import get_gradient_edge
from torch.utils._python_dispatch import TorchDispatchMode

from hamjepa_audit.models.encoder import TokenEncoder
from hamjepa_audit.params.studies import RunParams

LARGE_FAN_IN = 512
"""Of a convolution whose output is kept: 3x3 ones from 57 channels on; no stem, no shortcut."""


LARGE_ACTIVATION = 2**27
"""Bytes of one activation of stage 1 from which on a CPU recomputes; the paper's are twice that."""


def recompute_large_activations(encoder: TokenEncoder, run: RunParams, images: int) -> None:
    """Makes an encoder on a CPU recompute activations where they would take gigabytes.

    On a GPU there is room for them, and what it costs are launches.

    Args:
        encoder: on the device that it is trained on, by this process alone.
        run: its parameters.
        images: that it encodes at once, all views counted.
    """
    side = run.views.size // (4 if run.encoder.stem == "imagenet" else 1)
    activation = 4 * images * run.encoder.width * side**2
    on_cpu = next(encoder.parameters()).device.type == "cpu"
    if on_cpu and activation >= LARGE_ACTIVATION:
        recompute_activations([encoder.stem])
        for stage in (encoder.layer1, encoder.layer2, encoder.layer3):
            # A stage that recomputes all of itself does so block by block.
            recompute_activations([*stage, stage])


def recompute_activations(parts: Iterable[nn.Module]) -> None:
    """Makes modules keep their input and large convolutions alone for the backward pass.

    Args:
        parts: modules from one tensor to one tensor that draw no random numbers; one that is part
            of another comes before it. Their buffers are as they are after one forward pass. What
            they give can't be differentiated twice.
    """
    for part in parts:
        part.forward = partial(_forward, part, part.forward)


def _forward(part: nn.Module, forward: Any, x: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        result: Tensor = forward(x)
        return result
    output: Tensor = _Recomputed.apply(part, forward, x, *part.parameters())
    return output


class _Recomputed(Function):
    """A module whose backward pass repeats its forward pass, but for the large convolutions."""

    @staticmethod
    def forward(ctx: Any, part: nn.Module, forward: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.part, ctx.forward = part, forward
        ctx.save_for_backward(x, *parameters)
        with _LargeConvolutions() as ctx.convolutions:
            output: Tensor = forward(x)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        inputs = [x.detach().requires_grad_(ctx.needs_input_grad[2]), *parameters]
        with torch.enable_grad(), _buffers_kept(ctx.part), ctx.convolutions:
            # The edge alone, not the output: its memory is needed by then.
            output = get_gradient_edge(ctx.forward(inputs[0]))
        wanted = [tensor for tensor in inputs if tensor.requires_grad]
        found = iter(torch.autograd.grad(output, wanted, gradient))
        return None, None, *(next(found) if tensor.requires_grad else None for tensor in inputs)


class _LargeConvolutions(TorchDispatchMode):
    """Keeps the outputs of large convolutions; entered a second time, gives them in that order."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kept: list[Tensor] = []
        self.entered = 0

    def __enter__(self) -> "_LargeConvolutions":
        self.entered += 1
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        is_convolution = function is torch.ops.aten.convolution.default
        if not is_convolution or args[1][0].numel() < LARGE_FAN_IN:
            return function(*args, **(kwargs or {}))
        if self.entered == 1:
            self.kept.append(function(*args, **(kwargs or {})))
            return self.kept[-1]
        return self.kept.pop(0)


@contextlib.contextmanager
def _buffers_kept(part: nn.Module) -> Iterator[None]:
    """Lets a module work on copies of its buffers: BatchNorm's statistics follow a batch once."""
    kept = [(m, name, b) for m in part.modules() for name, b in m.named_buffers(recurse=False)]
    for module, name, buffer in kept:
        setattr(module, name, buffer.clone())
    try:
        yield
    finally:
        for module, name, buffer in kept:
            setattr(module, name, buffer)
