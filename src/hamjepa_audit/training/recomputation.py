"""Selective activation checkpointing (Chen et al. 2016, arXiv 1604.06174) to save memory.

For the backward pass, a part of the encoder keeps only its input and the outputs of its large
convolutions. Everything else is cheap and is recomputed in the backward pass. No number changes.

torch.utils.checkpoint can do the same, but imports the compiler, which costs 160 MB and a second.
"""

import contextlib
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.graph import get_gradient_edge
from torch.utils._python_dispatch import TorchDispatchMode

from hamjepa_audit.first_derivatives import refuse_second_derivative
from hamjepa_audit.models.encoder import TokenEncoder
from hamjepa_audit.params.studies import RunParams

LARGE_FAN_IN = 512
"""Smallest fan-in of convolutions whose outputs are kept: 3x3 with 57 input channels or more.

Stems and shortcuts are below it at the paper's width.
"""


LARGE_ACTIVATION = 2**27
"""Size in bytes of a stage 1 activation from which a CPU recomputes; the paper's are twice that."""


def recompute_large_activations(encoder: TokenEncoder, run: RunParams, images: int) -> None:
    """Makes an encoder on a CPU recompute activations if they would take gigabytes.

    A GPU has the memory for them, and recomputation would cost kernel launches.

    Args:
        encoder: on the device that it is trained on, by this process alone.
        run: the run's parameters.
        images: number of images encoded at once, counting all views.
    """
    side = run.views.size // (4 if run.encoder.stem == "imagenet" else 1)
    activation = 4 * images * run.encoder.width * side**2
    on_cpu = next(encoder.parameters()).device.type == "cpu"
    if on_cpu and activation >= LARGE_ACTIVATION:
        recompute_activations([encoder.stem])
        for stage in (encoder.layer1, encoder.layer2, encoder.layer3):
            # Nested: the recomputation of a stage goes block by block.
            recompute_activations([*stage, stage])


def recompute_activations(parts: Iterable[nn.Module]) -> None:
    """Makes modules keep only their input and large convolutions for the backward pass.

    Their buffers are updated once per forward pass, as usual. Outputs can't be differentiated
    twice.

    Args:
        parts: modules that map one tensor to one tensor and draw no random numbers; a submodule
            must come before the module that contains it.
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
    """A module whose backward pass repeats its forward pass, except the large convolutions."""

    @staticmethod
    def forward(ctx: Any, part: nn.Module, forward: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.part, ctx.forward = part, forward
        ctx.save_for_backward(x, *parameters)
        with _LargeConvolutions() as ctx.convolutions:
            output: Tensor = forward(x)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("a module with recomputed activations")
        x, *parameters = ctx.saved_tensors
        inputs = [x.detach().requires_grad_(ctx.needs_input_grad[2]), *parameters]
        with torch.enable_grad(), _buffers_kept(ctx.part), ctx.convolutions:
            # Keeps only the edge, so that the output's memory is freed.
            output = get_gradient_edge(ctx.forward(inputs[0]))
        wanted = [tensor for tensor in inputs if tensor.requires_grad]
        found = iter(torch.autograd.grad(output, wanted, gradient))
        return None, None, *(next(found) if tensor.requires_grad else None for tensor in inputs)


class _LargeConvolutions(TorchDispatchMode):
    """Keeps the outputs of large convolutions; entered again, replays them in the same order."""

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
    """Lets a module work on copies of its buffers, so that BatchNorm counts each batch once."""
    kept = [(m, name, b) for m in part.modules() for name, b in m.named_buffers(recurse=False)]
    for module, name, buffer in kept:
        setattr(module, name, buffer.clone())
    try:
        yield
    finally:
        for module, name, buffer in kept:
            setattr(module, name, buffer)
