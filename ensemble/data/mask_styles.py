"""The masks that people wear: outlines, build and colours, as mask_styles.toml has them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

Range = tuple[float, float]
Outline = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class MaskStyle:
    """A kind of mask, worn right.

    `half` and `bottom` are explained in mask_styles.toml.
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


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


_DATA = tomllib.loads(resources.files("ensemble.data").joinpath("mask_styles.toml").read_text("utf-8"))
STYLES: dict[str, tuple[float, MaskStyle]] = {
    name: (table["often"], MaskStyle(**{k: _tuples(v) for k, v in table.items() if k != "often"}))
    for name, table in _DATA["styles"].items()
}
"""Name -> (how often, style)."""

PALETTES: dict[str, tuple[tuple[int, int, int], ...]] = {
    name: _tuples(colours) for name, colours in _DATA["colours"].items()
}
"""RGB of the colours that are sold most; masks of style "any" come in any colour."""
