"""Logits of one model over many photos."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ensemble.data.cache import Photos
from ensemble.data.loader import plain_batches
from ensemble.models.inputs import to_input
from ensemble.models.tta import view_logits
from ensemble.recipes.views import Tta
from folds.data.labels import IntArray
from folds.errors import MaskensError


def all_views(model: nn.Module, x: Tensor, tta: Tta) -> Tensor:
    """`view_logits`, in halves where the GPU's memory is too small for the batch.

    Returns:
        float32 (views, batch, width), on the CPU.

    Raises:
        MaskensError: not even one photo fits.
    """
    try:
        return view_logits(model, x, tta).cpu()
    except torch.OutOfMemoryError:
        if len(x) == 1:
            raise MaskensError("the GPU's memory is too small for one photo; use --device cpu") from None
    torch.cuda.empty_cache()
    half = len(x) // 2
    return torch.cat([all_views(model, x[:half], tta), all_views(model, x[half:], tta)], dim=1)


def predict(
    model: nn.Module,
    photos: Photos,
    rows: IntArray,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    device: torch.device,
    tta: Tta,
    batch_size: int,
    workers: int,
) -> npt.NDArray[np.float32]:
    """Logits of the photos at `rows`, each view on its own.

    Returns:
        float32 (views, rows, width).
    """
    model.eval()
    found = [
        all_views(model, to_input(batch[0], mean, std, device), tta)
        for batch in plain_batches(photos, rows.tolist(), batch_size, workers, pin=device.type == "cuda")
    ]
    return torch.cat(found, dim=1).numpy()
