"""Saves and loads checkpoints: the weights of a run's model as a safetensors file."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from hamjepa_audit.bookkeeping.records import read_record, require_recorded
from hamjepa_audit.errors import UserError, unreadable
from hamjepa_audit.layout import Layout
from hamjepa_audit.model import Model, build_model
from hamjepa_audit.models.encoder import TokenEncoder
from hamjepa_audit.params.studies import RunParams
from hamjepa_audit.tensors import write_tensors


def save_checkpoint(model: Model, target: Path) -> None:
    """Writes all weights atomically; the same weights give the same bytes."""
    write_tensors(target, model.weights())


def load_model(run: RunParams, source: Path) -> Model:
    """The model of a run with the weights of a checkpoint, on the CPU.

    Raises:
        UserError: the file is missing or damaged, or contains another model.
    """
    model = build_model(run)
    try:
        model.load_state_dict(load_file(source))
    except FileNotFoundError as error:
        raise _missing(run, source) from error
    except (SafetensorError, OSError) as error:
        remedy = "delete it and pretrain again"
        raise unreadable(source, "a readable checkpoint", error, remedy) from error
    except RuntimeError as error:
        raise UserError(
            f"{source} is the checkpoint of another model than arm '{run.arm.name}' of study "
            f"'{run.study}' has ({' '.join(str(error).split())[:300]}); use one of that arm's runs"
        ) from error
    return model


def load_encoder(run: RunParams, source: Path, device: torch.device) -> TokenEncoder:
    """The frozen encoder of a checkpoint, on a device and in evaluation mode."""
    encoder = load_model(run, source).moved_to(device).encoder.eval()
    return encoder.requires_grad_(False)


def recorded_checkpoint(
    layout: Layout, run: RunParams, run_id: str, epoch: int | None = None
) -> Path:
    """The path of a run's checkpoint, after checking it against the digest in the run's record.

    `epoch` is that of an intermediate checkpoint; None means the final one.

    Raises:
        UserError: the run is incomplete, or its record or checkpoint was changed or damaged.
    """
    if epoch is None:
        source = layout.checkpoint(run_id)
    else:
        source = layout.checkpoint_along(run_id, epoch)
    if not source.exists() or not layout.record(run_id).exists():
        raise _missing(run, source, layout.is_without_weights(run_id))
    files = read_record(layout, run_id)["files"]
    if source.name not in files:
        raise UserError(
            f"the record of {run_id} does not name {source.name}; delete the run's folder and "
            f"pretrain again"
        )
    require_recorded(source, files[source.name])
    return source


def _missing(run: RunParams, source: Path, adopted: bool = False) -> UserError:
    first = f"its run was adopted without weights: delete {source.parent}, then " if adopted else ""
    return UserError(
        f"missing checkpoint {source} or its record; {first}run: hamjepa-audit pretrain "
        f"--study {run.study} --arm {run.arm.name} --epochs {run.epochs} --seed {run.seed}"
    )
