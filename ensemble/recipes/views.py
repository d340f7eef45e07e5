"""The names of test-time augmentation views and of their sets."""

from __future__ import annotations

from typing import Literal, get_args

Tta = Literal["none", "flip"]

TTAS: tuple[Tta, ...] = get_args(Tta)

VIEWS: dict[Tta, tuple[str, ...]] = {"none": ("identity",), "flip": ("identity", "hflip")}
