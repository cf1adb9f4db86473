"""AdamW with PyTorch's fused kernel, without torch.optim's classes.

The first step of any torch.optim optimiser imports PyTorch's compiler. That costs every process a
second, about as long as a small run trains.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from hamjepa_audit.cuda_graphs import can_record


class AdamW:
    """AdamW (Loshchilov and Hutter 2019), bit for bit torch.optim.AdamW(fused=True).

    On a GPU, the one whose learning rates are tensors: rates are float32 there.

    Attributes:
        param_groups: as in torch.optim: `params`, all on one device, their learning rate `lr`,
            which `set_rate` changes, and any other keys that the caller passed.
        state: for each parameter that has had a gradient: `exp_avg` and `exp_avg_sq`, shaped like
            it, and `step`, a float32 scalar; all on its device.
    """

    def __init__(
        self,
        param_groups: Iterable[dict[str, Any]],
        *,
        betas: tuple[float, float],
        weight_decay: float,
        epsilon: float = 1e-8,
    ) -> None:
        self.param_groups = [dict(group) for group in param_groups]
        for group in self.param_groups:
            self._keep_on_gpu(group)
        self.state: dict[Tensor, dict[str, Tensor]] = {}
        self.betas = betas
        self.weight_decay = weight_decay
        self.epsilon = epsilon

    def set_rate(self, group: dict[str, Any], rate: float) -> None:
        """Sets the learning rate of a group, also for steps that are recorded in a CUDA graph."""
        group["lr"] = rate
        if "gpu_lr" in group:
            group["gpu_lr"].fill_(rate)

    def _keep_on_gpu(self, group: dict[str, Any]) -> None:
        """Keeps the rate of a group on its GPU, too, where a recorded step finds each new one."""
        device = group["params"][0].device
        if can_record(device):
            group["gpu_lr"] = torch.full((), group["lr"], device=device)

    def zero_grad(self) -> None:
        """Drops all gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Updates every parameter that has a gradient; the others are unchanged."""
        for group in self.param_groups:
            params = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not params:
                continue
            states = [self._state_of(parameter) for parameter in params]
            steps = [state["step"] for state in states]
            torch._foreach_add_(steps, 1)
            torch._fused_adamw_(
                params,
                [_gradient(parameter) for parameter in params],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],  # the maxima of AMSGrad
                steps,
                lr=group.get("gpu_lr", group["lr"]),
                beta1=self.betas[0],
                beta2=self.betas[1],
                weight_decay=self.weight_decay,
                eps=self.epsilon,
                amsgrad=False,
                maximize=False,
            )

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        if parameter not in self.state:
            self.state[parameter] = {
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
                "step": torch.zeros((), device=parameter.device),
            }
        return self.state[parameter]


def _gradient(parameter: Tensor) -> Tensor:
    """The gradient with the parameter's strides, which the fused kernel relies on.

    They may differ where a dimension has one entry, as in 1x1 convolutions: a GPU refuses that.
    """
    gradient = parameter.grad
    assert gradient is not None
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)
