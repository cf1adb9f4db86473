"""Equivalence: showing that a difference is small, which a large p-value never does."""

import numpy as np
from numpy.typing import ArrayLike

from hamjepa_audit.statistics.hypothesis_tests import Array, Estimate, p_greater, p_less


def tost(estimate: Estimate, margin: ArrayLike) -> Array:
    """Two one-sided tests (Schuirmann 1987): is the true difference within -+ margin?

    Args:
        estimate: what is to be small, shape (rows,).
        margin: positive, in the unit of the estimate, shape (rows,).

    Returns:
        The larger p-value of the two: below alpha the difference is shown to lie within the margin,
        with a chance of at most alpha of saying so wrongly.
    """
    reach = np.asarray(margin, dtype=float)
    return np.maximum(p_greater(estimate, -reach), p_less(estimate, reach))
