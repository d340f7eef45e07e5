"""Geometry: the fixed decode, crop and resize that come before any augmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Crop = tuple[int, int] | Literal["face"]


@dataclass(frozen=True)
class Geometry:
    """The fixed steps from a photo to what augmentation and model see; sizes are (height, width).

    Its pixels depend on the photo's file and these alone. A centre is cropped after the photo is resized, a face
    before.
    """

    resize: tuple[int, int]
    crop: Crop | None = None  # "face": around the largest face; the whole photo where there is none
    reduced: bool = False  # large JPEGs are decoded at 1/2, 1/4 or 1/8 of their size, never below `decoded`

    @property
    def decoded(self) -> tuple[int, int]:
        """Below which a reduced photo may not be: a face that fills half of its sides is not enlarged."""
        height, width = self.resize
        return (2 * height, 2 * width) if self.crop == "face" else self.resize

    @property
    def shape(self) -> tuple[int, int, int]:
        return (*cropped_size(self.resize, self.crop), 3)


def cropped_size(resize: tuple[int, int], crop: Crop | None) -> tuple[int, int]:
    """(height, width) of what is left after resize and crop."""
    return resize if crop is None or crop == "face" else crop
