"""Batch norms folded into convolutions: the same logits, or the model as it was."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from ensemble.models.engine import fold_conv_bn

X = torch.randn(4, 3, 48, 40, generator=torch.Generator().manual_seed(1))


def lively(model: nn.Module) -> nn.Module:
    """Norms as training leaves them: each channel another mean, spread, scale and shift."""
    generator = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.5, 0.5),
            ):
                assert tensor is not None
                tensor.uniform_(low, high, generator=generator)
    return model.eval()


def norms(model: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "tf_efficientnet_lite0", "resnext26ts"])
def test_the_logits_stay_and_the_norms_go(name: str) -> None:
    torch.manual_seed(0)
    model = lively(timm.create_model(name, num_classes=3))
    found, note = fold_conv_bn(model, X)
    assert not note
    assert norms(model) > 0 == norms(found)
    with torch.no_grad():
        exact, ours = model(X), found(X)
    assert float((ours - exact).abs().max()) <= 1e-4 * max(1.0, float(exact.abs().max()))
    assert not torch.equal(exact[0], exact[1]), "photos that differ have logits that differ"


def test_the_model_itself_is_not_changed() -> None:
    model = lively(timm.create_model("test_resnet", num_classes=3))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fold_conv_bn(model, X)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


class UsedTwice(nn.Module):
    """What a convolution gives goes into the norm and past it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return (self.norm(y) + y).mean(dim=(2, 3))  # type: ignore[no-any-return]


class SharedConvolution(nn.Module):
    """One convolution feeds two norms in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.conv(self.first(self.conv(x)))).mean(dim=(2, 3))  # type: ignore[no-any-return]


class AsksItsNorm(nn.Module):
    """A model that looks into a norm as it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).mean(dim=(2, 3)) * self.norm.eps


@pytest.mark.parametrize("kind", [UsedTwice, SharedConvolution, AsksItsNorm])
def test_a_model_that_does_not_lend_itself_stays_as_it_is(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = lively(kind())
    found, note = fold_conv_bn(model, X)
    assert found is model
    assert note.startswith("batch norms stay as they are") or kind is SharedConvolution


def test_a_model_without_norms_stays_as_it_is() -> None:
    model = timm.create_model("test_vit", num_classes=3, img_size=(48, 48)).eval()
    assert fold_conv_bn(model, torch.rand(2, 3, 48, 48)) == (model, "")
