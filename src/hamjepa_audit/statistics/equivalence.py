"""Tests of whether a difference is within a margin; a large p-value shows neither."""

import numpy as np
from numpy.typing import ArrayLike

from hamjepa_audit.statistics.hypothesis_tests import Array, Estimate, p_greater, p_less, two_sided


def tost(estimate: Estimate, margin: ArrayLike) -> Array:
    """Two one-sided tests (Schuirmann 1987) of whether the true difference is within -+ margin.

    The margin is positive and in the unit of the estimate; both have the shape (rows,).

    Returns:
        The larger of the two p-values, shape (rows,). If it is below alpha, the difference is shown
        to lie within the margin, with an error probability of at most alpha.
    """
    reach = np.asarray(margin, dtype=float)
    return np.maximum(p_greater(estimate, -reach), p_less(estimate, reach))


def beyond_margin(estimate: Estimate, margin: ArrayLike) -> Array:
    """Two-sided test of whether the true difference is beyond -+ margin (minimum-effect test).

    The margin is not negative and in the unit of the estimate; both have the shape (rows,).

    Returns:
        The p-value of the hypothesis that the difference is within the margin, shape (rows,): twice
        the one-sided p of its distance beyond the margin, 1 if it is within. Twice, because it may
        be beyond on either side; for a margin of 0 this is the two-sided test.
    """
    distance = np.maximum(np.abs(estimate.value) - np.asarray(margin, dtype=float), 0.0)
    return two_sided(estimate._replace(value=np.where(estimate.value < 0, -distance, distance)))
