"""Files that are photos of noise."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def noise_photos(folder: Path, names: Iterable[str]) -> Path:
    """Make the folder with a photo of 30 x 22 for each name; returns it."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in names:
        Image.fromarray(rng.integers(0, 256, (30, 22, 3), dtype=np.uint8)).save(folder / name)
    return folder
