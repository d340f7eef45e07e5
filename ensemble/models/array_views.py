"""Photos as models take them, in arrays: `build.to_input` and the views of `tta`, without torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ensemble.jobs.card import Normalisation
from ensemble.recipes.views import steps_of
from folds.photos import Pixels

Array = npt.NDArray[np.float32]


def array_views(photos: Pixels, views: Sequence[str], normalisation: Normalisation) -> Array:
    """Photos, uint8 (photos, height, width, 3), normalised and in all views: all of them in the first view, then in the
    second, ... Returns float32 (views * photos, height, width, 3)."""
    mean, std = (np.array(values, np.float32) for values in normalisation)
    x = (photos.astype(np.float32) - mean * 255) / (std * 255)
    return np.concatenate([_view(x, view, mean, std) for view in views])


def _view(x: Array, view: str, mean: Array, std: Array) -> Array:
    """`tta.apply_view` of float32 (photos, height, width, 3), normalised by mean and std, each float32 (3,)."""
    height, width = x.shape[1:3]
    for name, number in steps_of(view).items():
        if number is None:  # hflip
            x = x[:, :, ::-1]
        elif name == "scale":
            x = _resized(x, int(height * number), int(width * number))
            if x.shape[1] >= height and x.shape[2] >= width:
                x = _centre(x, height, width)
            else:
                above, left = (height - x.shape[1]) // 2, (width - x.shape[2]) // 2
                below, right = height - x.shape[1] - above, width - x.shape[2] - left
                x = np.pad(x, [(0, 0), (above, below), (left, right), (0, 0)], mode="edge")
        elif name in ("multiply", "add"):
            pixels = x * std + mean
            changed = pixels * np.float32(number) if name == "multiply" else pixels + np.float32(number)
            x = (changed.clip(0, 1) - mean) / std
        else:
            rows, columns = (max(1, round(number * side)) for side in (height, width))
            if name == "center_crop":
                x = _centre(x, rows, columns)
            else:  # crop_lt, crop_rt, crop_lb or crop_rb
                x = x[:, :rows] if name[-1] == "t" else x[:, -rows:]
                x = x[:, :, :columns] if name[-2] == "l" else x[:, :, -columns:]
            x = _resized(x, height, width)
    return x


def _centre(x: Array, height: int, width: int) -> Array:
    """ttach's center_crop."""
    top, left = x.shape[1] // 2 - height // 2, x.shape[2] // 2 - width // 2
    return x[:, top : top + height, left : left + width]


def _resized(x: Array, height: int, width: int) -> Array:
    """Bilinear without antialiasing, in the arithmetic of torch's interpolate; OpenCV rounds places differently."""
    for axis, size in ((1, height), (2, width)):
        before = x.shape[axis]
        ratio = np.float32(before) / np.float32(size)
        place = ((np.arange(size) + 0.5) * float(ratio) - 0.5).clip(0).astype(np.float32)  # as fused multiply-add
        first = place.astype(np.int64)
        share = (place - first.astype(np.float32)).reshape([-1 if n == axis else 1 for n in range(4)])
        x = x.take(first, axis) * (1 - share) + x.take((first + 1).clip(max=before - 1), axis) * share
    return x
