"""The model of a run: the modules that are trained, and their weights by name."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hamjepa_audit.models.encoder import TokenEncoder
from hamjepa_audit.objectives.arms import ArmObjective, build_objective
from hamjepa_audit.params.studies import RunParams
from hamjepa_audit.randomness import Stream, generator


@dataclass
class Model:
    """The modules that are trained: the encoder, and the objective with its predictor."""

    encoder: TokenEncoder
    objective: ArmObjective

    def to(self, device: torch.device) -> "Model":
        """Moves both to a device; the encoder in channels-last format, the fastest."""
        self.encoder.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.objective.to(device)
        return self

    def parts(self) -> dict[str, nn.Module]:
        """Its modules, by the prefix of their weights' names."""
        return {"encoder": self.encoder, "objective": self.objective}

    def state_dict(self) -> dict[str, Tensor]:
        """All weights and BatchNorm statistics, contiguous on the CPU, by name."""
        return {
            f"{part}.{name}": value.detach().cpu().contiguous()
            for part, module in self.parts().items()
            for name, value in module.state_dict().items()
        }

    def load_state_dict(self, weights: Mapping[str, Tensor]) -> None:
        """Loads weights that `state_dict` returned.

        Raises:
            RuntimeError: they belong to another model.
        """
        for part, module in self.parts().items():
            prefix = f"{part}."
            module.load_state_dict(
                {
                    name.removeprefix(prefix): value
                    for name, value in weights.items()
                    if name.startswith(prefix)
                }
            )


def build_model(run: RunParams) -> Model:
    """The model of a run with its initial weights, which depend on seed and shapes only."""
    encoder = TokenEncoder(run.encoder, run.arm.state, generator(Stream.ENCODER_WEIGHTS, run.seed))
    dimension = run.encoder.state_dimension(run.views.size)
    return Model(encoder, build_objective(run.arm.objective, dimension, run.seed))
