"""Initial weights, drawn from an explicit generator."""

import math

import torch
from torch import Generator, nn


def initialise(module: nn.Module, generator: Generator) -> None:
    """Draws the weights of every layer of `module`, in the order of its modules.

    Convolutions, including a ResNet's shortcuts: normal with variance 2 / fan_out (He et al. 2015,
    as in torchvision's ResNet). Convolutions marked by `plain_initialisation` and linear layers:
    uniform in +-1/sqrt(fan_in) (PyTorch's default). BatchNorm: weight 1, bias 0.

    Args:
        module: on the CPU, so that the weights don't depend on the device.
        generator: a CPU generator, which is advanced.
    """
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d) and not hasattr(layer, "plain_initialisation"):
                nn.init.kaiming_normal_(
                    layer.weight, mode="fan_out", nonlinearity="relu", generator=generator
                )
            elif isinstance(layer, nn.Conv2d | nn.Linear):
                bound = 1 / math.sqrt(layer.weight[0].numel())
                layer.weight.uniform_(-bound, bound, generator=generator)
                if layer.bias is not None:
                    layer.bias.uniform_(-bound, bound, generator=generator)
            elif isinstance(layer, nn.BatchNorm2d):
                layer.reset_parameters()
