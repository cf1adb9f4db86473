"""BatchNorm with statistics over the rows of all processes that train together."""

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd import Function


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose statistics in training are over the rows of all ranks.

    PyTorch's SyncBatchNorm does the same, but only on GPUs. All ranks have equally many rows.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W), N this rank's number of rows."""
        if not self.training:
            return super().forward(input)
        mean, variance, count = _global_moments(input)
        self._follow(mean.detach(), variance.detach(), count)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return torch.addcmul(shift[:, None, None], input, scale[:, None, None]).to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Updates the running statistics; their variance is unbiased."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)


def _global_moments(rows: Tensor) -> tuple[Tensor, Tensor, int]:
    """Mean and biased variance (C,) of all ranks' (N, C, H, W), and the number of values.

    Computed in at least float32: bf16, which autocast may give, is too imprecise for a variance.
    """
    ranks = distributed.get_world_size()
    precise = rows.to(torch.promote_types(rows.dtype, torch.float32))
    own_variance, own_mean = torch.var_mean(precise, dim=(0, 2, 3), correction=0)
    mean = _sum_over_ranks(own_mean) / ranks
    variance = _sum_over_ranks(own_variance + (own_mean - mean).square()) / ranks
    return mean, variance, ranks * rows.numel() // rows.shape[1]


def _sum_over_ranks(values: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(values)
    return total


def global_batchnorm(module: nn.BatchNorm2d) -> GlobalBatchNorm2d:
    """A GlobalBatchNorm2d that shares the parameters and statistics of `module`."""
    result = GlobalBatchNorm2d(module.num_features, module.eps, module.momentum)
    result.weight, result.bias = module.weight, module.bias
    for name, buffer in module.named_buffers():
        setattr(result, name, buffer)
    return result.train(module.training)


# torch.distributed.nn.functional.all_reduce does the same, but is deprecated.
class _Sum(Function):
    """The sum of all ranks' tensors; its gradient is the sum of all ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total
