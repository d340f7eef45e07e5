"""Models made fast for prediction: the logits they were trained to give, whatever the batch."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from ensemble.models import precision
from ensemble.models.engine import EngineOptions, fast_engine, fastest_batch
from folds.errors import MaskensError

X = torch.randn(37, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    found: nn.Module = timm.create_model("test_resnet", num_classes=3).eval()
    return found


@pytest.mark.parametrize("batch", [0, 1, 8, 64])
def test_logits_do_not_depend_on_the_batch(model: nn.Module, batch: int) -> None:
    with torch.no_grad():
        exact = model(X)
    found = fast_engine(model, X, EngineOptions(), batch).logits(X)
    assert found.dtype == torch.float32
    assert torch.allclose(found, exact, atol=1e-5)


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
    with torch.no_grad():
        assert torch.allclose(found.logits(X), model(X), atol=1e-5)
    assert (sizes[:3], found.batch) == ([16, 8, 4], 4), "halved once, and kept"


def test_not_even_one_photo_fits() -> None:
    class Full(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("full")

    with pytest.raises(MaskensError, match="too small for one photo; use --device cpu"):
        fast_engine(Full(), X, EngineOptions(), 4).logits(X)


def test_compiled_models_give_the_same_logits_and_tell_the_warm_up(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(precision, "COMPILER", backend)
    found = fast_engine(model, X, EngineOptions(compile=True), 8)
    with torch.no_grad():
        assert torch.allclose(found.logits(X), model(X), atol=1e-5)
    assert found.compile_seconds > 0
    assert len(compiled) == 1, "37 photos in batches of 8: the rest is filled up, not compiled anew"


def test_what_cannot_be_compiled_is_told_in_one_line(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        raise RuntimeError("no C++ compiler found")

    monkeypatch.setattr(precision, "COMPILER", backend)
    found = fast_engine(model, X, EngineOptions(compile=True), 8)
    assert found.notes == ("not compiled, predicts as without --compile: no C++ compiler found",)
    with torch.no_grad():
        assert torch.allclose(found.logits(X), model(X), atol=1e-5), "and it predicts all the same"
