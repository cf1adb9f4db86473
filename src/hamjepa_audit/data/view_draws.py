"""Random parameters of views, per image; they depend on (seed, epoch, sample, view) only."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

from hamjepa_audit.data.philox import uniforms
from hamjepa_audit.device_constants import device_constant
from hamjepa_audit.params.studies import RunParams, ViewParams
from hamjepa_audit.randomness import Stream, derived_seed

CROP_ATTEMPTS = 10
"""Boxes that torchvision's RandomResizedCrop tries before it falls back to a centre crop."""

UNIFORMS_PER_VIEW = 2 * CROP_ATTEMPTS + 13
"""Area and ratio of each attempt, then the 13 numbers that `draw_views` unpacks."""

DRAWN_AT_ONCE = 1 << 16
"""Views whose draws are computed together: each takes about 1 kB of memory meanwhile."""

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
JITTER_ORDERS = tuple(permutations(range(4)))


@dataclass(frozen=True)
class ViewDraws:
    """The parameters of a batch of views; every tensor has B rows."""

    top: Tensor
    """(B,) first row of the crop, pixels."""
    left: Tensor
    """(B,) first column of the crop, pixels."""
    height: Tensor
    """(B,) rows of the crop, pixels."""
    width: Tensor
    """(B,) columns of the crop, pixels."""
    flip: Tensor
    """(B,) bool."""
    jitter: Tensor
    """(B,) bool: whether colours are jittered at all."""
    factors: Tensor
    """(B, 3) factors of brightness, contrast and saturation."""
    hue: Tensor
    """(B,) hue shift in turns."""
    order: Tensor
    """(B, 4) which of the four jitters comes first, second, ..."""
    grayscale: Tensor
    """(B,) bool."""
    sigma: Tensor
    """(B,) blur in pixels, 0 where there is none."""
    solarize: Tensor
    """(B,) bool."""

    def __getitem__(self, rows: Tensor) -> "ViewDraws":
        """The parameters of some of the views, (R,) int64."""
        return ViewDraws(**{name: values[rows] for name, values in vars(self).items()})


class EpochDraws:
    """The draws of all views of resident images, made at the first step of an epoch.

    A step then only looks up its own, instead of starting a hundred small operations on a GPU.
    """

    def __init__(self, run: RunParams, images: Tensor, views: int) -> None:
        """Draws nothing yet.

        Args:
            run: the run, for its seed and the distribution of views.
            images: (N, 3, H, W), on any device.
            views: number of views of each image.
        """
        self._run = run
        self._images, self._size, self._device = len(images), images.shape[-2:], images.device
        self._views = views
        self._epoch: int | None = None
        self._drawn: ViewDraws | None = None

    def of(self, samples: Tensor, epoch: int, views: Tensor) -> ViewDraws:
        """What `draw_views` draws for views (R,) of samples (R,), both int64, in an epoch."""
        return self.all(epoch)[views * self._images + samples]

    def all(self, epoch: int) -> ViewDraws:
        """The draws of an epoch, ordered by view, then sample; every epoch in the same memory."""
        if self._drawn is None:
            self._drawn = self._draw(epoch)
        elif self._epoch != epoch:
            for name, values in vars(self._draw(epoch)).items():
                vars(self._drawn)[name].copy_(values)
        self._epoch = epoch
        return self._drawn

    def _draw(self, epoch: int) -> ViewDraws:
        samples = torch.arange(self._images, device=self._device).repeat(self._views)
        views = torch.arange(self._views, device=self._device).repeat_interleave(self._images)
        blocks = zip(samples.split(DRAWN_AT_ONCE), views.split(DRAWN_AT_ONCE), strict=True)
        parts = [
            draw_views(rows, self._size, self._run.views, self._run.seed, epoch, of_rows)
            for rows, of_rows in blocks
        ]
        return ViewDraws(
            **{name: torch.cat([vars(part)[name] for part in parts]) for name in vars(parts[0])}
        )


def draw_views(
    samples: Tensor,
    image_size: Sequence[int | Tensor],
    params: ViewParams,
    seed: int,
    epoch: int,
    views: Tensor,
) -> ViewDraws:
    """Draws the parameters of one view per row, distributed as in torchvision's transforms.

    Args:
        samples: (B,) int64.
        image_size: height and width of the images, pixels; (B,) float tensors if images differ.
        params: the distribution of views.
        seed: the run's seed.
        epoch: from 1.
        views: (B,) int64, index of each row's view of its sample.
    """
    word = derived_seed(Stream.VIEWS, seed)
    key = (word & 0xFFFFFFFF, word >> 32)
    u = uniforms(samples, epoch, views, key, UNIFORMS_PER_VIEW)
    attempts, rest = u[:, : 2 * CROP_ATTEMPTS], u[:, 2 * CROP_ATTEMPTS :].unbind(1)
    # Changing their order changes the numbers of every run.
    down, right, flip, jittered, *factors, hue, order, gray, sigma, blurred, solarized = rest
    top, left, height, width = _draw_boxes(attempts, down, right, image_size, params)
    jitter = params.jitter
    strengths = device_constant((jitter.brightness, jitter.contrast, jitter.saturation), u.device)
    orders = device_constant(JITTER_ORDERS, u.device, torch.int64)
    low, high = params.blur.sigma
    return ViewDraws(
        top=top,
        left=left,
        height=height,
        width=width,
        flip=flip < params.flip_probability,
        jitter=jittered < jitter.probability,
        factors=1 + strengths * (2 * torch.stack(factors, dim=1) - 1),
        hue=jitter.hue * (2 * hue - 1),
        order=orders[(order * len(JITTER_ORDERS)).long()],
        grayscale=gray < params.grayscale_probability,
        sigma=torch.where(blurred < params.blur.probability, low + (high - low) * sigma, 0.0),
        solarize=solarized < params.solarize.probability,
    )


def _draw_boxes(
    attempts: Tensor,
    down: Tensor,
    right: Tensor,
    image_size: Sequence[int | Tensor],
    params: ViewParams,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height and width (B,) of crops, as RandomResizedCrop draws them.

    Area is uniform, ratio log-uniform. The first attempt that fits is taken, else the largest
    centre crop with a ratio in range. The position is uniform over those where the box fits.
    """
    rows, columns = (_per_image(size, down) for size in image_size)
    scale_low, scale_high = params.crop_scale
    ratio_low, ratio_high = (math.log(ratio) for ratio in params.crop_ratio)
    share = scale_low + (scale_high - scale_low) * attempts[:, 0::2]
    area = (rows * columns)[:, None] * share
    ratio = torch.exp(ratio_low + (ratio_high - ratio_low) * attempts[:, 1::2])
    widths, heights = torch.sqrt(area * ratio).round(), torch.sqrt(area / ratio).round()
    fits = (widths >= 1) & (widths <= columns[:, None])
    fits &= (heights >= 1) & (heights <= rows[:, None])
    found, first = fits.any(dim=1), fits.int().argmax(dim=1, keepdim=True)
    narrowest, widest = params.crop_ratio
    spare_height = torch.minimum(rows, (columns / narrowest).round())
    spare_width = torch.minimum(columns, (rows * widest).round())
    height = torch.where(found, heights.gather(1, first).squeeze(1), spare_height)
    width = torch.where(found, widths.gather(1, first).squeeze(1), spare_width)
    top = torch.where(found, ((rows - height + 1) * down).floor(), ((rows - height) / 2).floor())
    left = torch.where(
        found, ((columns - width + 1) * right).floor(), ((columns - width) / 2).floor()
    )
    return top, left, height, width


def _per_image(size: int | Tensor, like: Tensor) -> Tensor:
    """Heights or widths (B,) of all images, which have one size or their own."""
    return size if isinstance(size, Tensor) else torch.full_like(like, size)
