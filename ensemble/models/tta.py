"""Test-time augmentation through ttach: photos in several views."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import ttach
from torch import Tensor

from ensemble.recipes.tta_views import SETS


def apply_view(x: Tensor, view: str) -> Tensor:
    """A batch in one view. Its logits are those of the photo: no view changes the class.

    Args:
        x: float (batch, 3, height, width).
        view: a name of `ensemble.recipes.tta_views`.
    """
    call = next(views[view] for views in SETS.values() if view in views)
    if call is None:
        return x
    name, arguments = call
    found: Tensor = getattr(ttach.functional, name)(x, **arguments)
    return found


def stack_views(x: Tensor, views: Sequence[str]) -> Tensor:
    """All views of a batch, one after the other.

    Args:
        x: float (batch, 3, height, width).

    Returns:
        As `x`, (views * batch, 3, height, width): all photos in the first view, then all in the second.
    """
    return torch.cat([apply_view(x, view) for view in views])


def unstack_views(logits: Tensor, views: Sequence[str]) -> Tensor:
    """(views * batch, width), of `stack_views`, as (views, batch, width)."""
    return torch.stack(logits.chunk(len(views)))
