"""Data-parallel training that computes the same as one process with the whole batch.

Every rank encodes its slice of the batch, with BatchNorm's statistics over all slices. The states
are gathered, and every rank computes the objective of the whole batch: budgets, floors and SIGReg
see the same states as in one process, with the same random directions. In the backward pass, each
rank takes the gradient of its own states, and the ranks' shares of the encoder's gradient are
summed.

Start it with torchrun, one process per device. Without torchrun there is one rank, and none of the
collective operations run.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.autograd import Function
from torch.distributed.rendezvous import rendezvous

from hamjepa_audit.errors import UserError
from hamjepa_audit.gpu_lease import leased_gpus
from hamjepa_audit.machine import DeviceName, gpu_count, visible_gpus
from hamjepa_audit.training.device import choose_device, leased_device, only_gpu
from hamjepa_audit.training.global_batchnorm import global_batchnorm

_Result = TypeVar("_Result")

Store: TypeAlias = Any
"""torch.distributed.Store, which has no type stubs."""

PATIENCE = timedelta(hours=1)
"""How long a rank waits for the others, one of which may be verifying a large store."""

LEASE_PATIENCE = timedelta(days=365)
"""How long a rank waits for GPUs that other runs use: practically forever, like a single run."""


class Ranks:
    """The processes that train together; `rank` of `count` is this one."""

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank = rank
        self.count = count

    def label(self, device: torch.device) -> str:
        """The device and number of processes, for messages."""
        return f"{device}" if self.count == 1 else f"{self.count} processes, this on {device}"

    def described(self) -> dict[str, int]:
        """Entries for the run record: rounding of sums depends on the number of processes."""
        return {} if self.count == 1 else {"processes": self.count}

    @property
    def first(self) -> bool:
        """Whether this rank is the one that writes files and reports progress."""
        return self.rank == 0

    def share(self, samples: Tensor) -> Tensor:
        """This rank's slice (B / count,) of the samples (B,) of a batch.

        Raises:
            UserError: the batch can't be divided evenly.
        """
        if len(samples) % self.count != 0:
            raise UserError(
                f"optimisation.batch_size is {len(samples)}: {self.count} processes can't share it "
                f"evenly; choose another number of GPUs"
            )
        return samples.chunk(self.count)[self.rank]

    def convert(self, encoder: nn.Module) -> None:
        """Replaces each BatchNorm2d of a module by one with statistics over all ranks."""
        if self.count == 1:
            return
        for name, child in encoder.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(encoder, name, global_batchnorm(child))
            else:
                self.convert(child)

    def gather(self, states: Tensor) -> Tensor:
        """States (V, B / count, D) of all ranks as (V, B, D), in the order of the batch."""
        if self.count == 1:
            return states
        gathered: Tensor = _Gather.apply(states, self.rank, self.count)
        return gathered

    def largest(self, value: float) -> float:
        """The largest of the ranks' values."""
        if self.count == 1:
            return value
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return float(max(values))

    def sum_gradients(self, encoder: nn.Module, objective: nn.Module) -> None:
        """Reduces the gradients to those of the whole batch, bit-identical on all ranks.

        The encoder's are summed over the ranks' shares. The objective's are complete on every rank
        already; averaging them only removes differences of rounding between ranks.
        """
        if self.count == 1:
            return
        for parameter in objective.parameters():
            if parameter.grad is not None:
                parameter.grad /= self.count
        parameters = [*encoder.parameters(), *objective.parameters()]
        gradients = [x.grad for x in parameters if x.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        parts = flat.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def from_first(self, work: Callable[[], _Result]) -> _Result:
        """Calls `work` on the first rank only, and returns its result on every rank.

        Raises:
            UserError: `work` raised it on the first rank; then every rank raises it.
        """
        if self.count == 1:
            return work()
        outcome: list[Any] = [None, None]
        if self.first:
            try:
                outcome[0] = work()
            except UserError as error:
                outcome[1] = error
        distributed.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise outcome[1]
        result: _Result = outcome[0]
        return result


ALONE = Ranks()
"""A single process, without torchrun."""


def processes_here(device: DeviceName) -> int:
    """Number of processes that torchrun started on this machine; 1 without torchrun.

    Raises:
        UserError: there are GPUs to compute on, but not one for each process.
    """
    count = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    gpus = 0 if device == "cpu" else gpu_count()
    if 0 < gpus < count:
        raise UserError(
            f"{count} processes train on {gpus} GPUs: each needs one of its own; lower "
            f"--nproc-per-node, or give the job as many GPUs"
        )
    return count


@contextlib.contextmanager
def joined_ranks(name: DeviceName, runs_per_gpu: int) -> Iterator[tuple[Ranks, torch.device]]:
    """Joins the processes that torchrun started; without torchrun, yields ALONE.

    Args:
        name: where to compute, as for `choose_device`; each process has its own GPU.
        runs_per_gpu: processes that may share a GPU if only one process runs on this machine.

    Yields:
        The ranks, and the device of this process; if that is a GPU, the only visible one.

    Raises:
        UserError: there are fewer GPUs than processes, or none although `name` is cuda.
    """
    count = processes_here(name)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        with leased_device(name, runs_per_gpu) as device:
            yield ALONE, device
        return
    store, rank, ranks = next(rendezvous("env://", timeout=PATIENCE))
    with contextlib.ExitStack() as lease:
        if count > 1 and name != "cpu" and gpu_count() > 0:
            lease.enter_context(_leased_together(count, runs_per_gpu, store))
            device = choose_device(name)
        else:
            device = lease.enter_context(leased_device(name, runs_per_gpu))
        if device.type == "cuda":
            device = torch.device("cuda", 0)
            torch.cuda.set_device(device)
        backend = "nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(
            backend, store=store, rank=rank, world_size=ranks, timeout=PATIENCE
        )
        yield Ranks(rank, ranks), device
        distributed.destroy_process_group()


@contextlib.contextmanager
def _leased_together(count: int, runs_per_gpu: int, store: Store) -> Iterator[None]:
    """Makes only this process's GPU visible to CUDA within the block.

    The machine's first process leases all `count` GPUs at once, and tells the others through the
    rendezvous store.
    """
    place, key = int(os.environ["LOCAL_RANK"]), f"gpus of {os.environ.get('GROUP_RANK', '0')}"
    with contextlib.ExitStack() as lease:
        if place == 0:
            gpus = lease.enter_context(leased_gpus(visible_gpus(), runs_per_gpu, count=count))
            store.set(key, ",".join(gpus))
        store.set_timeout(LEASE_PATIENCE)
        own = store.get(key).decode().split(",")[place]
        store.set_timeout(PATIENCE)
        lease.enter_context(only_gpu(own))
        yield


class _Gather(Function):
    """Gathers the states of all ranks; `backward` returns the gradient of this rank's states.

    Every rank computes the same objective of the gathered states, so each has the complete
    gradient of all of them already, and nothing has to be summed.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, rank: int, count: int) -> Tensor:
        ctx.rank, ctx.count = rank, count
        parts = [
            torch.empty_like(states, memory_format=torch.contiguous_format) for _ in range(count)
        ]
        distributed.all_gather(parts, states.contiguous())
        return torch.cat(parts, dim=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient.chunk(ctx.count, dim=1)[ctx.rank].contiguous(), None, None
