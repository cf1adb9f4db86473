"""Bounds on extreme eigenvalues from a log-det floor, a trace and a participation ratio.

A spectrum is that of a covariance of order k; tau = log det / k, m = trace, r0 = participation
ratio tr^2 / tr(C^2). Bounds on the smallest eigenvalue are logarithms, as it may be 10^-300.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hamjepa_audit.theory.instances import Generator

Spectrum = NDArray[np.float64]
TraceBound = Callable[[int, float, float], float]
ParticipationBound = Callable[[float, float], float]
LogdetParticipationBound = Callable[[int, float, float, float], float]


def trace_bound(order: int, tau: float, trace: float) -> float:
    """Log of exp(k tau) ((k - 1) / m)^(k - 1), from log det >= k tau and trace <= m."""
    return order * tau + (order - 1) * np.log((order - 1) / trace)


def participation_bound(trace: float, participation: float) -> float:
    """The bound c / sqrt(r0) on the largest eigenvalue, from trace c and participation >= r0."""
    return trace / np.sqrt(participation)


def participation_logdet_bound(order: int, tau: float, trace: float, participation: float) -> float:
    """Log of exp(k tau) (sqrt(r0) / c)^(k - 1): as `trace_bound`, with participation >= r0."""
    return order * tau + (order - 1) * np.log(np.sqrt(participation) / trace)


def participation_ratio(spectrum: Spectrum) -> float:
    """The participation ratio tr^2 / tr(C^2), between 1 and k."""
    return float(spectrum.sum() ** 2 / (spectrum @ spectrum))


def tau_of(spectrum: Spectrum) -> float:
    """Log det / k."""
    return float(np.log(spectrum).mean())


def trace_bound_error(spectrum: Spectrum, _: Generator, formula: TraceBound) -> float:
    """By how much the log of the smallest eigenvalue falls below the bound."""
    bound = formula(len(spectrum), tau_of(spectrum), spectrum.sum())
    return max(0.0, bound - np.log(spectrum.min()))


def trace_bound_gap(limit: float) -> Callable[[int, Generator, TraceBound], float]:
    """A check, for an order k: the bound is attained as the smallest eigenvalue goes to 0.

    The other eigenvalues are equal; the gap of the logarithms is (k - 1) times `limit`.
    """

    def error(order: int, _: Generator, formula: TraceBound) -> float:
        spectrum = np.full(order, (1 - limit) / (order - 1))
        spectrum[0] = limit
        return abs(np.log(limit) - formula(order, tau_of(spectrum), 1.0))

    return error


def participation_bound_error(
    spectrum: Spectrum, _: Generator, formula: ParticipationBound
) -> float:
    """By how much the largest eigenvalue exceeds the bound; relative."""
    bound = formula(spectrum.sum(), participation_ratio(spectrum))
    return max(0.0, spectrum.max() / bound - 1)


def participation_bound_gap(order: int) -> Callable[[float, Generator, ParticipationBound], float]:
    """A check, for a participation ratio r0: the bound is attained as the order grows; relative.

    The spectrum has k - 1 equal eigenvalues, and one that is as large as r0 allows.
    """

    def error(participation: float, _: Generator, formula: ParticipationBound) -> float:
        top = (1 + np.sqrt((order - 1) * (order / participation - 1))) / order
        spectrum = np.full(order, (1 - top) / (order - 1))
        spectrum[0] = top
        # The ratio is recomputed from the spectrum, not taken from the argument.
        return abs(top / formula(spectrum.sum(), participation_ratio(spectrum)) - 1)

    return error


def participation_logdet_bound_error(
    spectrum: Spectrum, _: Generator, formula: LogdetParticipationBound
) -> float:
    """By how much the log of the smallest eigenvalue falls below the bound."""
    trace, participation = spectrum.sum(), participation_ratio(spectrum)
    bound = formula(len(spectrum), tau_of(spectrum), trace, participation)
    return max(0.0, bound - np.log(spectrum.min()))


def participation_logdet_bound_gap(
    limit: float,
) -> Callable[[Spectrum, Generator, LogdetParticipationBound], float]:
    """A check: the bound is attained only for k = 2 as r0 -> 1; else the trace bound is no weaker.

    The latter for k >= 3 and equal trace, because sqrt(r0) <= sqrt(k) <= k - 1.
    """

    def error(spectrum: Spectrum, _: Generator, formula: LogdetParticipationBound) -> float:
        pair = np.array([1 - limit, limit])
        bound = formula(2, tau_of(pair), pair.sum(), participation_ratio(pair))
        gap = abs(np.log(limit) - bound)
        order, tau, trace = len(spectrum), tau_of(spectrum), spectrum.sum()
        if order < 3:
            return gap
        excess = formula(order, tau, trace, participation_ratio(spectrum))
        return max(gap, excess - trace_bound(order, tau, trace))

    return error
