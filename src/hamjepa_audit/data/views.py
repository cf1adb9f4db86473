"""Random views of images, a batch at a time on the device that holds the images.

Every image has its own parameters (`view_draws`). Resampling multiplies each image by two small
matrices. All steps are float32 in [0, 1]; torchvision's per-image functions round to 1/255.
"""

from dataclasses import replace

import torch
from torch import Tensor

from hamjepa_audit.data.view_draws import (
    CONTRAST,
    HUE,
    SATURATION,
    ViewDraws,
    draw_views,
)
from hamjepa_audit.data.whole_images import WholeImages, largest_box
from hamjepa_audit.device_constants import device_constant
from hamjepa_audit.params.studies import ViewParams

LUMA = (0.2989, 0.587, 0.114)


def random_views(
    images: Tensor | WholeImages,
    samples: Tensor,
    params: ViewParams,
    seed: int,
    epoch: int,
    views: Tensor,
    draws: ViewDraws | None = None,
) -> Tensor:
    """One normalised random view per row. Rows may be several views of the same images.

    Args:
        images: (B, 3, H, W) uint8, or images of varying shapes.
        samples: (B,) int64, the images' indices in their split, on the same device.
        params: the distribution of views.
        seed: the run's seed.
        epoch: from 1.
        views: (B,) int64, index of each row's view of its image, on the same device.
        draws: the rows' draws if they are known already; only for images of one shape.

    Returns:
        (B, 3, size, size) float32.
    """
    if isinstance(images, WholeImages):
        rows, columns = images.sizes.float().unbind(1)
        draws = draw_views(samples, (rows, columns), params, seed, epoch, views)
        images, draws = _cut_out(images, draws, params)
    elif draws is None:
        draws = draw_views(samples, images.shape[-2:], params, seed, epoch, views)
    return normalise(apply_views(images, draws, params), params)


def _cut_out(images: WholeImages, draws: ViewDraws, params: ViewParams) -> tuple[Tensor, ViewDraws]:
    """Crop boxes cut out into squares of one size, (B, 3, P, P) uint8, and the draws for them."""
    side = largest_box(images.shortest_side, images.longest_side, params.crop_ratio)
    cut = images.boxes(draws.top, draws.left, draws.height, draws.width, side)
    origin = torch.zeros_like(draws.top)
    return cut, replace(draws, top=origin, left=origin)


def plain_views(images: Tensor | WholeImages, params: ViewParams) -> Tensor:
    """The centre `size` square of every image, normalised: what evaluation sees.

    Args:
        images: (B, 3, H, W) uint8, or images of varying shapes; at least `size` pixels each way.
        params: size, mean and std.

    Returns:
        (B, 3, size, size) float32.
    """
    if isinstance(images, WholeImages):
        images = images.centres(params.size)
    top, left = (round((length - params.size) / 2) for length in images.shape[-2:])
    centre = images[..., top : top + params.size, left : left + params.size]
    return normalise(centre.float() / 255, params)


def normalise(images: Tensor, params: ViewParams) -> Tensor:
    """(images - mean) / std by channel; images (B, 3, S, S) in [0, 1]."""
    mean = device_constant(params.mean, images.device).view(3, 1, 1)
    std = device_constant(params.std, images.device).view(3, 1, 1)
    return (images - mean).div_(std)


def apply_views(images: Tensor, draws: ViewDraws, params: ViewParams) -> Tensor:
    """Crops, flips, jitters, turns grey, blurs and solarizes, in this order.

    (B, 3, H, W) uint8 -> (B, 3, size, size) float32 in [0, 1].
    """
    x = crop_and_resize(images.float(), draws, params.size).div_(255)
    x = torch.where(_per_image(draws.jitter), jitter_colours(x, draws), x)
    x = torch.where(_per_image(draws.grayscale), luma(x), x)
    x = gaussian_blur(x, draws.sigma, params.blur.kernel_size)
    threshold = torch.where(draws.solarize, params.solarize.threshold / 255, torch.inf)
    return torch.where(x >= _per_image(threshold), 1 - x, x)


def crop_and_resize(images: Tensor, draws: ViewDraws, size: int) -> Tensor:
    """Resizes boxes to size x size, bilinear with antialiasing, and flips them.

    (B, 3, H, W) float -> (B, 3, size, size).
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
    """Resampling weights (B, size, pixels) of the source pixels for each target pixel.

    A triangle filter, as wide as a source pixel when enlarging and as a target pixel when
    reducing; it is cut off at the box, and weights sum to one.
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
    """Jitters brightness, contrast, saturation and hue in each image's own order: (B, 3, S, S).

    Applies the blends before each image's hue shift, the hue shift, and the blends after it. An
    image without a blend at some place is blended with factor 1 there.
    """
    places = torch.arange(4, device=x.device)
    place_of_hue = (draws.order == HUE).int().argmax(dim=1, keepdim=True)
    before, after = _blends(draws, places < place_of_hue), _blends(draws, places > place_of_hue)
    x = x.clone()
    for place in range(3):
        _blend_(x, *before[:, :, place])
    x = shift_hue(x, draws.hue)
    for place in range(1, 4):
        _blend_(x, *after[:, :, place])
    return x


def _blends(draws: ViewDraws, chosen: Tensor) -> Tensor:
    """Weights (3, B, 4), at each place, of the image, its mean grey value and its grey image.

    Brightness, contrast and saturation are factor * x + (1 - factor) * base, where the base is
    black, the mean grey value or the grey image; at places not in `chosen` (B, 4) the factor is 1.
    """
    factor = draws.factors.gather(1, draws.order.clamp(max=SATURATION))
    factor = torch.where(chosen, factor, 1.0)
    weight = 1 - factor
    contrast = weight * (draws.order == CONTRAST)
    saturation = weight * (draws.order == SATURATION)
    return torch.stack([factor, contrast, saturation])


def _blend_(x: Tensor, factor: Tensor, contrast: Tensor, saturation: Tensor) -> None:
    """Weighted sum of image, mean grey value and grey image, in place; weights (B,), in [0, 1]."""
    gray = luma(x)
    mean = contrast * gray.mean(dim=(1, 2, 3))
    base = torch.addcmul(_per_image(mean), gray, _per_image(saturation))
    torch.addcmul(base, x, _per_image(factor), out=x).clamp_(0, 1)


def luma(x: Tensor) -> Tensor:
    """Grey value: (B, 3, S, S) -> (B, 1, S, S)."""
    red, green, blue = x.split(1, dim=1)
    return (LUMA[0] * red).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def shift_hue(x: Tensor, turns: Tensor) -> Tensor:
    """Rotates the hue of (B, 3, S, S) in [0, 1] by (B,) full turns, in HSV space."""
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
    hue.sub_(hue.div(6).floor_(), alpha=6)  # into [0, 6); torch.remainder is several times slower
    # Each channel's share of the chroma, by the distance of the hue from the channel's own.
    shares = (
        (hue - 3).abs_().sub_(1),
        (hue - 2).abs_().neg_().add_(2),
        (hue - 4).abs_().neg_().add_(2),
    )
    return torch.stack([torch.addcmul(low, share.clamp_(0, 1), chroma) for share in shares], dim=1)


def gaussian_blur(x: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Gaussian blur of (B, 3, S, S) with reflected borders; images with sigma 0 are unchanged.

    Sigma (B,) is in pixels; the kernel's size is odd and at most 2 S - 1.
    """
    radius = kernel_size // 2
    offsets = torch.arange(-radius, radius + 1, device=x.device)
    exponent = -0.5 * (offsets / sigma.clamp(min=1e-6)[:, None]).square()
    kernel = torch.softmax(exponent, dim=1)  # normalised exp; sigma 0 keeps only the centre
    matrix = torch.einsum("bk,koi->boi", kernel, _shifts(offsets, x.shape[-1]))
    return _separable(matrix, x, matrix)


def _shifts(offsets: Tensor, size: int) -> Tensor:
    """Matrices (kernel, size, size) that fetch the neighbour at each offset, with reflection."""
    position = torch.arange(size, device=offsets.device) + offsets[:, None]
    reflected = (size - 1) - ((size - 1) - position.abs()).abs()
    return (reflected[..., None] == torch.arange(size, device=offsets.device)).float()


def _per_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
