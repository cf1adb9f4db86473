"""Checkpoints: weights in safetensors, and the encoder back from them."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hamjepa_audit.errors import UserError
from hamjepa_audit.files import atomic_path
from hamjepa_audit.models.encoder import TokenEncoder
from hamjepa_audit.params.studies import RunParams
from hamjepa_audit.training.loop import Model, build_model


def save_checkpoint(model: Model, target: Path) -> None:
    """Writes all weights atomically; the same weights give the same bytes."""
    with atomic_path(target) as temporary:
        save_file(model.state_dict(), temporary)


def load_model(run: RunParams, source: Path) -> Model:
    """The model of a run with the weights of a checkpoint, on the CPU.

    Raises:
        UserError: the file is missing, damaged, or holds another model.
    """
    model = build_model(run)
    try:
        weights = load_file(source)
        for part, module in (("encoder", model.encoder), ("objective", model.objective)):
            prefix = f"{part}."
            module.load_state_dict(
                {name.removeprefix(prefix): value for name, value in weights.items()
                 if name.startswith(prefix)}
            )  # fmt: skip
    except FileNotFoundError as error:
        raise UserError(
            f"missing checkpoint {source}; run: hamjepa-audit pretrain --study {run.study} "
            f"--arm {run.arm.name} --epochs {run.epochs} --seed {run.seed}"
        ) from error
    except (SafetensorError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{source} is not a readable checkpoint of this run ({reason}); delete it and "
            f"pretrain again"
        ) from error
    return model


def load_encoder(run: RunParams, source: Path, device: torch.device) -> TokenEncoder:
    """The frozen encoder of a checkpoint, in evaluation mode on a device."""
    encoder = load_model(run, source).to(device).encoder.eval()
    return encoder.requires_grad_(False)
