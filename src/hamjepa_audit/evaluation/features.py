"""Features of a frozen encoder: states of the training and test images, and of augmented ones."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hamjepa_audit.data.streaming import BatchImages, StreamedImages, batches
from hamjepa_audit.data.views import plain_views, random_views
from hamjepa_audit.errors import UserError
from hamjepa_audit.files import canonical_json
from hamjepa_audit.models.encoder import TokenEncoder
from hamjepa_audit.params.studies import RunParams
from hamjepa_audit.tensors import write_tensors

EVALUATION_EPOCH = 0
"""Training epochs count from 1, so evaluation views differ from all training views."""

FEATURES = ("train", "test", "view_a", "view_b")
"""States of the plain training and test images, and of two random views of the test images."""

ORIGIN = "origin"
"""Metadata key of the FeaturesOrigin."""


@dataclass(frozen=True)
class FeaturesOrigin:
    """Origin of features, as SHA-256 (hex).

    Attributes:
        checkpoint: digest of the file of weights.
        labels: digest of the training and test labels of that time.
    """

    checkpoint: str
    labels: str


def extract_features(
    encoder: TokenEncoder,
    run: RunParams,
    train: Tensor | StreamedImages,
    test: Tensor | StreamedImages,
) -> dict[str, Tensor]:
    """The FEATURES of a run, float32 on the CPU (protocol, "Evaluation").

    Args:
        encoder: frozen, in evaluation mode.
        run: views and batch size.
        train: (N, 3, H, W) uint8 on the encoder's device, or N images streamed to it.
        test: (M, 3, H, W) uint8 on the encoder's device, or M images streamed to it.

    Returns:
        `train` (N, D); `test`, `view_a` and `view_b` (M, D).
    """

    def augmented(view: int) -> Callable[[BatchImages, Tensor], Tensor]:
        seed = run.evaluation.view_seed
        return lambda images, samples: random_views(
            images, samples, run.views, seed, EVALUATION_EPOCH, torch.full_like(samples, view)
        )

    size = run.evaluation.feature_batch_size
    return {
        "train": plain_features(encoder, run, train),
        "test": plain_features(encoder, run, test),
        "view_a": _encode(encoder, test, augmented(0), size),
        "view_b": _encode(encoder, test, augmented(1), size),
    }


def plain_features(
    encoder: TokenEncoder, run: RunParams, images: Tensor | StreamedImages
) -> Tensor:
    """States (N, D), float32 on the CPU, of N images without augmentation."""
    size = run.evaluation.feature_batch_size
    return _encode(encoder, images, lambda batch, _: plain_views(batch, run.views), size)


@torch.inference_mode()
def _encode(
    encoder: TokenEncoder,
    images: Tensor | StreamedImages,
    make_views: Callable[[BatchImages, Tensor], Tensor],
    batch_size: int,
) -> Tensor:
    """States (N, D), float32 on the CPU, of views of uint8 images."""
    states = []
    order = torch.arange(len(images)).split(batch_size)
    for samples, pictures in batches(images, order):
        views = make_views(pictures, samples)
        states.append(encoder(views.contiguous(memory_format=torch.channels_last)).cpu())
    return torch.cat(states)


def save_features(features: dict[str, Tensor], target: Path, origin: FeaturesOrigin) -> None:
    """Writes features and their origin atomically."""
    write_tensors(target, features, {ORIGIN: canonical_json(asdict(origin))})


def load_features(source: Path, *names: str) -> tuple[FeaturesOrigin, tuple[Tensor, ...]]:
    """Reads some of the FEATURES of a run, and their origin.

    Raises:
        UserError: the file is missing or damaged, or lacks the origin.
    """
    if not source.exists():
        raise UserError(
            f"missing features {source}; extract them first: hamjepa-audit extract with the same "
            f"--study, --arm and --epochs"
        )
    try:
        with safe_open(source, framework="pt") as archive:
            origin = (archive.metadata() or {}).get(ORIGIN)
            features = tuple(archive.get_tensor(name) for name in names)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{source} is not readable ({error}); delete it and extract the features again"
        ) from error
    if origin is None:
        raise UserError(
            f"{source} does not say from which checkpoint it was made; delete {source.parent} and "
            f"extract the features again"
        )
    return FeaturesOrigin(**json.loads(origin)), features
