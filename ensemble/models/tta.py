"""Test-time augmentation through ttach: photos in several views."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import ttach.functional
from torch import Tensor

from ensemble.jobs.card import Normalisation
from ensemble.models.build import to_input
from ensemble.recipes.views import steps_of
from folds.labels import IntArray
from folds.photos import Pixels


def apply_view(x: Tensor, view: str, normalisation: Normalisation) -> Tensor:
    """A batch in one view, of the same size.

    Args:
        x: float (batch, 3, height, width), normalised.
        view: a name of `ensemble.recipes.views`.
        normalisation: of `x`, for the steps that change its brightness.
    """
    height, width = x.shape[2:]
    for name, number in steps_of(view).items():
        step = getattr(ttach.functional, name)
        if number is None:
            x = step(x)
        elif name == "scale":
            x = step(x, number, interpolation="bilinear")
            if x.shape[2] >= height and x.shape[3] >= width:
                x = ttach.functional.center_crop(x, height, width)
            else:  # the border is repeated, as black would be another photo
                top, left = (height - x.shape[2]) // 2, (width - x.shape[3]) // 2
                sides = (left, width - x.shape[3] - left, top, height - x.shape[2] - top)
                x = torch.nn.functional.pad(x, sides, mode="replicate")
        elif name in ("multiply", "add"):
            # on pixels of 0 to 1: on normalised ones, `multiply` would change the contrast
            mean, std = (torch.tensor(v, device=x.device, dtype=x.dtype).view(1, 3, 1, 1) for v in normalisation)
            x = (step(x * std + mean, number).clamp(0, 1) - mean) / std
        else:
            size = [max(1, round(number * side)) for side in (height, width)]
            x = ttach.functional.resize(step(x, *size), (height, width), interpolation="bilinear")
    return x


def stack_views(x: Tensor, views: Sequence[str], normalisation: Normalisation) -> Tensor:
    """`apply_view` for several views: (views * batch, 3, height, width), all photos in the first view, then in the
    second, ..."""
    return torch.cat([apply_view(x, view, normalisation) for view in views])


def device_views(photos: Tensor | Pixels, views: Sequence[str], normalisation: Normalisation, device: str) -> Tensor:
    """`array_views` on a GPU, as a model takes it: uint8 (photos, height, width, 3) -> float32 (views * photos, 3,
    height, width)."""
    x = to_input(torch.as_tensor(photos), *normalisation, torch.device(device))
    return stack_views(x, views, normalisation)


def at_places(x: Tensor, places: IntArray) -> Tensor:
    """`x[places]` of a tensor on a GPU, in channels_last memory."""
    wanted = torch.from_numpy(places).pin_memory()  # else the copy waits for all that the GPU has to do
    return x[wanted.to(x.device, non_blocking=True)].contiguous(memory_format=torch.channels_last)
