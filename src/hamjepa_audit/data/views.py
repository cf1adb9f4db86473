"""Random views of images, a batch at a time on the device that holds the images.

Every image draws its own parameters, which depend on (seed, epoch, sample, view) alone. Resampling
is a product with two small matrices an image; all steps are float32 in [0, 1], where torchvision's
per-image functions round to 1/255.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from hamjepa_audit.data.philox import uniforms
from hamjepa_audit.data.whole_images import WholeImages, largest_box
from hamjepa_audit.params.studies import ViewParams
from hamjepa_audit.randomness import Stream, derived_seed

CROP_ATTEMPTS = 10
"""Boxes that torchvision's RandomResizedCrop tries before it takes a centre crop."""

UNIFORMS_PER_VIEW = 2 * CROP_ATTEMPTS + 14
LUMA = (0.2989, 0.587, 0.114)
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
JITTER_ORDERS = tuple(permutations(range(4)))


@dataclass(frozen=True)
class ViewDraws:
    """The parameters of a batch of views; every tensor has B rows."""

    top: Tensor
    """(B,) first row of the crop, pixels."""
    left: Tensor
    height: Tensor
    width: Tensor
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


def random_views(
    images: Tensor | WholeImages,
    samples: Tensor,
    params: ViewParams,
    seed: int,
    epoch: int,
    views: Tensor,
) -> Tensor:
    """One random view of every row, normalised. Rows may be several views of the same images.

    Args:
        images: (B, 3, H, W) uint8, or images of all shapes.
        samples: (B,) int64, the images' indices in their split, on the same device.
        params: the distribution of views.
        seed: the run's seed.
        epoch: from 1.
        views: (B,) int64, which view of its image each row is, on the same device.

    Returns:
        (B, 3, size, size) float32.
    """
    if isinstance(images, WholeImages):
        rows, columns = images.sizes.float().unbind(1)
        draws = draw_views(samples, (rows, columns), params, seed, epoch, views)
        images, draws = _cut_out(images, draws, params)
    else:
        draws = draw_views(samples, images.shape[-2:], params, seed, epoch, views)
    return normalise(apply_views(images, draws, params), params)


def _cut_out(images: WholeImages, draws: ViewDraws, params: ViewParams) -> tuple[Tensor, ViewDraws]:
    """The boxes in squares of one size, (B, 3, P, P) uint8, and the draws for these."""
    side = largest_box(images.shortest_side, images.longest_side, params.crop_ratio)
    cut = images.boxes(draws.top, draws.left, draws.height, draws.width, side)
    origin = torch.zeros_like(draws.top)
    return cut, replace(draws, top=origin, left=origin)


def plain_views(images: Tensor | WholeImages, params: ViewParams) -> Tensor:
    """The centre `size` square of every image, normalised: what evaluation sees.

    Args:
        images: (B, 3, H, W) uint8, or images of all shapes; at least `size` pixels each way.
        params: size, mean and std.

    Returns:
        (B, 3, size, size) float32.
    """
    if isinstance(images, WholeImages):
        images = images.centres(params.size)
    top, left = ((length - params.size) // 2 for length in images.shape[-2:])
    centre = images[..., top : top + params.size, left : left + params.size]
    return normalise(centre.float() / 255, params)


def normalise(images: Tensor, params: ViewParams) -> Tensor:
    """(images - mean) / std by channel; images (B, 3, S, S) in [0, 1]."""
    mean = constant(params.mean, images.device).view(3, 1, 1)
    std = constant(params.std, images.device).view(3, 1, 1)
    return (images - mean).div_(std)


def draw_views(
    samples: Tensor,
    image_size: Sequence[int | Tensor],
    params: ViewParams,
    seed: int,
    epoch: int,
    views: Tensor,
) -> ViewDraws:
    """The parameters of one view of every row, distributed as torchvision's transforms.

    Args:
        samples: (B,) int64.
        image_size: height and width of the images, pixels; (B,) float each where they differ.
        params: the distribution of views.
        seed: the run's seed.
        epoch: from 1.
        views: (B,) int64, which view of its sample each row is.
    """
    word = derived_seed(Stream.VIEWS, seed)
    key = (word & 0xFFFFFFFF, word >> 32)
    u = uniforms(samples, epoch, views, key, UNIFORMS_PER_VIEW)
    attempts, rest = u[:, : 2 * CROP_ATTEMPTS], u[:, 2 * CROP_ATTEMPTS :].unbind(1)
    top, left, height, width = _draw_boxes(attempts, rest[0], rest[1], image_size, params)
    jitter = params.jitter
    strengths = constant((jitter.brightness, jitter.contrast, jitter.saturation), u.device)
    orders = constant(JITTER_ORDERS, u.device).long()
    low, high = params.blur.sigma
    sigma = low + (high - low) * rest[10]
    return ViewDraws(
        top=top,
        left=left,
        height=height,
        width=width,
        flip=rest[2] < params.flip_probability,
        jitter=rest[3] < jitter.probability,
        factors=1 + strengths * (2 * torch.stack(rest[4:7], dim=1) - 1),
        hue=jitter.hue * (2 * rest[7] - 1),
        order=orders[(rest[8] * len(JITTER_ORDERS)).long()],
        grayscale=rest[9] < params.grayscale_probability,
        sigma=torch.where(rest[11] < params.blur.probability, sigma, 0.0),
        solarize=rest[12] < params.solarize.probability,
    )


def _draw_boxes(
    attempts: Tensor,
    down: Tensor,
    right: Tensor,
    image_size: Sequence[int | Tensor],
    params: ViewParams,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height and width (B,) of crops, as RandomResizedCrop draws them.

    Area uniform, ratio log-uniform; the first attempt that fits, else the largest centre crop
    with a ratio in range. The position is uniform over the places that the box fits in.
    """
    rows, columns = image_size
    scale_low, scale_high = params.crop_scale
    ratio_low, ratio_high = (math.log(ratio) for ratio in params.crop_ratio)
    # Beside the attempts (B, 10), sizes of their own stand in a column.
    height_limit, width_limit = (
        size[:, None] if isinstance(size, Tensor) else size for size in (rows, columns)
    )
    share = scale_low + (scale_high - scale_low) * attempts[:, 0::2]
    area = height_limit * width_limit * share
    ratio = torch.exp(ratio_low + (ratio_high - ratio_low) * attempts[:, 1::2])
    widths, heights = torch.sqrt(area * ratio).round(), torch.sqrt(area / ratio).round()
    fits = (widths >= 1) & (widths <= width_limit) & (heights >= 1) & (heights <= height_limit)
    found, first = fits.any(dim=1), fits.int().argmax(dim=1, keepdim=True)
    spare_height, spare_width = _centre_box(rows, columns, params.crop_ratio)
    height = torch.where(found, heights.gather(1, first).squeeze(1), spare_height)
    width = torch.where(found, widths.gather(1, first).squeeze(1), spare_width)
    top = torch.where(found, ((rows - height + 1) * down).floor(), ((rows - height) / 2).floor())
    left = torch.where(
        found, ((columns - width + 1) * right).floor(), ((columns - width) / 2).floor()
    )
    return top, left, height, width


def _centre_box(
    rows: int | Tensor, columns: int | Tensor, ratios: tuple[float, float]
) -> tuple[float | Tensor, float | Tensor]:
    """Height and width of the largest box whose ratio width / height is in range."""
    if isinstance(rows, Tensor):
        assert isinstance(columns, Tensor), "heights and widths come together"
        tallest, widest = (columns / ratios[0]).round(), (rows * ratios[1]).round()
        return torch.minimum(rows, tallest), torch.minimum(columns, widest)
    assert not isinstance(columns, Tensor)
    if columns / rows < ratios[0]:
        return float(round(columns / ratios[0])), float(columns)
    if columns / rows > ratios[1]:
        return float(rows), float(round(rows * ratios[1]))
    return float(rows), float(columns)


def apply_views(images: Tensor, draws: ViewDraws, params: ViewParams) -> Tensor:
    """Crop, flip, jitter, grayscale, blur, solarize, in this order.

    Args:
        images: (B, 3, H, W) uint8.
        draws: parameters of each image.
        params: size, blur kernel and solarize threshold.

    Returns:
        (B, 3, size, size) float32 in [0, 1].
    """
    x = crop_and_resize(images.float(), draws, params.size).div_(255)
    x = torch.where(_per_image(draws.jitter), jitter_colours(x, draws), x)
    x = torch.where(_per_image(draws.grayscale), luma(x), x)
    x = gaussian_blur(x, draws.sigma, params.blur.kernel_size)
    threshold = torch.where(draws.solarize, params.solarize.threshold / 255, torch.inf)
    return torch.where(x >= _per_image(threshold), 1 - x, x)


def crop_and_resize(images: Tensor, draws: ViewDraws, size: int) -> Tensor:
    """Box to size x size, bilinear with antialiasing, then flip: rows @ image @ columns^T.

    Args:
        images: (B, 3, H, W) float.
        draws: boxes and flips.
        size: of the result, pixels.

    Returns:
        (B, 3, size, size).
    """
    rows = _resampling(draws.top, draws.height, images.shape[-2], size)
    columns = _resampling(draws.left, draws.width, images.shape[-1], size)
    columns = torch.where(draws.flip[:, None, None], columns.flip(1), columns)
    return _separable(rows, images, columns)


def _separable(rows: Tensor, images: Tensor, columns: Tensor) -> Tensor:
    """Rows @ image @ columns^T for every image and channel: (B, R, H), (B, 3, H, W), (B, C, W)."""
    batch, channels, height, _ = images.shape
    across = images.reshape(batch, channels * height, -1) @ columns.mT
    return rows[:, None] @ across.view(batch, channels, height, -1)


def _resampling(start: Tensor, length: Tensor, pixels: int, size: int) -> Tensor:
    """(B, size, pixels): weights of the source pixels in each resampled one.

    A triangle, as wide as a source pixel when enlarging and as a target pixel when reducing; it
    never reaches beyond the box, and weights sum to one.
    """
    scale = (length / size)[:, None, None]
    target = torch.arange(size, device=start.device)[:, None]
    source = torch.arange(pixels, device=start.device)
    first, last = start[:, None, None], (start + length - 1)[:, None, None]
    centre = first + (target + 0.5) * scale - 0.5
    weights = (1 - (source - centre).abs_().div_(scale.clamp(min=1.0))).relu_()
    weights *= (source >= first) & (source <= last)
    return weights.div_(weights.sum(dim=-1, keepdim=True))


def jitter_colours(x: Tensor, draws: ViewDraws) -> Tensor:
    """Brightness, contrast, saturation and hue in every image's own order: (B, 3, S, S).

    The blends that come before an image's hue shift, the hue shift, and the blends after it; where
    an image has no blend at a place, the blend is with factor 1.
    """
    places = torch.arange(4, device=x.device)
    place_of_hue = (draws.order == HUE).int().argmax(dim=1, keepdim=True)
    before, after = _blends(draws, places < place_of_hue), _blends(draws, places > place_of_hue)
    for place in range(3):
        x = _blend(x, *before[:, :, place])
    x = shift_hue(x, draws.hue)
    for place in range(1, 4):
        x = _blend(x, *after[:, :, place])
    return x


def _blends(draws: ViewDraws, chosen: Tensor) -> Tensor:
    """(3, B, 4): at each place the weights of the image, its mean grey value and its grey image.

    Brightness, contrast and saturation are factor * x + (1 - factor) * base, where the base is
    black, the mean grey value or the grey image; at places that aren't `chosen` (B, 4) factor is 1.
    """
    factor = draws.factors.gather(1, draws.order.clamp(max=SATURATION))
    factor = torch.where(chosen, factor, 1.0)
    weight = 1 - factor
    contrast = weight * (draws.order == CONTRAST)
    saturation = weight * (draws.order == SATURATION)
    return torch.stack([factor, contrast, saturation])


def _blend(x: Tensor, factor: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """The image, its mean grey value and its grey image, summed with weights (B,), in [0, 1]."""
    gray = luma(x)
    mean = contrast * gray.mean(dim=(1, 2, 3))
    base = torch.addcmul(_per_image(mean), gray, _per_image(saturation))
    return torch.addcmul(base, x, _per_image(factor)).clamp_(0, 1)


def luma(x: Tensor) -> Tensor:
    """Grey value: (B, 3, S, S) -> (B, 1, S, S)."""
    red, green, blue = x.split(1, dim=1)
    return (LUMA[0] * red).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def shift_hue(x: Tensor, turns: Tensor) -> Tensor:
    """Hue rotated in HSV space.

    Args:
        x: (B, 3, S, S) in [0, 1].
        turns: (B,), full turns.
    """
    red, green, blue = x.unbind(1)
    low, high = (pick(pick(red, green), blue) for pick in (torch.minimum, torch.maximum))
    chroma = high - low
    inverse = 1 / torch.where(chroma == 0, 1.0, chroma)
    sextant = torch.where(
        red == high,
        (green - blue) * inverse,
        torch.where(green == high, 2 + (blue - red) * inverse, 4 + (red - green) * inverse),
    )
    hue = torch.add(sextant, turns.view(-1, 1, 1), alpha=6)
    hue.sub_(hue.div(6).floor_(), alpha=6)  # into [0, 6); remainder takes several times as long
    # How much of the chroma each channel has, by the distance of the hue from its own.
    shares = (
        (hue - 3).abs_().sub_(1),
        (hue - 2).abs_().neg_().add_(2),
        (hue - 4).abs_().neg_().add_(2),
    )
    return torch.stack([torch.addcmul(low, share.clamp_(0, 1), chroma) for share in shares], dim=1)


def gaussian_blur(x: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Gaussian blur with reflected borders; images with sigma 0 stay as they are.

    Args:
        x: (B, 3, S, S).
        sigma: (B,), pixels.
        kernel_size: odd, pixels, at most 2 S - 1.
    """
    radius = kernel_size // 2
    offsets = torch.arange(-radius, radius + 1, device=x.device)
    exponent = -0.5 * (offsets / sigma.clamp(min=1e-6)[:, None]).square()
    kernel = torch.softmax(exponent, dim=1)  # exp, normalised; sigma 0 leaves the centre alone
    matrix = torch.einsum("bk,koi->boi", kernel, _shifts(offsets, x.shape[-1]))
    return _separable(matrix, x, matrix)


def _shifts(offsets: Tensor, size: int) -> Tensor:
    """(kernel, size, size): for each offset the matrix that fetches the reflected neighbour."""
    position = torch.arange(size, device=offsets.device) + offsets[:, None]
    reflected = (size - 1) - ((size - 1) - position.abs()).abs()
    return (reflected[..., None] == torch.arange(size, device=offsets.device)).float()


@functools.cache
def constant(values: tuple[Any, ...], device: torch.device) -> Tensor:
    """A float32 tensor made once a device: making it anew would wait for the device every time."""
    return torch.tensor(values, dtype=torch.float32, device=device)


def _per_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
