"""Logits of one model over many photos, each view on its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ensemble.data.cache import DecodedPhotos
from ensemble.data.loader import plain_batches
from ensemble.models.build import Normalisation, to_input
from ensemble.models.engine import InferenceEngine
from ensemble.models.tta import apply_view
from folds.labels import IntArray


@dataclass(frozen=True)
class Predictor:
    """Predicts with a model as it is, in fp32."""

    model: nn.Module  # on the device, in channels_last memory
    normalisation: Normalisation
    device: torch.device
    batch_size: int
    workers: int = 0  # loader processes

    def logits(self, photos: DecodedPhotos, rows: IntArray, views: tuple[str, ...]) -> npt.NDArray[np.float32]:
        """Logits of the photos at `rows`.

        Returns:
            float32 (views, rows, width).

        Raises:
            MaskensError: a photo that can't be read, or not even one fits into the GPU's memory.
        """
        engine = InferenceEngine(self.model.eval(), self.batch_size)
        return view_logits(engine, self.normalisation, self.device, photos, rows, views, self.batch_size, self.workers)


def view_logits(
    engine: InferenceEngine,
    normalisation: Normalisation,
    device: torch.device,
    photos: DecodedPhotos,
    rows: IntArray,
    views: tuple[str, ...],
    batch_size: int,
    workers: int = 0,
) -> npt.NDArray[np.float32]:
    """Logits by an engine of the photos at `rows`, which are read `batch_size` at a time.

    Returns, raises:
        As `Predictor.logits`.
    """
    found = []
    for batch in plain_batches(photos, rows.tolist(), batch_size, workers, pin=device.type == "cuda"):
        x = to_input(batch.photos[0], *normalisation, device)
        found.append(torch.stack([engine.logits(apply_view(x, view, normalisation)).cpu() for view in views]))
    return torch.cat(found, dim=1).numpy()
