"""For functions whose gradient is written out instead of recorded."""

import torch


def refuse_second_derivative(name: str) -> None:
    """To be called in the backward pass of a function that can't be differentiated twice.

    PyTorch's `once_differentiable` lets some second derivatives pass, which then lack a part.

    Raises:
        RuntimeError: the backward pass is being recorded (create_graph=True).
    """
    if torch.is_grad_enabled():
        raise RuntimeError(f"{name} has no second derivative: leave out create_graph")
