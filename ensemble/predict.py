"""Logits of one model over many photos."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ensemble.cache import Photos
from ensemble.loader import plain_loader
from ensemble.models import to_input
from ensemble.tta import Tta, view_logits
from folds.labels import IntArray


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
        view_logits(model, to_input(batch[0], mean, std, device), tta).cpu()
        for batch in plain_loader(photos, rows.tolist(), batch_size, workers)
    ]
    return torch.cat(found, dim=1).numpy()
