"""Logits of one model over many photos, each view on its own."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from ensemble.data.cache import DecodedPhotos
from ensemble.data.loader import plain_batches
from ensemble.models.build import Normalisation, to_input
from ensemble.models.engine import InferenceEngine
from ensemble.models.tta import apply_view
from folds.labels import IntArray


def view_logits(
    engine: InferenceEngine,
    normalisation: Normalisation,
    device: torch.device,
    photos: DecodedPhotos,
    rows: IntArray,
    views: tuple[str, ...],
    workers: int = 0,
) -> npt.NDArray[np.float32]:
    """Logits of the photos at `rows`, of which as many are read at a time as the engine's forward pass takes.

    Args:
        workers: loader processes.

    Returns:
        float32 (views, rows, width).

    Raises:
        MaskensError: a photo that can't be read, or not even one fits into the GPU's memory.
    """
    found = []
    for batch in plain_batches(photos, rows.tolist(), engine.batch, workers, pin=device.type == "cuda"):
        x = to_input(batch.photos[0], *normalisation, device)
        found.append(torch.stack([engine.logits(apply_view(x, view, normalisation)).cpu() for view in views]))
    return torch.cat(found, dim=1).numpy()
