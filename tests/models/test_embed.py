"""Embeddings of timm's models."""

from __future__ import annotations

import pytest
import timm
import torch

from ensemble.models.embed import embed


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit", "test_convnext"])
def test_the_classifier_of_a_model_sees_its_embeddings(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=5).eval()
    x = torch.randn(3, 3, 160, 160)
    found = embed(model, x)
    assert found.norm(dim=1) == pytest.approx(torch.ones(3), abs=1e-5)
    with torch.inference_mode():
        weight, bias = model.get_classifier().weight, model.get_classifier().bias
        logits = model(x) - bias
        ratio = logits / (found @ weight.T)
    assert ratio == pytest.approx(ratio.mean(dim=1, keepdim=True).expand(-1, 5), rel=1e-3), "but for their length"
