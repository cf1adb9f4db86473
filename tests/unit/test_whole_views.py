"""Views of whole images: crops agree with torchvision's."""

from typing import Any

import numpy as np
import pytest
import torch
from torchvision import transforms
from torchvision.transforms import functional

from hamjepa_audit.data.store import Store, WholeSplit
from hamjepa_audit.data.streaming import StreamedImages
from hamjepa_audit.data.view_draws import draw_views
from hamjepa_audit.data.views import plain_views, random_views
from hamjepa_audit.data.whole_images import WholeImages, largest_box
from hamjepa_audit.params import load_study
from tests.conftest import REPOSITORY
from tests.unit import whole_pictures
from tests.unit.whole_pictures import CPU, image_of

originals, store = whole_pictures.originals, whole_pictures.store


@pytest.fixture(scope="module")
def params() -> Any:
    views = load_study(REPOSITORY / "params", "cifar100").views
    return views.model_copy(update={"size": 20})


def whole(split: WholeSplit, rows: list[int]) -> WholeImages:
    _, images = next(iter(StreamedImages(split, CPU).batches([torch.tensor(rows)])))
    assert isinstance(images, WholeImages)
    return images


def test_a_streamed_batch_holds_its_images(store: Store) -> None:
    assert isinstance(store.train, WholeSplit)
    rows = [5, 100, 5, 7]
    images = whole(store.train, rows)
    for place, row in enumerate(rows):
        expected = image_of(store.train, row)
        height, width = expected.shape[:2]
        box = [torch.full((4,), value) for value in (0, 0, 1, 1)]
        box[2][place], box[3][place] = height, width
        cut = images.boxes(*box, side=images.longest_side)[place]
        np.testing.assert_array_equal(cut[:, :height, :width].permute(1, 2, 0), expected)


def test_crops_of_whole_images_are_torchvisions(store: Store, params: Any) -> None:
    """Compares each view's crop and flip, without colour changes, with torchvision's resizing."""
    assert isinstance(store.train, WholeSplit)
    plain = params.model_copy(
        update={
            "grayscale_probability": 0.0,
            "jitter": params.jitter.model_copy(update={"probability": 0.0}),
            "blur": params.blur.model_copy(update={"probability": 0.0}),
            "solarize": params.solarize.model_copy(update={"probability": 0.0}),
            "mean": (0.0, 0.0, 0.0),
            "std": (1.0, 1.0, 1.0),
        }
    )
    rows = list(range(0, 105, 3))
    images, samples = whole(store.train, rows), torch.tensor(rows)
    which = torch.zeros_like(samples)
    views = random_views(images, samples, plain, 3, 2, which)
    sizes = images.sizes.float().unbind(1)
    draws = draw_views(samples, sizes, plain, 3, 2, which)
    for place, row in enumerate(rows):
        top, left, height, width = (
            int(x[place]) for x in (draws.top, draws.left, draws.height, draws.width)
        )
        picture = image_of(store.train, row)
        assert top + height <= picture.shape[0] and left + width <= picture.shape[1]
        planes = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255
        expected = functional.resized_crop(
            planes, top, left, height, width, [20, 20], antialias=True
        )[0]
        if draws.flip[place]:
            expected = expected.flip(-1)
        torch.testing.assert_close(views[place], expected, atol=2e-6, rtol=0)


def test_boxes_of_equal_sizes_are_those_of_square_images(params: Any) -> None:
    samples = torch.arange(500)
    views = torch.ones_like(samples)
    same = torch.full((500,), 24.0)
    ours = draw_views(samples, (same, same), params, 1, 1, views)
    square = draw_views(samples, (24, 24), params, 1, 1, views)
    for name in ("top", "left", "height", "width", "flip"):
        assert torch.equal(getattr(ours, name), getattr(square, name)), name


@pytest.mark.parametrize("ratios", [(0.75, 4 / 3), (0.9, 1.0), (1.0, 2.0)])
def test_boxes_fit_in_their_images_and_under_the_bound(
    params: Any, ratios: tuple[float, float]
) -> None:
    chosen = params.model_copy(update={"crop_ratio": ratios})
    samples = torch.arange(4000)
    rows = torch.randint(24, 200, (4000,), generator=torch.Generator().manual_seed(0)).float()
    columns = torch.where(samples % 2 == 0, 24.0, rows)
    rows = torch.where(samples % 2 == 0, rows, 24.0)
    draws = draw_views(samples, (rows, columns), chosen, 0, 1, torch.zeros_like(samples))
    assert bool((draws.top >= 0).all() and (draws.top + draws.height <= rows).all())
    assert bool((draws.left >= 0).all() and (draws.left + draws.width <= columns).all())
    bound = largest_box(24, 200, ratios)
    assert max(draws.height.max(), draws.width.max()) <= bound <= 24 * 2 + 2


def test_views_depend_on_nothing_but_seed_epoch_sample_and_view(store: Store, params: Any) -> None:
    assert isinstance(store.train, WholeSplit)

    def views(rows: list[int], epoch: int = 1, view: int = 0) -> torch.Tensor:
        samples = torch.tensor(rows)
        which = torch.full_like(samples, view)
        return random_views(whole(store.train, rows), samples, params, 0, epoch, which)

    alone, together = views([9]), views([3, 9, 80])
    torch.testing.assert_close(alone[0], together[1], atol=1e-5, rtol=0)
    assert not torch.allclose(alone, views([9], epoch=2))
    assert not torch.allclose(alone, views([9], view=1))


def test_plain_views_are_torchvisions_centre_crops(store: Store, params: Any) -> None:
    assert isinstance(store.test, WholeSplit)
    rows = list(range(18))
    views = plain_views(whole(store.test, rows), params)
    evaluation = transforms.Compose([
        transforms.ToPILImage(), transforms.CenterCrop(20), transforms.ToTensor(),
        transforms.Normalize(params.mean, params.std),
    ])  # fmt: skip
    for row in rows:
        torch.testing.assert_close(views[row], evaluation(image_of(store.test, row).copy()))
