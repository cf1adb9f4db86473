"""The leapfrog flow of a learned potential, and its derivatives, in closed form."""

from typing import Any

import torch
from torch import Tensor

from hamjepa_audit.first_derivatives import refuse_second_derivative
from hamjepa_audit.models.input_gradient import GradientCotangents, GradientEvaluations


class LeapfrogFlow(torch.autograd.Function):
    """`integrators.leapfrog` with the gradient of V = stiffness/2 |q|^2 + scale * f(q), f an MLP.

    The state is kicked, and then drifts and is kicked again K times:

        kick k = 0, ..., K:   p_k = p_(k-1) - c_k grad V(q_k),   c_k = step (step/2 for 0 and K)
        drift k = 1, ..., K:  q_k = q_(k-1) + step p_(k-1)

    where q_0 and p_(-1) are given. The cotangents go through the same kicks and drifts in reverse
    order: kick k subtracts c_k times the Hessian of V at q_k applied to p's from q's, and drift k
    adds step times q's to p's.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        step: Tensor,
        steps: int,
        stiffness: float,
        scale: float | Tensor,
        output: Tensor,
        *hidden: Tensor,
    ) -> Tensor:
        """(N, 2d) -> (N, 2d).

        Args:
            ctx: keeps what `backward` needs.
            states: (N, 2d), [q; p].
            step: (N, 1), signed step sizes; no gradient.
            steps: number K of steps, at least 1.
            stiffness: see above.
            scale: see above; a scalar tensor if it changes between replays.
            output: see GradientEvaluations.forward, as for `hidden`.
            hidden: the hidden layers of f.

        Raises:
            ValueError: `steps` is below 1.
        """
        if steps < 1:
            raise ValueError(f"steps is {steps}: leapfrog takes at least 1")
        start, p = states.chunk(2, dim=-1)
        q = start.new_empty(steps + 1, *start.shape)
        q[0] = start
        coefficients = _coefficients(step, scale)
        kicks, factors = _of_kicks(steps, *coefficients)
        evaluations = GradientEvaluations(q, hidden[0::2])
        for k, kick in enumerate(kicks):
            if k:
                torch.addcmul(q[k - 1], step, p, out=q[k])
            u = evaluations.forward(k, output, hidden).mul_(factors[k])
            p = torch.addcmul(p, kick, q[k], value=-stiffness).addmm_(u, hidden[0])
        ctx.save_for_backward(*coefficients, output, *hidden, *evaluations.tensors())
        ctx.steps, ctx.layers, ctx.stiffness = steps, len(hidden) // 2, stiffness
        return torch.cat([q[-1], p], dim=-1)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        """Vector-Jacobian products of the cotangent (N, 2d) for states, w, and all W_l and b_l.

        Raises:
            RuntimeError: second derivatives are requested (create_graph=True).
        """
        refuse_second_derivative("LeapfrogFlow")
        coefficients, (output, *others) = ctx.saved_tensors[:4], ctx.saved_tensors[4:]
        weights, saved = others[: 2 * ctx.layers : 2], others[2 * ctx.layers :]
        kicks, factors = _of_kicks(ctx.steps, *coefficients)
        cotangents = GradientCotangents(saved, output, weights)
        of_q, end = cotangent.chunk(2, dim=-1)
        of_p = torch.empty_like(cotangents.h[0])
        of_p[-1] = end
        for k in range(ctx.steps, -1, -1):
            of_z = cotangents.backward(k, (of_p[k] @ weights[0].T).mul_(factors[k]))
            of_q = torch.addcmul(of_q, kicks[k], of_p[k], value=-ctx.stiffness)
            of_q.addmm_(of_z, weights[0])
            if k:
                torch.addcmul(of_p[k], coefficients[0], of_q, out=of_p[k - 1])
        of_states = torch.cat([of_q, of_p[0]], dim=-1)
        if not any(ctx.needs_input_grad[5:]):
            return (of_states, *[None] * (5 + 2 * ctx.layers))
        return (of_states, None, None, None, None, *cotangents.of_parameters(of_p))


def _coefficients(step: Tensor, scale: float | Tensor) -> tuple[Tensor, ...]:
    """The step, half of it, and both times -scale: (N, 1) each."""
    scaled = -scale * step
    return step, 0.5 * step, scaled, 0.5 * scaled


def _of_kicks(
    steps: int, step: Tensor, half: Tensor, scaled: Tensor, scaled_half: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """c_k and -scale c_k of the kicks 0 to K."""
    between = steps - 1
    return [half, *[step] * between, half], [scaled_half, *[scaled] * between, scaled_half]
