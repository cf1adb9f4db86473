"""Checks and normalisation of feature matrices, shared by all measurements."""

from typing import NamedTuple

import torch
from torch import Tensor

from hamjepa_audit.errors import UserError

SMALLEST_NORM = 1e-12


class Labelled(NamedTuple):
    """Features of images, with the images' classes, on the same device."""

    features: Tensor
    """(N, D), float32 or float64."""
    labels: Tensor
    """(N,) int64, from 0."""


def unit_rows(features: Tensor) -> Tensor:
    """Rows divided by max(norm, 1e-12), not centred: a zero row stays zero.

    Norms are computed in float64, because squares of large float32 features may overflow.

    Args:
        features: (N, D) floating point.

    Returns:
        (N, D) of the same dtype, contiguous.
    """
    norms = torch.linalg.vector_norm(features, dim=1, keepdim=True, dtype=torch.float64)
    return (features / norms.clamp(min=SMALLEST_NORM).to(features.dtype)).contiguous()


def require_features(features: Tensor, name: str) -> None:
    """Checks that a feature matrix (N, D) has rows and is finite; `name` is for the message.

    Raises:
        UserError: it is empty, or contains an infinity or NaN.
        ValueError: it is not a matrix.
    """
    if features.ndim != 2:
        raise ValueError(f"{name} features must be (N, D), got shape {tuple(features.shape)}")
    if features.numel() == 0:
        raise UserError(f"there are no {name} features; evaluation needs at least one row")
    extremes = torch.stack(features.aminmax())  # propagates NaN, and needs no mask
    if not bool(extremes.isfinite().all()):
        raise UserError(
            f"the {name} features are not all finite, so nothing can be measured on them; "
            f"the checkpoint has diverged: look at the run's history"
        )


def require_labelled(rows: Labelled, classes: int, name: str) -> None:
    """Checks features and their labels, which must lie in [0, classes); `name` is for messages.

    Raises:
        UserError: as require_features.
        ValueError: the labels have another length, or lie outside the classes.
    """
    features, labels = rows
    require_features(features, name)
    if labels.shape != features.shape[:1]:
        raise ValueError(f"{len(features)} {name} features but labels {tuple(labels.shape)}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(f"{name} labels span [{low}, {high}], expected [0, {classes - 1}]")
