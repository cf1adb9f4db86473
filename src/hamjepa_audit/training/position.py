"""How far a training run has come."""

from dataclasses import dataclass, field

from torch import Tensor

EpochMeans = dict[str, float]
"""Means over an epoch of the unweighted terms, their sum, gradient norm and learning rate."""


@dataclass
class Position:
    """Progress of a run; with weights and optimiser, all that its next step depends on.

    Attributes:
        epoch: epoch of the next step, from 1.
        index: number of finished steps in that epoch.
        values: terms, total and gradient norm of those steps, (index, columns) float32 on the CPU,
            as far as they have been fetched.
        seconds: time spent on that epoch so far, without a process's first step if it compiles.
        history: means of the finished epochs.
        epoch_seconds: duration of each finished epoch.
        waited: seconds that the device waited for images: in finished epochs on the rank that
            waited longest, in this one on this rank.
    """

    values: Tensor
    epoch: int = 1
    index: int = 0
    seconds: float = 0.0
    history: list[EpochMeans] = field(default_factory=list)
    epoch_seconds: list[float] = field(default_factory=list)
    waited: float = 0.0
