"""Test-time augmentation: named sets of views, through ttach."""

from __future__ import annotations

import torch
import ttach
from torch import Tensor, nn

from ensemble.recipes.views import VIEWS, Tta


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


def stacked(x: Tensor, tta: Tta) -> Tensor:
    """All views of a batch, one after the other.

    Args:
        x: float (batch, 3, height, width).

    Returns:
        As `x`, (views * batch, 3, height, width): all photos in the first view, then all in the second.
    """
    return torch.cat([t.augment_image(x) for t in transforms(tta)])


def unstacked(logits: Tensor, tta: Tta) -> Tensor:
    """(views * batch, width), of `stacked`, as (views, batch, width)."""
    views = logits.chunk(len(VIEWS[tta]))
    return torch.stack([t.deaugment_label(v) for t, v in zip(transforms(tta), views, strict=True)])
