"""The gradient of an MLP with respect to its input, and its derivatives, in closed form."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


class InputGradient(torch.autograd.Function):
    """stiffness * x + scale * df/dx of an MLP f with exact GELU and one output.

    With h_0 = x, z_l = W_l h_(l-1) + b_l and h_l = gelu(z_l) for the hidden layers 1 to L, and w
    the weights of the output: df/dx = u_1 W_1, where u_l = t_l gelu'(z_l), t_L = w and
    t_(l-1) = u_l W_l. `backward` writes out the chain rule through these formulas, with several
    times fewer passes over memory than autograd, and can't be differentiated again.
    """

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
            output: w, (1, width of layer L); its bias does not affect the gradient.
            hidden: W_1, b_1, W_2, b_2, ..., shaped as in torch.nn.Linear.
        """
        weights, biases = hidden[0::2], hidden[1::2]
        h, z = [x], [functional.linear(x, weights[0], biases[0])]
        for weight, bias in zip(weights[1:], biases[1:], strict=True):
            h.append(functional.gelu(z[-1]))
            z.append(functional.linear(h[-1], weight, bias))
        slopes = [gelu_slope(preactivation) for preactivation in z]
        t = [output.expand(len(x), -1)]
        u = [t[0] * slopes[-1]]
        for weight, slope in zip(weights[:0:-1], slopes[-2::-1], strict=True):
            t.insert(0, u[0] @ weight)
            u.insert(0, t[0] * slope)
        ctx.save_for_backward(*h, *z, *slopes, *t, *u, *weights)
        ctx.stiffness, ctx.scale = stiffness, scale
        return torch.addmm(x, scale * u[0], weights[0], beta=stiffness)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        """Vector-Jacobian products of the cotangent (N, d) for x, w, and all W_l and b_l.

        Here r_l are the cotangents of t_l, preceded by r_0, that of df/dx; s_l are those of z_l.

        Raises:
            RuntimeError: second derivatives are requested (create_graph=True).
        """
        if torch.is_grad_enabled():
            raise RuntimeError("InputGradient has no second derivative: leave out create_graph")
        saved = ctx.saved_tensors
        layers = len(saved) // 6
        h, z, slopes, t, u, weights = (saved[i * layers :][:layers] for i in range(6))
        r, s = [ctx.scale * cotangent], []
        for number, weight in enumerate(weights):
            of_u = r[-1] @ weight.T
            s.append(gelu_curvature(z[number]).mul_(t[number]).mul_(of_u))
            r.append(of_u.mul_(slopes[number]))
        for number in range(layers - 1, 0, -1):
            s[number - 1].addcmul_(s[number] @ weights[number], slopes[number - 1])
        of_x = torch.addmm(cotangent, s[0], weights[0], beta=ctx.stiffness)
        if not any(ctx.needs_input_grad[3:]):
            return (of_x, *[None] * (3 + 2 * layers))
        of_hidden = [
            gradient
            for parts in zip(u, r[:-1], s, h, strict=True)
            for gradient in _layer_gradients(*parts)
        ]
        return (of_x, None, None, r[-1].sum(dim=0, keepdim=True), *of_hidden)


def _layer_gradients(u: Tensor, r: Tensor, s: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of W_l, which occurs in z_l = W_l h + b_l and in t = u W_l, and of b_l."""
    return torch.addmm(u.T @ r, s.T, h), s.sum(dim=0)


def gelu_slope(z: Tensor) -> Tensor:
    """Derivative of gelu(z) = z Phi(z): Phi(z) + z phi(z), in one pass."""
    return torch.ops.aten.gelu_backward(z.new_ones(()).expand_as(z), z)


def gelu_curvature(z: Tensor) -> Tensor:
    """Second derivative of gelu(z) = z Phi(z): phi(z) (2 - z^2)."""
    square = z.square()
    density = square.mul(-0.5).exp_().mul_(1 / math.sqrt(2 * math.pi))
    return density.mul_(square.neg_().add_(2))
