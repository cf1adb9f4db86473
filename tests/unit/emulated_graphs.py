"""CUDA graphs emulated on the CPU: kernels are recorded with their memory, and replayed on it.

As on a GPU, recording computes nothing, a replay repeats the kernels but no host code, every kernel
reads and writes the memory of the recording, and numbers of the host are those of the recording.
What CUDA refuses is an error: recording on the default stream, random numbers without a registered
generator, and reading a number.

Kernels are PyTorch's operations below autograd, whose backward pass a CPU computes in this thread.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hamjepa_audit import adamw, cuda_graphs
from hamjepa_audit.benchmark import timing
from hamjepa_audit.training import loop

WAITING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
RUBBISH = 255
"""In each byte of memory that a graph writes only when it is replayed: NaN, or -1."""


class Stream:
    """A stream on which everything is done at once, and which knows what it need not wait for."""

    def __init__(self, _: object = None) -> None:
        self.waited_for: list[Stream] = []
        self.kernels = 0
        self.done: dict[Stream, int] = {}

    def wait_stream(self, other: "Stream") -> None:
        self.waited_for.append(other)
        for stream, kernels in (*other.done.items(), (other, other.kernels)):
            self.done[stream] = max(kernels, self.done.get(stream, 0))


class Graph:
    """In place of torch.cuda.CUDAGraph."""

    def __init__(self) -> None:
        self.kernels: list[Callable[[], None]] = []
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        with torch.no_grad():
            for kernel in self.kernels:
                kernel()


class Recorder(TorchDispatchMode):
    """Records operations; at the end, memory from before is as it was, and the graph's is rubbish.

    Meanwhile the operations are computed, because PyTorch needs their results' shapes.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.own: dict[int, UntypedStorage] = {}
        self.before: dict[int, tuple[UntypedStorage, UntypedStorage]] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        refuse(function, args)
        given = {
            memory._cdata: memory
            for tensor in tensors_in((args, kwargs))
            for memory in (tensor.untyped_storage(),)
        }
        for key, memory in given.items():
            if key not in self.own and key not in self.before:
                self.before[key] = (memory, memory.clone())
        result = function(*args, **kwargs)
        made = [x for x in tensors_in(result) if x.untyped_storage()._cdata not in given]
        self.own |= {x.untyped_storage()._cdata: x.untyped_storage() for x in made}
        if made or function._schema.is_mutable:  # else a view, for which nothing is computed
            self.graph.kernels.append(kernel(function, args, kwargs, result))
        return result

    def finish(self) -> None:
        for memory, content in self.before.values():
            memory.copy_(content)
        for memory in self.own.values():
            memory.fill_(RUBBISH)


class Races(TorchDispatchMode):
    """Raises where a stream uses what another one may not have written yet.

    On a GPU, PyTorch itself makes the streams of a backward pass's functions wait for each other.
    Here all of them run on one, but for what they start on others themselves.
    """

    def __init__(self, emulation: "Emulation") -> None:
        super().__init__()
        self.emulation = emulation
        self.writes: dict[int, tuple[UntypedStorage, Stream, int]] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        stream = self.emulation.current
        used = [tensor.untyped_storage() for tensor in tensors_in((args, kwargs))]
        for memory in used:
            _, writer, kernels = self.writes.get(memory._cdata, (memory, stream, 0))
            if writer is not stream and stream.done.get(writer, 0) < kernels:
                raise RuntimeError(f"{function} uses what another stream may not have written yet")
        result = function(*args, **(kwargs or {}))
        stream.kernels += 1
        known = {memory._cdata for memory in used}
        written = [tensor.untyped_storage() for tensor in tensors_in(result)]
        for memory in written:
            if function._schema.is_mutable or memory._cdata not in known:
                # Kept alive, so that no other memory gets its address.
                self.writes[memory._cdata] = (memory, stream, stream.kernels)
        return result


def tensors_in(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def refuse(function: Any, args: Any) -> None:
    """Raises for what can't be recorded."""
    waits = bool(WAITING & set(function.tags))
    if function is torch.ops.aten.index.Tensor:
        waits = any(index.dtype is torch.bool for index in tensors_in(args[1]))
    if waits:
        raise RuntimeError(f"{function} waits for the GPU, which is recorded")
    if torch.Tag.nondeterministic_seeded in function.tags:
        raise RuntimeError(f"{function} draws random numbers, which would be the same each time")


def kernel(function: Any, args: Any, kwargs: Any, result: Any) -> Callable[[], None]:
    """An operation on the memory of its arguments, with its results in their memory."""

    def run() -> None:
        again = function(*args, **kwargs)
        for kept, new in zip(tensors_in(result), tensors_in(again), strict=True):
            if kept is not new:  # of an operation in place, the result is its argument
                kept.copy_(new)

    return run


class Emulation:
    """The emulated GPU: its current stream, and the graphs recorded so far."""

    def __init__(self) -> None:
        self.default = self.current = Stream()
        self.graphs: list[Graph] = []

    @contextlib.contextmanager
    def stream(self, chosen: Stream) -> Iterator[None]:
        """In place of torch.cuda.stream."""
        before, self.current = self.current, chosen
        try:
            yield
        finally:
            self.current = before

    @contextlib.contextmanager
    def graph(self, graph: Graph, stream: Stream) -> Iterator[None]:
        """In place of torch.cuda.graph."""
        if stream is self.default:
            raise RuntimeError("the default stream can't be recorded")
        self.graphs.append(graph)
        recorder = Recorder(graph)
        with recorder:
            yield
        recorder.finish()


@contextlib.contextmanager
def emulated_graphs() -> Iterator[Emulation]:
    """Within the block, what would be recorded on a GPU is recorded on the CPU."""
    emulation = Emulation()
    cuda_graphs._side_stream.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        for module in (cuda_graphs, loop, adamw, timing):
            patch.setattr(module, "can_record", lambda _: True)
        patch.setattr(torch.cuda, "CUDAGraph", Graph)
        patch.setattr(torch.cuda, "Stream", Stream)
        patch.setattr(torch.cuda, "current_stream", lambda *_: emulation.current)
        patch.setattr(torch.cuda, "stream", emulation.stream)
        patch.setattr(torch.cuda, "graph", emulation.graph)
        yield emulation
    cuda_graphs._side_stream.cache_clear()
