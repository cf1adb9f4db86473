"""Prediction losses: how well the state of one view predicts the other's."""

from torch import Tensor
from torch.nn import functional

from hamjepa_audit.models.predictors import StatePredictor
from hamjepa_audit.params.arms import PredictionParams


def lejepa_prediction(states: Tensor, global_views: int) -> Tensor:
    """Half the mean squared distance of all views to the mean of the global ones, no stop-gradient.

    Args:
        states: (V, B, D).
        global_views: number of leading views whose mean is the centre.

    Returns:
        A scalar (protocol, "SIGReg").
    """
    centre = states[:global_views].mean(dim=0)
    return 0.5 * (centre - states).square().mean()


def view_distance(states: Tensor) -> Tensor:
    """Mean squared distance of views 0 and 1, no stop-gradient: (V, B, D) -> scalar.

    The invariance term of VICReg (Bardes et al. 2022, algorithm 1) and of Rectified LpJEPA; a mean
    over batch and coordinates, like the other losses here.
    """
    return functional.mse_loss(states[0], states[1])


def phase_space_prediction(
    states: Tensor, predictor: StatePredictor, params: PredictionParams, ramp: float | Tensor
) -> Tensor:
    """Loss of predicting both views from each other, with detached targets (paper, eq. 40).

    View a is mapped forward to view b. View b is mapped to view a backward in time
    ("time_reversed"), or forward as well ("forward", as in the ImageNet script). Both flows are
    computed in one batch.

    Args:
        states: (V, B, 2d); views 0 and 1 are used.
        predictor: map of states.
        params: matching and direction of the backward flow.
        ramp: share of the predictor's learned part that is switched on.

    Returns:
        A scalar, the mean of the two directions.
    """
    # Slicing off nothing would cost two passes over memory in the backward pass.
    pair = states[:2] if len(states) > 2 else states
    start, target = pair.flatten(0, 1), pair.detach().flip(0).flatten(0, 1)
    direction = start.new_ones(len(start), 1)
    if params.backward == "time_reversed":
        direction[states.shape[1] :] = -1.0
    return state_distance(predictor(start, direction, ramp), target, params)


def state_distance(predicted: Tensor, target: Tensor, params: PredictionParams) -> Tensor:
    """Mean squared error of states (N, 2d) under `params.matching`.

    "q": MSE(q) + momentum_weight * MSE(p); "qp": MSE over all coordinates. The paper's equations
    39 and 40 have sums; the author's code takes means, and so does this one.
    """
    if params.matching == "qp":
        return functional.mse_loss(predicted, target)
    q, p = predicted.chunk(2, dim=-1)
    target_q, target_p = target.chunk(2, dim=-1)
    loss = functional.mse_loss(q, target_q)
    if params.momentum_weight > 0:
        loss = loss + params.momentum_weight * functional.mse_loss(p, target_p)
    return loss
