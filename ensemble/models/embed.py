"""What a model sees in photos, before its classifier."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def embed(model: Any, x: Tensor) -> Tensor:
    """timm's features before the classifier (`forward_head(..., pre_logits=True)`), scaled to length 1.

    Args:
        model: timm's, in eval mode.
        x: float32 (n, 3, height, width), on the model's device.

    Returns:
        float32 (n, features), on that device.
    """
    with torch.inference_mode():
        found: Tensor = model.forward_head(model.forward_features(x), pre_logits=True)
        return F.normalize(found.flatten(1).float(), dim=1)
