"""Geometry: the fixed decode, resize and crop that come before any augmentation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Geometry:
    """The fixed steps from a photo to what augmentation and model see; sizes are (height, width).

    Its pixels depend on the photo's file and these alone.
    """

    resize: tuple[int, int]
    crop: tuple[int, int] | None = None
    reduced: bool = False  # large JPEGs are decoded at 1/2, 1/4 or 1/8 of their size, never below `resize`

    @property
    def shape(self) -> tuple[int, int, int]:
        return (*(self.crop or self.resize), 3)
