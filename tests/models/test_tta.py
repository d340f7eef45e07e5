"""Views of a photo: what their names say, of the model's size, never upside down, and a mean that is ttach's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import ttach
from torch import Tensor, nn

from ensemble.models.array_views import array_views
from ensemble.models.build import to_input
from ensemble.models.tta import apply_view, stack_views
from ensemble.recipes.views import STEPS, VIEWS

NORMALISATION = ((0.5, 0.4, 0.3), (0.25, 0.2, 0.3))
MEAN, STD = (torch.tensor(v).view(1, 3, 1, 1) for v in NORMALISATION)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)).eval()


@pytest.fixture
def x() -> Tensor:
    return torch.rand(5, 3, 12, 10, generator=torch.Generator().manual_seed(1))


def shown(x: Tensor, view: str) -> Tensor:
    return apply_view(x, view, NORMALISATION)


def logits(model: nn.Module, x: Tensor, tta: str) -> Tensor:
    with torch.no_grad():
        return torch.stack(model(stack_views(x, VIEWS[tta], NORMALISATION)).chunk(len(VIEWS[tta])))


def test_flip_is_the_photo_and_its_mirror_image_and_their_mean_ttachs_own(model: nn.Module, x: Tensor) -> None:
    assert torch.equal(shown(x, "identity"), x)
    assert torch.equal(shown(x, "hflip"), x.flip(3)), "left to right, never upside down"
    found = logits(model, x, "flip")
    assert found.shape == (2, 5, 3)
    assert not torch.allclose(found[1], found[0])
    wrapper = ttach.ClassificationTTAWrapper(model, ttach.aliases.hflip_transform(), merge_mode="mean")
    with torch.no_grad():
        assert torch.allclose(found.mean(dim=0), wrapper(x), atol=1e-6)
        assert torch.allclose(logits(model, x, "none")[0], model(x), atol=1e-6), "none is the photo alone"


@pytest.mark.parametrize("tta", VIEWS)
def test_a_shipped_set_shows_the_photo_itself_and_views_that_all_differ(tta: str) -> None:
    assert VIEWS[tta][0] == "identity"
    larger = torch.rand(1, 3, 40, 30, generator=torch.Generator().manual_seed(2))
    found = [shown(larger, view) for view in VIEWS[tta]]
    assert all(not torch.equal(a, b) for n, a in enumerate(found) for b in found[:n])


@pytest.mark.parametrize("size", [(8, 33), (15, 9), (32, 24)])
@pytest.mark.parametrize("step", STEPS)
def test_a_view_has_the_photos_size_whatever_that_is(step: str, size: tuple[int, int]) -> None:
    x, limits = torch.rand(1, 3, *size), STEPS[step]
    numbers = np.linspace(*limits, 4) if limits else []
    for view in [f"{step}={number}" for number in numbers] or [step]:
        assert shown(x, view).shape == x.shape
        assert torch.isfinite(shown(x, view)).all()


@pytest.mark.parametrize("size", [(8, 33), (32, 24), (41, 47)])
def test_views_as_arrays_are_those_of_ttach(size: tuple[int, int]) -> None:
    photos = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    views = ["identity", "hflip scale=1.13 center_crop=0.83 crop_rb=0.77 multiply=1.2 add=-0.11"]
    views += [
        f"{step}={n:g}" if limits else step for step, limits in STEPS.items() for n in np.linspace(*limits or (0, 0), 5)
    ]
    x = to_input(torch.from_numpy(photos), *NORMALISATION, torch.device("cpu"))
    for view in views:
        np.testing.assert_allclose(
            array_views(photos, [view, "hflip"], NORMALISATION).transpose(0, 3, 1, 2),
            stack_views(x, [view, "hflip"], NORMALISATION),
            atol=1e-4,
            err_msg=view,
        )


def test_brightness_is_that_of_the_photo_and_ends_at_white() -> None:
    pixels = torch.tensor([0.0, 0.2, 0.5, 0.95]).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    x = (pixels - MEAN) / STD
    assert torch.allclose(shown(x, "multiply=1.2") * STD + MEAN, (1.2 * pixels).clamp(max=1), atol=1e-6)
    assert torch.allclose(shown(x, "add=-0.1") * STD + MEAN, (pixels - 0.1).clamp(min=0), atol=1e-6)


def test_larger_and_smaller_faces_stay_where_they_are() -> None:
    x = torch.zeros(1, 3, 40, 40)
    x[:, :, 14:26, 14:26] = 1  # a face in the middle
    larger, smaller = shown(x, "scale=1.5"), shown(x, "scale=0.5")
    assert larger[0, 0].sum() == pytest.approx(1.5**2 * 144, rel=0.1)
    assert smaller[0, 0].sum() == pytest.approx(0.5**2 * 144, rel=0.1)
    for found in (larger, smaller):
        assert torch.allclose(found, found.flip(2), atol=1e-6)
        assert torch.allclose(found, found.flip(3), atol=1e-6)
    assert torch.equal(shown(torch.ones(1, 3, 9, 9), "scale=0.5"), torch.ones(1, 3, 9, 9)), "no frame appears"


def test_a_crop_is_the_corner_that_it_is_named_for() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4).expand(1, 3, 4, 4)
    for view, rows, columns in (
        ("crop_lt=0.5", slice(0, 2), slice(0, 2)),
        ("crop_rt=0.5", slice(0, 2), slice(2, 4)),
        ("crop_lb=0.5", slice(2, 4), slice(0, 2)),
        ("crop_rb=0.5", slice(2, 4), slice(2, 4)),
        ("center_crop=0.5", slice(1, 3), slice(1, 3)),
    ):
        assert shown(x, view).mean() == pytest.approx(x[:, :, rows, columns].mean().item()), view
