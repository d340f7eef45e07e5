"""Logits of one model over many photos, each view on its own."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ensemble.data.cache import Photos
from ensemble.data.loader import plain_batches
from ensemble.models.engine import InferenceEngine
from ensemble.models.inputs import Normalisation, to_input
from ensemble.models.tta import augment
from folds.data.labels import IntArray


def predict(
    model: nn.Module,
    photos: Photos,
    rows: IntArray,
    normalisation: Normalisation,
    device: torch.device,
    views: tuple[str, ...],
    batch_size: int,
    workers: int,
) -> npt.NDArray[np.float32]:
    """Logits of the photos at `rows`, by the model as it is.

    Returns:
        float32 (views, rows, width).

    Raises:
        MaskensError: a photo that can't be read, or not even one fits into the GPU's memory.
    """
    engine = InferenceEngine(model.eval(), batch_size)
    found = []
    for batch in plain_batches(photos, rows.tolist(), batch_size, workers, pin=device.type == "cuda"):
        x = to_input(batch[0], *normalisation, device)
        found.append(torch.stack([engine.logits(augment(x, view)).cpu() for view in views]))
    return torch.cat(found, dim=1).numpy()
