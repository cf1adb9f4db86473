"""The model of a run: the modules that are trained, and their weights by name."""

from typing import Self

import torch
from torch import Tensor, nn

from hamjepa_audit.models.encoder import TokenEncoder
from hamjepa_audit.objectives.arms import ArmObjective, build_objective
from hamjepa_audit.params.studies import RunParams
from hamjepa_audit.randomness import Stream, generator


class Model(nn.Module):
    """The modules that are trained: the encoder, and the objective with its predictor."""

    def __init__(self, encoder: TokenEncoder, objective: ArmObjective) -> None:
        super().__init__()
        self.encoder = encoder
        self.objective = objective

    def moved_to(self, device: torch.device) -> Self:
        """Moves it to a device; the encoder in channels-last format, the fastest."""
        self.encoder.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self.to(device)

    def weights(self) -> dict[str, Tensor]:
        """All weights and BatchNorm statistics, contiguous on the CPU, by name."""
        return {name: value.cpu().contiguous() for name, value in self.state_dict().items()}


def build_model(run: RunParams) -> Model:
    """The model of a run with its initial weights, which depend on seed and shapes only."""
    encoder = TokenEncoder(run.encoder, run.arm.state, generator(Stream.ENCODER_WEIGHTS, run.seed))
    dimension = run.encoder.state_dimension(run.views.size)
    return Model(encoder, build_objective(run.arm.objective, dimension, run.seed))
