"""The masks that people wear: outlines, build and colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Range = tuple[float, float]
Outline = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class MaskStyle:
    """A kind of mask, worn right.

    `half` is its right half from the top of the nose to below the chin: x in shares of the face's half width at that
    height, and t from 0 (top) to 1 (bottom). Heights of faces are 0 at the eyes and 1 at the mouth.
    """

    half: Outline
    corners: tuple[int, int]  # points of `half` from which the straps go
    bottom: Range  # height on the face
    patterned: float = 0.0  # how often it is not plain
    colours: Literal["medical", "respirator", "any"] = "any"
    pleats: int = 0
    seam: Literal["none", "vertical", "horizontal"] = "none"
    dome: float = 0.25  # how far it stands off the face
    straps: Literal["ears", "head", "none"] = "ears"
    valve: float = 0.0  # how often it has one


SURGICAL = MaskStyle(
    ((0, 0), (0.12, 0), (0.32, 0.1), (0.93, 0.2), (0.95, 0.22), (0.97, 0.7), (0.9, 0.74), (0.5, 0.98), (0, 1)),
    (4, 5), (1.6, 1.8), patterned=0.1, colours="medical", pleats=3,
)  # fmt: skip
CLOTH = MaskStyle(
    ((0, 0), (0.12, 0.03), (0.4, 0.16), (0.96, 0.28), (1.0, 0.32), (0.98, 0.62), (0.88, 0.75), (0.45, 0.98), (0, 1.02)),
    (4, 5), (1.6, 1.85), patterned=0.6, seam="vertical", dome=0.3,
)  # fmt: skip
PLEATED_CLOTH = MaskStyle(SURGICAL.half, (4, 5), (1.6, 1.8), patterned=0.7, pleats=2)
CUP = MaskStyle(
    ((0, 0), (0.14, 0), (0.36, 0.13), (0.7, 0.27), (0.84, 0.45), (0.84, 0.65), (0.72, 0.86), (0.4, 1), (0, 1.02)),
    (4, 5), (1.5, 1.75), colours="respirator", dome=0.6, straps="head", valve=0.35,
)  # fmt: skip
FOLDED = MaskStyle(  # KN95: two halves, welded down the middle
    ((0, 0), (0.08, 0.02), (0.35, 0.2), (0.9, 0.36), (0.97, 0.4), (0.96, 0.58), (0.8, 0.76), (0.35, 1), (0, 1.06)),
    (4, 5), (1.6, 1.85), colours="respirator", seam="vertical", dome=0.5, valve=0.1,
)  # fmt: skip
PANELS = MaskStyle(  # KF94: three panels, like a boat
    ((0, 0), (0.2, 0.02), (0.45, 0.16), (0.92, 0.36), (0.98, 0.4), (0.98, 0.55), (0.75, 0.82), (0.4, 1), (0, 1.02)),
    (4, 5), (1.6, 1.8), patterned=0.05, colours="respirator", seam="horizontal", dome=0.45,
)  # fmt: skip
DUCKBILL = MaskStyle(
    ((0, 0), (0.2, 0), (0.5, 0.12), (0.85, 0.3), (0.9, 0.45), (0.86, 0.56), (0.78, 0.9), (0.6, 1.02), (0, 1.04)),
    (4, 5), (1.5, 1.75), colours="respirator", seam="horizontal", dome=0.6, straps="head",
)  # fmt: skip
BANDANA = MaskStyle(
    ((0, 0), (0.2, 0.01), (0.6, 0.06), (1.0, 0.1), (1.08, 0.12), (1.05, 0.45), (0.9, 0.62), (0.5, 0.84), (0, 1.04)),
    (4, 4), (2.1, 2.5), patterned=0.8, straps="none",
)  # fmt: skip
SCARF = MaskStyle(
    ((0, 0), (0.3, 0.02), (0.7, 0.06), (1.04, 0.1), (1.08, 0.12), (1.08, 0.4), (1.1, 0.7), (1.1, 1), (0, 1.04)),
    (4, 4), (2.2, 2.6), patterned=0.4, straps="none",
)  # fmt: skip

STYLES: dict[str, tuple[float, MaskStyle]] = {
    "surgical": (5, SURGICAL),
    "cloth": (3, CLOTH),
    "pleated cloth": (1.5, PLEATED_CLOTH),
    "cup": (1.5, CUP),
    "folded": (2, FOLDED),
    "panels": (2.5, PANELS),
    "duckbill": (1, DUCKBILL),
    "bandana": (0.8, BANDANA),
    "scarf": (0.7, SCARF),
}
"""Name -> (how often, style)."""

MEDICAL = (
    (172, 208, 232), (150, 196, 226), (124, 178, 214), (186, 220, 224), (160, 210, 190), (130, 190, 170),
    (240, 240, 240), (230, 236, 240), (236, 198, 208), (216, 200, 230), (240, 228, 170), (52, 52, 56), (120, 124, 130),
)  # fmt: skip
RESPIRATOR = (
    (242, 242, 240), (238, 238, 232), (246, 246, 246), (232, 232, 228), (46, 46, 50), (38, 38, 42), (128, 130, 134),
    (190, 176, 150), (226, 206, 190), (176, 198, 214), (206, 150, 150), (110, 124, 150),
)  # fmt: skip
PALETTES = {"medical": MEDICAL, "respirator": RESPIRATOR}
"""RGB of the colours that are sold most; masks of style "any" come in any colour."""
