"""The leapfrog flow of a learned potential, and its derivatives, in closed form."""

from typing import Any

import torch
from torch import Tensor

from hamjepa_audit.first_derivatives import refuse_second_derivative
from hamjepa_audit.models.input_gradient import GradientEvaluations


class LeapfrogFlow(torch.autograd.Function):
    """`integrators.leapfrog` with the gradient of V = stiffness/2 |q|^2 + scale * f(q), f an MLP.

    The cotangents go through the same kicks and drifts in reverse order. With
    c_k = step / 2, step, ..., step, step / 2 and k from 0 to K:

        q_k = q_(k-1) + step p_(k-1),   p_k = p_(k-1) - c_k grad V(q_k),

    so that p_(k-1) gets the cotangent of p_k plus step times that of q_k, and q_k that of q_(k+1)
    minus c_k times the Hessian of V applied to the cotangent of p_k.
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
        scaled = -scale * step
        half, scaled_half = 0.5 * step, 0.5 * scaled
        kicks = [half, *[step] * (steps - 1), half]
        factors = [scaled_half, *[scaled] * (steps - 1), scaled_half]
        q = start.new_empty(steps + 1, *start.shape)
        q[0] = start
        evaluations = GradientEvaluations(q, hidden[0::2])
        u = torch.empty_like(evaluations.u[0])
        for k, kick in enumerate(kicks):
            if k:
                torch.addcmul(q[k - 1], step, p, out=q[k])
            torch.mul(evaluations.forward(k, output, hidden), factors[k], out=u[k])
            p = torch.addcmul(p, kick, q[k], value=-stiffness).addmm_(u[k], hidden[0])
        ctx.save_for_backward(output, *hidden)
        ctx.evaluations, ctx.u, ctx.stiffness = evaluations, u, stiffness
        ctx.step, ctx.kicks, ctx.factors = step, kicks, factors
        return torch.cat([q[-1], p], dim=-1)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        """Vector-Jacobian products of the cotangent (N, 2d) for states, w, and all W_l and b_l.

        Raises:
            RuntimeError: second derivatives are requested (create_graph=True).
        """
        refuse_second_derivative("LeapfrogFlow")
        output, *hidden = ctx.saved_tensors
        weights, evaluations = hidden[0::2], ctx.evaluations
        of_q, end = cotangent.chunk(2, dim=-1)
        of_p = torch.empty_like(evaluations.h[0])
        of_p[-1] = end
        evaluations.prepare_backward(output)
        for k in range(len(of_p) - 1, -1, -1):
            of_u = (of_p[k] @ weights[0].T).mul_(ctx.factors[k])
            of_z = evaluations.backward(k, of_u, weights)
            of_q = torch.addcmul(of_q, ctx.kicks[k], of_p[k], value=-ctx.stiffness)
            of_q.addmm_(of_z, weights[0])
            if k:
                torch.addcmul(of_p[k], ctx.step, of_q, out=of_p[k - 1])
        of_states = torch.cat([of_q, of_p[0]], dim=-1)
        if not any(ctx.needs_input_grad[5:]):
            return (of_states, *[None] * (5 + len(hidden)))
        of_parameters = evaluations.parameter_gradients(ctx.u, of_p)
        return (of_states, None, None, None, None, *of_parameters)
