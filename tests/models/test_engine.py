"""Models made fast for prediction: the logits they were trained to give, whatever the batch."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from ensemble.models import precision
from ensemble.models.engine import EngineOptions
from ensemble.models.torch_engine import TorchEngine, fast_engine, fastest_batch, fold_conv_bn
from folds.errors import MaskensError

X = torch.randn(37, 3, 48, 40, generator=torch.Generator().manual_seed(1))


def agrees(engine: TorchEngine, model: nn.Module, x: Tensor = X, atol: float = 1e-5) -> bool:
    with torch.no_grad():
        return torch.allclose(engine.logits(x), model(x), atol=atol)


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
def test_folded_into_convolutions_the_norms_go_and_the_logits_stay(name: str) -> None:
    torch.manual_seed(0)
    model = lively(timm.create_model(name, num_classes=3))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found, note = fold_conv_bn(model, X[:4])
    assert not note
    assert norms(model) > 0 == norms(found)
    with torch.no_grad():
        exact, ours = model(X[:4]), found(X[:4])
    assert float((ours - exact).abs().max()) <= 1e-4 * max(1.0, float(exact.abs().max()))
    assert not torch.equal(exact[0], exact[1]), "photos that differ have logits that differ"
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()), "the model itself is not changed"


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
def test_a_model_whose_norms_can_not_be_folded_stays_as_it_is(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = lively(kind())
    found, note = fold_conv_bn(model, X[:4])
    assert found is model
    assert note.startswith("batch norms stay as they are") or kind is SharedConvolution
    vit = timm.create_model("test_vit", num_classes=3, img_size=(48, 48)).eval()
    assert fold_conv_bn(vit, torch.rand(2, 3, 48, 48)) == (vit, "")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    found: nn.Module = timm.create_model("test_resnet", num_classes=3).eval()
    return found


def test_logits_do_not_depend_on_the_batch(model: nn.Module) -> None:
    for batch in (0, 1, 8, 64):
        found = fast_engine(model, X, EngineOptions(), batch)
        assert found.logits(X).dtype == torch.float32
        assert agrees(found, model)


def test_the_batch_grows_for_as_long_as_that_pays() -> None:
    seconds = {8: 1.0, 16: 1.2, 32: 1.5, 64: 3.2, 128: 3.3}
    assert fastest_batch(128, seconds.__getitem__) == 32, "64 is slower a photo; what comes after is not tried"


def test_a_gpu_too_small_for_the_batch_gets_smaller_ones(model: nn.Module) -> None:
    sizes: list[int] = []

    class Small(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            sizes.append(len(x))
            if len(x) > 5:
                raise torch.OutOfMemoryError("full")
            return model(x)  # type: ignore[no-any-return]

    found = fast_engine(Small(), X[:4], EngineOptions(), 16)
    assert agrees(found, model)
    assert (sizes[:3], found.batch) == ([16, 8, 4], 4), "halved once, and kept"

    class Full(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("full")

    with pytest.raises(MaskensError, match="too small for one photo; use --device cpu"):
        fast_engine(Full(), X, EngineOptions(), 4).logits(X)


def test_compiled_models_give_the_same_logits(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(precision, "COMPILER", backend)
    found = fast_engine(model, X, EngineOptions(compile=True), 8)
    assert agrees(found, model)
    assert found.compile_seconds > 0
    assert len(compiled) == 1, "37 photos in batches of 8: the rest is filled up, not compiled anew"


def test_what_cannot_be_compiled_is_reported_in_one_line(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        raise RuntimeError("no C++ compiler found")

    monkeypatch.setattr(precision, "COMPILER", backend)
    found = fast_engine(model, X, EngineOptions(compile=True), 8)
    assert found.notes == ("not compiled, predicts as without --compile: no C++ compiler found",)
    assert agrees(found, model), "and it predicts all the same"
