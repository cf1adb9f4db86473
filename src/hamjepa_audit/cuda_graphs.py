"""Repeats work on a GPU as a CUDA graph: its kernels are recorded once and then replayed together.

A training step starts about a thousand small kernels. Started one by one from Python, they take the
host longer than the GPU needs to run them. A replay runs the same kernels: no number changes.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

WARM_UP_CALLS = 3
"""Calls before the recording, in which libraries and optimisers allocate what they keep."""


def can_record(device: torch.device) -> bool:
    """Whether work on a device can be recorded: on GPUs only."""
    return device.type == "cuda"


@contextlib.contextmanager
def recordable(device: torch.device) -> Iterator[None]:
    """Computes the block on a stream of its own on a GPU, because the default can't be recorded."""
    if not can_record(device):
        yield
        return
    with alongside(device, lane=0) as wait:
        yield
    wait()


@contextlib.contextmanager
def alongside(device: torch.device, lane: int = 1) -> Iterator[Callable[[], None]]:
    """Lets a GPU run the block's kernels at the same time as those started after the block.

    Blocks within blocks need different lanes; that of `recordable` is 0. The block may use tensors
    that stay alive until its results are used. Their gradients are computed alongside, too.

    Yields:
        A function to be called before the block's results are used.
    """
    if not can_record(device):
        yield lambda: None
        return
    current, side = torch.cuda.current_stream(device), _side_stream(device, lane)
    side.wait_stream(current)
    with torch.cuda.stream(side):
        yield lambda: current.wait_stream(side)


@functools.cache
def _side_stream(device: torch.device, lane: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


class Recording:
    """Work that is recorded at its first call after the warm-up, and replayed from then on.

    On a CPU it is simply done. Call it within `recordable`. The work must start the same kernels on
    inputs of the same shapes at every call, must not wait for the GPU, and must keep in place what
    it changes, such as weights. Host code in it runs only when it is recorded.
    """

    def __init__(self) -> None:
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._output = torch.empty(0)

    def __call__(self, work: Callable[..., Tensor], inputs: Sequence[Tensor]) -> Tensor:
        """`work(*inputs)`.

        Args:
            work: as described above, the same at every call but for what a replay does not need.
            inputs: all that it depends on and that changes between calls: tensors on one device,
                of the same shapes and dtypes at every call.

        Returns:
            The result; later calls don't change it.
        """
        self._calls += 1
        if self._calls <= WARM_UP_CALLS or not can_record(inputs[0].device):
            return work(*inputs)
        if self._graph is None:
            self._graph = self._recorded(work, inputs)
        for static, given in zip(self._inputs, inputs, strict=True):
            static.copy_(given)
        self._graph.replay()
        return self._output.clone()

    def _recorded(
        self, work: Callable[..., Tensor], inputs: Sequence[Tensor]
    ) -> torch.cuda.CUDAGraph:
        """The graph of the work on copies of the inputs; recording does not run it."""
        self._inputs = [tensor.clone() for tensor in inputs]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            self._output = work(*self._inputs)
        return graph
