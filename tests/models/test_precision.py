"""Predicting in 16 bits: only where the model stands it, and never without saying what it changes."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from ensemble.models import precision
from ensemble.models.precision import PrecisionChoice, choose_precision


class Scaled(nn.Module):
    """Logits too large for fp16."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(x.mean(dim=(2, 3)) + 1, torch.full((3, 3), 1e5))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    found: nn.Module = timm.create_model("test_resnet", num_classes=3).eval()
    return found


X = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_fp32_is_not_even_tried() -> None:
    assert choose_precision(nn.Identity(), X, "fp32") == PrecisionChoice("fp32", 0.0, "")


def test_bf16_is_used_where_it_agrees_and_its_difference_is_told(model: nn.Module) -> None:
    chosen = choose_precision(model, X, "bf16")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        rough = model(X).float()
    with torch.inference_mode():
        exact = model(X)
    assert chosen.precision == "bf16"
    assert 0 < chosen.difference == pytest.approx(float((rough - exact).abs().max()))


def test_a_model_that_overflows_predicts_in_fp32_and_says_why() -> None:
    chosen = choose_precision(Scaled(), X, "fp16")
    assert chosen.precision == "fp32"
    assert "overflow" in chosen.note


@pytest.mark.parametrize(("fast", "expected"), [(0.5, "bf16"), (0.95, "fp32")])
def test_auto_takes_16_bits_only_if_they_are_faster(
    model: nn.Module, fast: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"fp32": 1.0, "bf16": fast}
    monkeypatch.setattr(precision, "forward_seconds", lambda model, x, way: seconds[way])
    assert choose_precision(model, X, "auto").precision == expected
