"""Equivalence tests, which show that a difference is small; a large p-value never does."""

import numpy as np
from numpy.typing import ArrayLike

from hamjepa_audit.statistics.hypothesis_tests import Array, Estimate, p_greater, p_less


def tost(estimate: Estimate, margin: ArrayLike) -> Array:
    """Two one-sided tests (Schuirmann 1987) of whether the true difference is within -+ margin.

    Args:
        estimate: the differences, shape (rows,).
        margin: positive, in the unit of the estimate, shape (rows,).

    Returns:
        The larger of the two p-values, shape (rows,). If it is below alpha, the difference is shown
        to lie within the margin, with an error probability of at most alpha.
    """
    reach = np.asarray(margin, dtype=float)
    return np.maximum(p_greater(estimate, -reach), p_less(estimate, reach))
