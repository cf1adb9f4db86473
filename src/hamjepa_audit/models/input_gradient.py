"""The gradient of an MLP with respect to its input, and its derivatives, in closed form.

With h_0 = x, z_l = W_l h_(l-1) + b_l and h_l = gelu(z_l) for the hidden layers 1 to L of an MLP f
with exact GELU, and w the weights of its one output: df/dx = u_1 W_1, where u_l = t_l gelu'(z_l),
t_L = w and t_(l-1) = u_l W_l. The chain rule through these formulas is written out, which takes
several times fewer passes over memory than autograd, and can't be differentiated again.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hamjepa_audit.device_constants import device_constant
from hamjepa_audit.first_derivatives import refuse_second_derivative


class GradientEvaluations:
    """The values in the formulas at several inputs, in turn: (inputs, N, width) each, by layer.

    What does not depend on the order of the inputs is computed for all of them at once, because a
    GPU takes as long for a small operation as for a larger one.
    """

    def __init__(self, x: Tensor, weights: Sequence[Tensor]) -> None:
        """Allocates memory.

        Args:
            x: (inputs, N, d); each is read when its turn comes.
            weights: W_1 to W_L.
        """

        def memory(layers: int) -> list[Tensor]:
            return [x.new_empty(*x.shape[:2], len(weight)) for weight in weights[:layers]]

        count = len(weights)
        self.h = [x, *memory(count - 1)]
        self.z, self.slopes, self.u = memory(count), memory(count), memory(count)
        self.t = memory(count - 1)

    def forward(self, turn: int, output: Tensor, hidden: Sequence[Tensor]) -> Tensor:
        """u_1 (N, width) of an input; the gradient is u_1 W_1. It is kept, so scale it in place.

        Args:
            turn: index of the input.
            output: w, (1, width of layer L); its bias does not affect the gradient.
            hidden: W_1, b_1, W_2, b_2, ..., shaped as in torch.nn.Linear.
        """
        h, z, slopes, u, t = (
            [tensor[turn] for tensor in part]
            for part in (self.h, self.z, self.slopes, self.u, self.t)
        )
        weights, biases = hidden[0::2], hidden[1::2]
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            torch.addmm(bias, h[layer], weight.T, out=z[layer])
            gelu_slope(z[layer], out=slopes[layer])
            if layer + 1 < len(z):
                torch.ops.aten.gelu.out(z[layer], out=h[layer + 1])
        torch.mul(output, slopes[-1], out=u[-1])
        for layer in range(len(z) - 1, 0, -1):
            torch.mm(u[layer], weights[layer], out=t[layer - 1])
            torch.mul(t[layer - 1], slopes[layer - 1], out=u[layer - 1])
        return u[0]

    def tensors(self) -> list[Tensor]:
        """What the backward pass needs, for `save_for_backward`."""
        return [*self.h, *self.z, *self.slopes, *self.u, *self.t]


class GradientCotangents:
    """The chain rule back through evaluations, in any order."""

    def __init__(self, saved: Sequence[Tensor], output: Tensor, weights: Sequence[Tensor]) -> None:
        """Allocates memory, and computes t_l gelu''(z_l) of all inputs.

        Args:
            saved: GradientEvaluations.tensors.
            output: w.
            weights: W_1 to W_L.
        """
        count = len(weights)
        self.weights = weights
        self.h, z, self.slopes, self.u, t = (saved[i * count :][:count] for i in range(5))
        self.bends = [gelu_curvature(a).mul_(b) for a, b in zip(z, [*t, output], strict=True)]
        self.of_z, self.of_t = ([torch.empty_like(x) for x in z] for _ in range(2))

    def backward(self, turn: int, of_u: Tensor) -> Tensor:
        """The cotangent of z_1; through it, x has the cotangent (of z_1) W_1.

        Args:
            turn: index of the input.
            of_u: cotangent of u_1 before it was scaled, (N, width).
        """
        of_z, of_t, slopes = (
            [tensor[turn] for tensor in part] for part in (self.of_z, self.of_t, self.slopes)
        )
        for layer, bend in enumerate(self.bends):
            if layer:
                of_u = of_t[layer - 1] @ self.weights[layer].T
            torch.mul(bend[turn], of_u, out=of_z[layer])
            torch.mul(of_u, slopes[layer], out=of_t[layer])
        for layer in range(len(of_z) - 1, 0, -1):
            of_z[layer - 1].addcmul_(of_z[layer] @ self.weights[layer], slopes[layer - 1])
        return of_z[0]

    def of_parameters(self, of_gradient: Tensor) -> list[Tensor]:
        """Gradients of w, W_1, b_1, W_2, b_2, ..., summed over the inputs.

        W_l occurs in z_l = W_l h_(l-1) + b_l and in u_l W_l, whose cotangent is that of t_(l-1).

        Args:
            of_gradient: (inputs, N, d), cotangents of u_1 W_1 with u_1 as it was scaled.
        """
        gradients = [self.of_t[-1].sum(dim=(0, 1)).unsqueeze(0)]
        factors = (self.u, [of_gradient, *self.of_t[:-1]], self.of_z, self.h)
        for parts in zip(*factors, strict=True):
            u, of_t, of_z, h = (part.flatten(0, 1) for part in parts)
            gradients += [torch.addmm(u.T @ of_t, of_z.T, h), of_z.sum(dim=0)]
        return gradients


class InputGradient(torch.autograd.Function):
    """stiffness * x + scale * df/dx."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        stiffness: float,
        scale: float | Tensor,
        output: Tensor,
        *hidden: Tensor,
    ) -> Tensor:
        """(N, d) -> (N, d).

        Args:
            ctx: keeps what `backward` needs.
            x: (N, d).
            stiffness: factor of x.
            scale: factor of the gradient; a scalar tensor if it changes between replays.
            output: see GradientEvaluations.forward, as for `hidden`.
            hidden: the hidden layers.
        """
        evaluations = GradientEvaluations(x.unsqueeze(0), hidden[0::2])
        u = evaluations.forward(0, output, hidden).mul_(scale)
        ctx.save_for_backward(output, *hidden, *evaluations.tensors())
        ctx.layers, ctx.stiffness, ctx.scale = len(hidden) // 2, stiffness, scale
        return torch.addmm(x, u, hidden[0], beta=stiffness)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        """Vector-Jacobian products of the cotangent (N, d) for x, w, and all W_l and b_l.

        Raises:
            RuntimeError: second derivatives are requested (create_graph=True).
        """
        refuse_second_derivative("InputGradient")
        output, *others = ctx.saved_tensors
        weights, saved = others[: 2 * ctx.layers : 2], others[2 * ctx.layers :]
        cotangents = GradientCotangents(saved, output, weights)
        of_z = cotangents.backward(0, (cotangent @ weights[0].T).mul_(ctx.scale))
        of_x = torch.addmm(cotangent, of_z, weights[0], beta=ctx.stiffness)
        if not any(ctx.needs_input_grad[3:]):
            return (of_x, *[None] * (3 + 2 * ctx.layers))
        return (of_x, None, None, *cotangents.of_parameters(cotangent.unsqueeze(0)))


def gelu_slope(z: Tensor, out: Tensor) -> Tensor:
    """Derivative of gelu(z) = z Phi(z): Phi(z) + z phi(z), in one pass into `out`."""
    one = device_constant((1.0,), z.device, z.dtype).expand_as(z)
    result: Tensor = torch.ops.aten.gelu_backward.grad_input(one, z, grad_input=out)
    return result


def gelu_curvature(z: Tensor) -> Tensor:
    """Second derivative of gelu(z) = z Phi(z): phi(z) (2 - z^2)."""
    height = 1 / math.sqrt(2 * math.pi)
    square = z.square()
    factor = torch.rsub(square, 2 * height, alpha=height)
    return factor.mul_(square.mul_(-0.5).exp_())
