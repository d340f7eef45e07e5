from __future__ import annotations

import pytest
import torch
import ttach
from torch import nn

from ensemble.models.tta import transforms, view_logits
from ensemble.recipes.views import TTAS, VIEWS


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)).eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(5, 3, 12, 10, generator=torch.Generator().manual_seed(1))


def test_flip_is_the_photo_and_its_mirror_image(model: nn.Module, x: torch.Tensor) -> None:
    found = view_logits(model, x, "flip")
    with torch.no_grad():
        assert torch.allclose(found[0], model(x), atol=1e-6)
        assert torch.allclose(found[1], model(x.flip(3)), atol=1e-6), "left to right, never upside down"
        assert not torch.allclose(found[1], found[0])
    assert found.shape == (2, 5, 3)


def test_the_mean_over_views_is_ttachs_own(model: nn.Module, x: torch.Tensor) -> None:
    wrapper = ttach.ClassificationTTAWrapper(model, transforms("flip"), merge_mode="mean")
    with torch.no_grad():
        assert torch.allclose(view_logits(model, x, "flip").mean(dim=0), wrapper(x), atol=1e-6)


def test_none_is_the_photo_alone(model: nn.Module, x: torch.Tensor) -> None:
    with torch.no_grad():
        assert torch.allclose(view_logits(model, x, "none")[0], model(x), atol=1e-6)


@pytest.mark.parametrize("tta", TTAS)
def test_every_view_has_a_name(tta: str, model: nn.Module, x: torch.Tensor) -> None:
    assert len(view_logits(model, x, tta)) == len(VIEWS[tta])  # type: ignore[arg-type,index]
