"""Views of a photo: mirrored, never upside down, and a mean that is ttach's own."""

from __future__ import annotations

import pytest
import torch
import ttach
from torch import Tensor, nn

from ensemble.models.tta import apply_view, stack_views, unstack_views
from ensemble.recipes.tta_views import ALL_VIEWS, SETS, VIEWS, views_of
from folds.errors import MaskensError


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)).eval()


@pytest.fixture
def x() -> Tensor:
    return torch.rand(5, 3, 12, 10, generator=torch.Generator().manual_seed(1))


def logits(model: nn.Module, x: Tensor, tta: str) -> Tensor:
    with torch.no_grad():
        return unstack_views(model(stack_views(x, views_of(tta))), views_of(tta))


def test_flip_is_the_photo_and_its_mirror_image(model: nn.Module, x: Tensor) -> None:
    assert torch.equal(apply_view(x, "identity"), x)
    assert torch.equal(apply_view(x, "hflip"), x.flip(3)), "left to right, never upside down"
    found = logits(model, x, "flip")
    assert found.shape == (2, 5, 3)
    assert not torch.allclose(found[1], found[0])


def test_the_mean_over_views_is_ttachs_own(model: nn.Module, x: Tensor) -> None:
    wrapper = ttach.ClassificationTTAWrapper(model, ttach.aliases.hflip_transform(), merge_mode="mean")
    with torch.no_grad():
        assert torch.allclose(logits(model, x, "flip").mean(dim=0), wrapper(x), atol=1e-6)


def test_none_is_the_photo_alone(model: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        assert torch.allclose(logits(model, x, "none")[0], model(x), atol=1e-6)


@pytest.mark.parametrize("tta", SETS)
def test_every_view_can_be_made_and_is_kept_out_of_fold(tta: str, x: Tensor) -> None:
    for view in VIEWS[tta]:
        assert apply_view(x, view).shape[:2] == x.shape[:2]
        assert view in ALL_VIEWS
    assert ALL_VIEWS[0] == "identity"


def test_an_unknown_set_is_refused_with_those_there_are() -> None:
    with pytest.raises(MaskensError, match="--tta flipp: there are none, flip"):
        views_of("flipp")
