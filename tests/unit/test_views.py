"""Views: comparison with torchvision's per-image functions, distributions and counters."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms.v2 import functional as reference

from hamjepa_audit.data.philox import philox4x32, uniforms
from hamjepa_audit.data.view_draws import (
    BRIGHTNESS,
    CONTRAST,
    HUE,
    SATURATION,
    ViewDraws,
    draw_views,
)
from hamjepa_audit.data.views import (
    apply_views,
    crop_and_resize,
    gaussian_blur,
    jitter_colours,
    luma,
    plain_views,
    random_views,
    shift_hue,
)
from hamjepa_audit.params import load_study
from hamjepa_audit.params.studies import ViewParams

LEVEL = 1 / 255
COUNT = 24
FIRST = torch.zeros(COUNT, dtype=torch.long)


@pytest.fixture(scope="module")
def params(params_folder: Path) -> ViewParams:
    return load_study(params_folder, "cifar100").views


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Smooth colour images with some noise, and uniform ones: black, white and grey."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(COUNT, 3, 5, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")
    noisy = (smooth + 0.1 * torch.randn(smooth.shape, generator=generator)).clamp(0, 1)
    noisy[0], noisy[1], noisy[2] = 0.0, 1.0, 0.5
    return (noisy * 255).round().to(torch.uint8)


@pytest.fixture(scope="module")
def draws(params: ViewParams) -> ViewDraws:
    return draw_views(torch.arange(COUNT), (32, 32), params, seed=1, epoch=2, views=FIRST)


def test_philox_gives_the_published_answers() -> None:
    """The known-answer tests of Random123's philox4x32-10."""
    ones = 0xFFFFFFFF
    cases = [
        ([0] * 4, (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([ones] * 4, (ones, ones), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ]
    for counter, key, expected in cases:
        assert philox4x32(torch.tensor(counter), key).tolist() == expected


def test_uniforms_are_uniform_and_independent() -> None:
    samples = torch.arange(5000)
    numbers = uniforms(samples, 1, torch.zeros_like(samples), (7, 9), count=6).numpy()
    assert numbers.min() >= 0 and numbers.max() < 1
    assert stats.kstest(numbers.ravel(), "uniform").pvalue > 0.001
    assert np.abs(np.corrcoef(numbers.T) - np.eye(6)).max() < 0.06


@pytest.mark.parametrize("index", range(COUNT))
def test_crop_resize_and_flip(images: torch.Tensor, draws: ViewDraws, index: int) -> None:
    ours = crop_and_resize(images.float() / 255, draws, 32)[index]
    box = [int(getattr(draws, side)[index]) for side in ("top", "left", "height", "width")]
    expected = reference.resized_crop(images[index].float() / 255, *box, [32, 32], antialias=True)
    if draws.flip[index]:
        expected = reference.horizontal_flip(expected)
    assert (ours - expected).abs().max() < 1e-5


def test_reduction_is_antialiased(images: torch.Tensor, draws: ViewDraws) -> None:
    whole = dataclasses.replace(
        draws,
        top=torch.zeros(COUNT),
        left=torch.zeros(COUNT),
        height=torch.full((COUNT,), 32.0),
        width=torch.full((COUNT,), 32.0),
        flip=torch.zeros(COUNT, dtype=torch.bool),
    )
    ours = crop_and_resize(images.float() / 255, whole, 13)
    expected = reference.resize(images.float() / 255, [13, 13], antialias=True)
    assert (ours - expected).abs().max() < 1e-5


def test_colour_jitter_in_every_order(images: torch.Tensor, draws: ViewDraws) -> None:
    x = images.float() / 255
    ours = jitter_colours(x, draws)
    assert len({tuple(order) for order in draws.order.tolist()}) > 5
    for index in range(COUNT):
        image = x[index]
        brightness, contrast, saturation = draws.factors[index].tolist()
        for operation in draws.order[index].tolist():
            image = {
                BRIGHTNESS: lambda image, f=brightness: reference.adjust_brightness(image, f),
                CONTRAST: lambda image, f=contrast: reference.adjust_contrast(image, f),
                SATURATION: lambda image, f=saturation: reference.adjust_saturation(image, f),
                HUE: lambda image, f=float(draws.hue[index]): reference.adjust_hue(image, f),
            }[operation](image)
        assert (ours[index] - image).abs().max() < LEVEL


@pytest.mark.parametrize("turns", [-0.5, -0.1, 0.0, 0.03, 0.1, 0.5])
def test_hue(images: torch.Tensor, turns: float) -> None:
    x = images.float() / 255
    expected = reference.adjust_hue(x, turns)
    assert (shift_hue(x, torch.full((COUNT,), turns)) - expected).abs().max() < 1e-5


def test_grayscale(images: torch.Tensor) -> None:
    x = images.float() / 255
    assert (luma(x) - reference.rgb_to_grayscale(x)).abs().max() < 1e-5


@pytest.mark.parametrize("kernel", [3, 23])
def test_blur(images: torch.Tensor, kernel: int) -> None:
    x = images.float() / 255
    sigma = torch.linspace(0.1, 2.0, COUNT)
    ours = gaussian_blur(x, sigma, kernel)
    for index in range(COUNT):
        width = float(sigma[index])
        expected = reference.gaussian_blur(x[index], [kernel, kernel], [width, width])
        assert (ours[index] - expected).abs().max() < 1e-5
    assert torch.equal(gaussian_blur(x, torch.zeros(COUNT), kernel), x)


def test_whole_view_against_torchvision_on_bytes(
    images: torch.Tensor, draws: ViewDraws, params: ViewParams
) -> None:
    """The whole chain without colour jitter, so that rounding to bytes can't accumulate."""
    plain = dataclasses.replace(draws, jitter=torch.zeros(COUNT, dtype=torch.bool))
    ours = apply_views(images, plain, params)
    for index in range(COUNT):
        box = [int(getattr(draws, side)[index]) for side in ("top", "left", "height", "width")]
        image = reference.resized_crop(images[index], *box, [32, 32], antialias=True)
        image = reference.horizontal_flip(image) if draws.flip[index] else image
        image = reference.rgb_to_grayscale(image, 3) if draws.grayscale[index] else image
        sigma = float(draws.sigma[index])
        image = reference.gaussian_blur(image, [3, 3], [sigma, sigma]) if sigma else image
        before = image
        image = reference.solarize(image, 128.0) if draws.solarize[index] else image
        # Near the threshold, rounding decides whether a pixel is inverted.
        decided = (before.int() - 128).abs() > 2
        difference = (ours[index] * 255 - image.float()).abs()
        assert (difference * decided).max() < 2.5


def test_parameters_have_torchvisions_distributions(params: ViewParams) -> None:
    count = 20_000
    samples = torch.arange(count)
    draws = draw_views(samples, (32, 32), params, 0, 1, torch.ones_like(samples))
    area = draws.height * draws.width / 32**2
    ratio = draws.width / draws.height
    assert float(area.min()) > 0.27 and float(area.max()) <= 1.0
    assert float(ratio.min()) > 0.70 and float(ratio.max()) < 1.42
    assert abs(float(ratio.log().mean())) < 0.01
    assert (draws.top + draws.height <= 32).all() and (draws.left + draws.width <= 32).all()
    for flag, probability in [
        (draws.flip, 0.5), (draws.jitter, 0.8), (draws.grayscale, 0.2),
        (draws.solarize, 0.2), (draws.sigma > 0, 0.5),
    ]:  # fmt: skip
        assert abs(float(flag.float().mean()) - probability) < 4 * 0.5 / math.sqrt(count)
    bounds = torch.tensor([0.4, 0.4, 0.2])
    scaled = ((draws.factors - 1) / (2 * bounds) + 0.5).numpy()
    for column in [*scaled.T, (draws.hue / 0.2 + 0.5).numpy()]:
        assert stats.kstest(column, "uniform").pvalue > 0.001
    orders, counts = np.unique(draws.order.numpy(), axis=0, return_counts=True)
    assert len(orders) == 24 and stats.chisquare(counts).pvalue > 0.001


def test_parameters_of_a_view_are_independent(params: ViewParams) -> None:
    samples = torch.arange(20_000)
    draws = draw_views(samples, (200, 200), params, 0, 1, torch.ones_like(samples))
    low, high = params.blur.sigma
    widths = draws.sigma[draws.sigma > 0]
    assert stats.kstest(((widths - low) / (high - low)).numpy(), "uniform").pvalue > 0.001
    flags = (draws.flip, draws.jitter, draws.grayscale, draws.solarize, draws.sigma > 0)
    # Relative position of the crop in the free space.
    down = draws.top / (201 - draws.height)
    right = draws.left / (201 - draws.width)
    columns = [*flags, *draws.factors.T, draws.hue, down, right, draws.height * draws.width]
    numbers = np.stack([column.double().numpy() for column in columns])
    apart = np.corrcoef(numbers) - np.eye(len(numbers))
    apart[-1], apart[:, -1] = 0.0, 0.0  # larger crops have fewer places
    assert np.abs(apart).max() < 0.04


@pytest.mark.parametrize(("rows", "columns"), [(30, 20), (101, 10), (20, 30), (10, 101)])
def test_where_no_box_fits_it_is_torchvisions_in_the_centre(
    params: ViewParams, rows: int, columns: int
) -> None:
    from torchvision.transforms.v2 import RandomResizedCrop

    whole = params.model_copy(update={"crop_scale": (1.0, 1.0)})
    transform = RandomResizedCrop(32, whole.crop_scale, whole.crop_ratio)
    expected = transform.make_params([torch.zeros(3, rows, columns)])
    samples = torch.arange(50)
    each = tuple(torch.full((50,), float(length)) for length in (rows, columns))
    for size in ((rows, columns), each):
        ours = draw_views(samples, size, whole, 5, 1, torch.zeros_like(samples))
        for side in ("top", "left", "height", "width"):
            assert set(getattr(ours, side).tolist()) == {expected[side]}, side


def test_solarizing_inverts_from_the_threshold_on(params: ViewParams, draws: ViewDraws) -> None:
    nothing = torch.zeros(COUNT, dtype=torch.bool)
    flat = dataclasses.replace(
        draws, jitter=nothing, grayscale=nothing, solarize=~nothing, sigma=torch.zeros(COUNT),
        top=torch.zeros(COUNT), left=torch.zeros(COUNT),
        height=torch.full((COUNT,), 32.0), width=torch.full((COUNT,), 32.0),
    )  # fmt: skip
    for level, expected in ((127.75, 127.75), (128.0, 127.0), (200.0, 55.0)):
        views = apply_views(torch.full((COUNT, 3, 32, 32), level), flat, params)
        torch.testing.assert_close(255 * views, torch.full_like(views, expected))


def test_crop_boxes_follow_random_resized_crop(params: ViewParams) -> None:
    from torchvision.transforms.v2 import RandomResizedCrop

    torch.manual_seed(0)
    transform = RandomResizedCrop(32, params.crop_scale, params.crop_ratio)
    blank = torch.zeros(3, 32, 32)
    boxes = [transform.make_params([blank]) for _ in range(6000)]
    samples = torch.arange(6000)
    ours = draw_views(samples, (32, 32), params, 5, 1, torch.zeros_like(samples))
    for side in ("top", "left", "height", "width"):
        theirs = np.array([box[side] for box in boxes])
        assert stats.ks_2samp(theirs, getattr(ours, side).numpy()).pvalue > 0.001, side


def test_views_depend_on_seed_epoch_sample_and_view_alone(
    images: torch.Tensor, params: ViewParams
) -> None:
    samples = torch.arange(100, 100 + COUNT)
    whole = random_views(images, samples, params, seed=1, epoch=3, views=FIRST)
    part = random_views(images[5:9], samples[5:9], params, seed=1, epoch=3, views=FIRST[5:9])
    assert torch.allclose(whole[5:9], part, atol=1e-5)
    both = random_views(
        images.repeat(2, 1, 1, 1), samples.repeat(2), params, 1, 3, torch.cat([FIRST, FIRST + 1])
    )
    assert torch.allclose(both[:COUNT], whole, atol=1e-5)
    for change in ({"seed": 2}, {"epoch": 4}, {"views": FIRST + 1}):
        counter = {"seed": 1, "epoch": 3, "views": FIRST} | change
        other = random_views(images, samples, params, **counter)
        assert not torch.allclose(whole, other, atol=0.1)
    assert not torch.allclose(both[COUNT:], whole, atol=0.1)


@pytest.mark.parametrize("size", [28, 29, 31, 32])  # torchvision rounds odd margins to even
def test_plain_views_are_the_normalised_centre(
    images: torch.Tensor, params: ViewParams, size: int
) -> None:
    small = params.model_copy(update={"size": size})
    expected = reference.normalize(
        reference.center_crop(images.float() / 255, [size, size]),
        list(params.mean),
        list(params.std),
    )
    assert torch.allclose(plain_views(images, small), expected, atol=1e-6)
