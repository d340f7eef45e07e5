"""Test-time augmentation: named sets of views, through ttach."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import ttach
from torch import Tensor, nn

Tta = Literal["none", "flip"]
TTAS: tuple[Tta, ...] = get_args(Tta)
VIEWS: dict[Tta, tuple[str, ...]] = {"none": ("identity",), "flip": ("identity", "hflip")}


def transforms(tta: Tta) -> ttach.Compose:
    """ttach's transforms of a set, in the order of VIEWS.

    `flip` is left-right only: ttach's own `flip_transform` would also show faces upside down.
    """
    return ttach.aliases.hflip_transform() if tta == "flip" else ttach.Compose([])


def view_logits(model: nn.Module, x: Tensor, tta: Tta) -> Tensor:
    """Logits of each view, in float32, without gradient; the model should be in eval mode.

    Args:
        x: float (batch, 3, height, width), normalised.

    Returns:
        float32 (views, batch, width). Their mean over the first axis is what ttach's
        ClassificationTTAWrapper(merge_mode="mean") returns.
    """
    with torch.inference_mode():
        return torch.stack([t.deaugment_label(model(t.augment_image(x))).float() for t in transforms(tta)])
