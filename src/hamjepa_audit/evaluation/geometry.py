"""Geometry of features: spectrum, pair cosines, norms, alignment and uniformity."""

from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from hamjepa_audit.evaluation.rows import require_features, unit_rows
from hamjepa_audit.evaluation.spectrum import (
    covariance_eigenvalues,
    effective_rank,
    lowrank_eigenvalues,
    participation_ratio,
)
from hamjepa_audit.metrics import Measurement, Point
from hamjepa_audit.params.arms import Readout
from hamjepa_audit.params.evaluation import GeometryParams
from hamjepa_audit.randomness import Stream, generator

PAIR_BLOCK = 2048
SUMMARY_QUANTILES = {"q10": 0.1, "q50": 0.5, "q90": 0.9}
UNIT = "dimensionless"


class Draw(IntEnum):
    """Indices of the random streams, so that no draw affects another."""

    SPECTRUM_ROWS = 0
    TEST_MATRIX = 1
    COSINE_PAIRS = 2
    UNIFORMITY_PAIRS = 3


class Geometry(NamedTuple):
    """Measurements of one readout; all float64."""

    eigenvalues: Tensor
    """(q,), descending: exact."""
    eigenvalues_lowrank: Tensor
    """(q,), descending: by the author's randomised method."""
    cosines: Tensor
    """(pairs,)."""
    norms: Tensor
    """(M,)."""
    alignment: float
    uniformity: float


def measure_geometry(
    train: Tensor, test: Tensor, first_view: Tensor, second_view: Tensor, params: GeometryParams
) -> Geometry:
    """Measures one readout (protocol, "Evaluation").

    The draw of rows and pairs depends only on `params.seed`, so all runs and readouts of a data
    set are measured on the same ones.

    Args:
        train: (N, D) training features, for the spectrum of `params.spectrum_samples` of them.
        test: (M, D) test features, for cosines of `params.pairs` random pairs, and for norms.
        first_view: (V, D) features of one augmented view, for alignment, and for uniformity on
            min(`params.pairs`, 2 V) random pairs.
        second_view: (V, D) features of another view of the same images, for alignment.
        params: sizes and seed.

    Raises:
        UserError: features are not finite.
        ValueError: the views have different shapes.
    """
    named = {"training": train, "test": test, "first view": first_view, "second view": second_view}
    for name, features in named.items():
        require_features(features, name)
    rows = sampled_rows(len(train), params.spectrum_samples, _generator(params, Draw.SPECTRUM_ROWS))
    sample = train[rows.to(train.device)]
    pairs = random_pairs(len(test), params.pairs, _generator(params, Draw.COSINE_PAIRS))
    view_pairs = random_pairs(
        len(first_view),
        min(params.pairs, 2 * len(first_view)),
        _generator(params, Draw.UNIFORMITY_PAIRS),
    )
    return Geometry(
        eigenvalues=covariance_eigenvalues(sample, params.eigenvalues),
        eigenvalues_lowrank=lowrank_eigenvalues(
            sample,
            params.eigenvalues,
            params.power_iterations,
            _generator(params, Draw.TEST_MATRIX),
        ),
        cosines=pair_cosines(test, *pairs),
        norms=row_norms(test),
        alignment=alignment(first_view, second_view),
        uniformity=uniformity(first_view, *view_pairs),
    )


def geometry_measurements(readout: Readout, geometry: Geometry) -> list[Measurement]:
    """The metric rows of one readout, dimensionless.

    `effective_rank`, `participation_ratio`, both also with `_lowrank`; `cosine_` and
    `feature_norm_` with mean, std, q10, q50, q90, min, max; `alignment`, `uniformity`.
    """
    values = {
        "effective_rank": effective_rank(geometry.eigenvalues),
        "effective_rank_lowrank": effective_rank(geometry.eigenvalues_lowrank),
        "participation_ratio": participation_ratio(geometry.eigenvalues),
        "participation_ratio_lowrank": participation_ratio(geometry.eigenvalues_lowrank),
        **{f"cosine_{name}": value for name, value in summary(geometry.cosines).items()},
        **{f"feature_norm_{name}": value for name, value in summary(geometry.norms).items()},
        "alignment": geometry.alignment,
        "uniformity": geometry.uniformity,
    }
    return [Measurement(readout, name, value, UNIT) for name, value in values.items()]


def geometry_curves(readout: Readout, geometry: Geometry, quantiles: int) -> list[Point]:
    """The curves of one readout: eigenvalues by rank, cosines and norms by probability.

    A distribution has `quantiles` points, at probabilities (i + 0.5) / quantiles.
    """
    points = [
        Point(readout, "eigenvalue", float(rank), value, UNIT)
        for rank, value in enumerate(geometry.eigenvalues.tolist(), start=1)
    ]
    positions = [(i + 0.5) / quantiles for i in range(quantiles)]
    distributions = (("cosine_quantile", geometry.cosines), ("norm_quantile", geometry.norms))
    for curve, values in distributions:
        heights = _quantiles(values, positions)
        points += [
            Point(readout, curve, position, height, UNIT)
            for position, height in zip(positions, heights, strict=True)
        ]
    return points


def sampled_rows(rows: int, samples: int, generator: Generator) -> Tensor:
    """Draws `samples` of `rows` indices without replacement; all, in order, if there are fewer.

    Returns:
        (min(rows, samples),) int64 on the CPU.
    """
    if rows <= samples:
        return torch.arange(rows)
    return torch.randperm(rows, generator=generator)[:samples]


def random_pairs(rows: int, pairs: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draws `pairs` pairs of row indices, with replacement; both may be the same row.

    Returns:
        First and second rows, (pairs,) int64 each, on the CPU; the first are drawn first.
    """
    first = torch.randint(rows, (pairs,), generator=generator)
    return first, torch.randint(rows, (pairs,), generator=generator)


def pair_cosines(features: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Cosines of pairs of rows of (N, D), not centred; a zero row has cosine 0 with every row.

    `first` and `second` are row indices, (pairs,) int64; the result is (pairs,) float64.
    """
    pairs = _unit_pairs(features, features, first, second)
    return torch.cat([(u * v).sum(dim=1) for u, v in pairs])


def row_norms(features: Tensor) -> Tensor:
    """Euclidean norms of the rows: (N, D) -> (N,) float64."""
    return torch.linalg.vector_norm(features, dim=1, dtype=torch.float64)


def alignment(first_view: Tensor, second_view: Tensor) -> float:
    """Mean squared distance of the normalised features (N, D) of two views, in [0, 4].

    Raises:
        ValueError: the views have different shapes.
    """
    if first_view.shape != second_view.shape:
        raise ValueError(
            f"views must have one shape, got {tuple(first_view.shape)} "
            f"and {tuple(second_view.shape)}"
        )
    rows = torch.arange(len(first_view))
    return float(_squared_distances(first_view, second_view, rows, rows).mean())


def uniformity(features: Tensor, first: Tensor, second: Tensor) -> float:
    """Log of the mean over pairs of exp(-2 distance^2) of normalised rows, between -8 and 0.

    Arguments are as in `pair_cosines`.
    """
    distances = _squared_distances(features, features, first, second)
    return float((-2 * distances).exp().mean().log())


def summary(values: Tensor) -> dict[str, float]:
    """mean, std (biased), q10, q50, q90 (linear interpolation), min, max of values (n,) float64."""
    quantiles = _quantiles(values, list(SUMMARY_QUANTILES.values()))
    return {
        "mean": float(values.mean()),
        "std": float(values.std(correction=0)),
        **dict(zip(SUMMARY_QUANTILES, quantiles, strict=True)),
        "min": float(values.min()),
        "max": float(values.max()),
    }


def _quantiles(values: Tensor, probabilities: list[float]) -> list[float]:
    """Quantiles of float64 values, interpolated between order statistics at (n - 1) * p."""
    quantiles: list[float] = torch.quantile(values, values.new_tensor(probabilities)).tolist()
    return quantiles


def _squared_distances(a: Tensor, b: Tensor, first: Tensor, second: Tensor) -> Tensor:
    # From differences, not as 2 - 2 cos, so that equal rows have distance exactly 0.
    pairs = _unit_pairs(a, b, first, second)
    return torch.cat([(u - v).square().sum(dim=1) for u, v in pairs])


def _unit_pairs(
    a: Tensor, b: Tensor, first: Tensor, second: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields normalised rows a[first] and b[second] in float64, in blocks to bound memory."""
    for i, j in zip(first.split(PAIR_BLOCK), second.split(PAIR_BLOCK), strict=True):
        yield unit_rows(a[i.to(a.device)].double()), unit_rows(b[j.to(b.device)].double())


def _generator(params: GeometryParams, draw: Draw) -> Generator:
    return generator(Stream.GEOMETRY, params.seed, draw)
