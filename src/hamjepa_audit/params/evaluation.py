"""Parameters of how frozen encoders are measured."""

from typing import Annotated

from pydantic import Field

from hamjepa_audit.params.base import Betas, Count, NonNegative, Params, Positive, Seed, distinct

TOP = 5
"""The number of classes among which top-5 accuracies look for the true one."""


class KNNParams(Params):
    """Cosine kNN sweep; top-5 is reported for k of at least `top5_from_k`."""

    neighbours: Annotated[tuple[Count, ...], Field(min_length=1), distinct()]
    top5_from_k: Count


class ProbeParams(Params):
    """LayerNorm + linear classifier on frozen features."""

    epochs: Count
    batch_size: Count
    learning_rate: Positive
    weight_decay: NonNegative
    betas: Betas
    seed: Seed


class GeometryParams(Params):
    """Spectrum, pair cosines, norms, alignment and uniformity."""

    spectrum_samples: Annotated[int, Field(ge=2)]
    eigenvalues: Count
    power_iterations: Annotated[int, Field(ge=0)]
    pairs: Count
    quantiles: Count
    seed: Seed


class DynamicsParams(Params):
    """Measurement of trained predictors on held-out states.

    All rollouts record the same energy, (|p|^2 + stiffness |q|^2) / 2, whatever they conserve.
    """

    jacobian_states: Count
    rollout_states: Count
    rollout_applications: Count
    stiffness: NonNegative
    seed: Seed


class EvaluationParams(Params):
    """How a frozen encoder is measured."""

    feature_batch_size: Count
    view_seed: Seed
    knn: KNNParams
    probe: ProbeParams
    geometry: GeometryParams
    dynamics: DynamicsParams

    def accuracies(self, classes: int) -> list[str]:
        """The accuracies that are measured; with fewer classes than five, none of the top five."""
        ks = self.knn.neighbours
        top1 = [*(f"knn_top1@{k}" for k in ks), "knn_top1@best", "linear_probe_top1"]
        if classes < TOP:
            return top1
        top5 = (f"knn_top5@{k}" for k in ks if k >= self.knn.top5_from_k)
        return [*top1, *top5, "linear_probe_top5"]
