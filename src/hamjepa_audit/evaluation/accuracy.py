"""Top-1 and top-5 accuracy with one rule for ties: the smaller class index wins."""

from typing import NamedTuple

import torch
from torch import Tensor

from hamjepa_audit.params.evaluation import TOP


class Accuracies(NamedTuple):
    """Fractions of the test rows, in [0, 1]."""

    top1: float
    """The true class has the best score."""
    top5: float
    """The true class is among the five best scores."""


def label_ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """Number of classes ranked before the true one; equal scores are ordered by class index.

    A prediction is correct if the rank is 0, and in the top five if it is below 5. Neither sort nor
    argmax is involved, so ties can't depend on a device or a kernel.

    Args:
        scores: (N, C), votes or logits, no NaN.
        labels: (N,) int64, the true classes.

    Returns:
        (N,) int64 in [0, C).
    """
    own = scores.gather(1, labels.unsqueeze(1))
    smaller = torch.arange(scores.shape[1], device=scores.device) < labels.unsqueeze(1)
    return ((scores > own) | ((scores == own) & smaller)).sum(dim=1)


def accuracies(ranks: Tensor) -> Accuracies:
    """Accuracies from the ranks (N,) that label_ranks returns."""
    count = len(ranks)
    return Accuracies(int((ranks == 0).sum()) / count, int((ranks < TOP).sum()) / count)
