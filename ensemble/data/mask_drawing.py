"""A mask drawn on a photo of a face: styles, cloth, outline, relief, light, straps and shadow."""

from __future__ import annotations

import colorsys
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from folds.faces import Face
from folds.photos import Pixels

Plane = npt.NDArray[np.float32]  # (h, w)
Picture = npt.NDArray[np.float32]  # (h, w, 3), RGB 0..255
Points = npt.NDArray[np.float64]  # (n, 2): x, y

CORNERS = (4, 5)  # points of `MaskStyle.half` from which the straps go
SIDE, BELOW = 1.4, 2.75  # how far around a face is drawn, in face coordinates
TOP = (0.15, 0.36)  # of a mask worn right: on the bridge of the nose
BARE_NOSE, BARE_MOUTH = (0.76, 0.86), (1.16, 1.3)  # the top of one that leaves the nose or the mouth bare
FINE = 240  # pixels across a face from which on lines need no finer canvas
PLAIN_FACE = 150.0  # brightness of a face in plain light, of 255


@dataclass(frozen=True)
class MaskStyle:
    """A kind of mask, worn right. `often`, `half` and `bottom` are explained in mask_styles.toml."""

    often: float
    half: list[list[float]]
    bottom: list[float]  # range of its height on the face
    patterned: float = 0.0  # how often it is not plain
    colours: Literal["medical", "respirator", "any"] = "any"
    pleats: int = 0
    seam: Literal["none", "vertical", "horizontal"] = "none"
    dome: float = 0.25  # how far it stands off the face
    straps: Literal["ears", "head", "none"] = "ears"
    valve: float = 0.0  # how often it has one


_DATA = tomllib.loads(resources.files("ensemble.data").joinpath("mask_styles.toml").read_text("utf-8"))
STYLES = [MaskStyle(**table) for table in _DATA["styles"].values()]
PALETTES: dict[str, list[list[int]]] = _DATA["colours"]


@dataclass(frozen=True)
class Canvas:
    """The part of a photo that is drawn on, at up to three times the resolution of the photo.

    Face coordinates: x is 0 in the middle and 1 at the right cheek, y is 0 at the eyes and 1 at the mouth.
    """

    rows: slice
    columns: slice
    scale: int  # its pixels to one of the photo
    face: Face
    tilt: float  # radians

    @property
    def shape(self) -> tuple[int, int]:
        return (self.rows.stop - self.rows.start) * self.scale, (self.columns.stop - self.columns.start) * self.scale

    @property
    def unit(self) -> float:
        """Canvas pixels of half a face's width."""
        return self.face.width / 2 * self.scale

    def coordinates(self) -> tuple[Plane, Plane]:
        """x and y of each canvas pixel in face coordinates, float32 (h, w)."""
        height, width = self.shape
        x = (np.arange(width, dtype=np.float32)[None] + 0.5) / self.scale + self.columns.start - self.face.x
        y = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / self.scale + self.rows.start - self.face.eyes
        cos, sin = np.float32(np.cos(self.tilt)), np.float32(np.sin(self.tilt))
        across, down = cos * x + sin * y, cos * y - sin * x
        return across / (self.face.width / 2), down / (self.face.mouth - self.face.eyes)

    def pixels(self, points: Points) -> npt.NDArray[np.int32]:
        """Face coordinates as canvas pixels in 1/16, for OpenCV's `shift=4`: int32 (n, 2)."""
        x, y = points[:, 0] * self.face.width / 2, points[:, 1] * (self.face.mouth - self.face.eyes)
        cos, sin = np.cos(self.tilt), np.sin(self.tilt)
        place = np.stack([cos * x - sin * y + self.face.x, sin * x + cos * y + self.face.eyes], axis=1)
        place = (place - (self.columns.start, self.rows.start)) * self.scale - 0.5
        return np.asarray(np.rint(place * 16), dtype=np.int32)


def draw_mask(photo: Pixels, face: Face, worn: bool, rng: np.random.Generator) -> Pixels:
    """Draw one mask of random style, colour and light; only what is below the eyes changes.

    Args:
        photo: uint8 (h, w, 3) RGB; not changed.
        face: where the face is; it may reach beyond the photo.
        worn: over nose and mouth; else below the nose or below the mouth.

    Returns:
        uint8 (h, w, 3).
    """
    unit_x, unit_y = face.width / 2, face.mouth - face.eyes
    rows = np.clip([np.ceil(face.eyes), face.eyes + BELOW * unit_y], 0, photo.shape[0]).astype(int).tolist()
    columns = np.clip([face.x - SIDE * unit_x, face.x + SIDE * unit_x], 0, photo.shape[1]).astype(int).tolist()
    scale = 1 if face.width >= FINE else 2 if face.width >= FINE / 2 else 3
    canvas = Canvas(slice(*rows), slice(*columns), scale, face, face.tilt + float(rng.normal(0, 0.025)))
    if min(canvas.shape) < 2:
        return photo
    weights = np.array([style.often for style in STYLES])
    style = STYLES[rng.choice(len(STYLES), p=weights / weights.sum())]
    top, bottom, half = _outline(style, worn, rng)
    below = photo[canvas.rows, canvas.columns]
    x, y = canvas.coordinates()

    filled = np.zeros(canvas.shape, np.uint8)
    outline = _rounded(np.concatenate([half, (half * (-1, 1))[::-1]]))
    cv2.fillPoly(filled, [canvas.pixels(outline)], 255, cv2.LINE_AA, shift=4)
    soft = canvas.scale * max(0.35, face.width / 300) * rng.uniform(0.7, 1.5)
    cover = _blurred(_plane(filled / np.float32(255)), soft)
    u = np.arcsin(np.clip(x / 1.25, -1, 1), dtype=np.float32)
    stretch = np.float32(unit_y / unit_x)
    t = (y - np.float32(top)) / np.float32(bottom - top)
    light = _light(below, canvas, x, y)
    shade = light * _relief_shade(style, canvas, x, t, cover, rng)
    cloth = _fabric(style, u, y * stretch, rng) * shade[..., None]
    if rng.random() < style.valve:
        _draw_valve(cloth, canvas, top, bottom, shade, rng)

    shadow = np.roll(_blurred(cover, 0.09 * canvas.unit), round(0.05 * canvas.unit), axis=0)
    shadow *= rng.uniform(0.25, 0.55) * np.clip(y / 0.15, 0, 1)  # none on the eyes
    colour: Picture = np.zeros((*canvas.shape, 3), np.float32)
    alpha = shadow
    strap = _straps(style, canvas, half, rng)
    strap_colour = light[..., None] * np.float32(rng.choice([238, 225, 60], p=[0.6, 0.2, 0.2]))
    for layer, over in ((strap_colour, strap), (cloth, cover)):
        colour += over[..., None] * (layer.clip(0, 255) - colour)
        alpha += over * (1 - alpha)

    size = below.shape[1::-1]
    covered = np.asarray(cv2.resize(alpha, size, interpolation=cv2.INTER_AREA))[..., None]
    above = cv2.resize(colour, size, interpolation=cv2.INTER_AREA)
    drawn = photo.copy()
    drawn[canvas.rows, canvas.columns] = np.clip(np.rint(below * (1 - covered) + above), 0, 255)
    return drawn


def _plane(values: npt.ArrayLike) -> Plane:
    return np.asarray(values, dtype=np.float32)


def _blurred(plane: Plane, sigma: float) -> Plane:
    return _plane(cv2.GaussianBlur(plane, (0, 0), max(sigma, 0.1)))


def _noise(shape: tuple[int, ...], cells: int, rng: np.random.Generator, stretch: float = 1.0) -> Plane:
    """Value noise, about -1..1: `cells` blobs from one side to the other, `stretch` times as wide as high."""
    coarse = rng.uniform(-1, 1, (max(2, round(cells * stretch)), max(2, int(cells)))).astype(np.float32)
    return _plane(cv2.resize(coarse, shape[1::-1], interpolation=cv2.INTER_CUBIC))


def _outline(style: MaskStyle, worn: bool, rng: np.random.Generator) -> tuple[float, float, Points]:
    """Top and bottom of a mask, heights on the face, and its right half in face coordinates."""
    top, bottom = rng.uniform(*TOP), rng.uniform(style.bottom[0], style.bottom[1])
    if not worn:
        right, top = top, rng.uniform(*(BARE_NOSE if rng.random() < 0.5 else BARE_MOUTH))
        bottom = min(bottom + 0.35 * (top - right), BELOW - 0.1)  # below the chin it slips out of sight
    half = np.array(style.half, dtype=np.float64)
    half[1:-1] += rng.normal(0, 0.012, half[1:-1].shape)
    y = top + half[:, 1] * (bottom - top)
    jaw = np.sqrt(np.clip(1 - ((y - 0.2) / 1.75) ** 2, 0.36, 1))  # half width of the face; below the chin, of the neck
    return top, bottom, np.stack([half[:, 0] * jaw * rng.uniform(0.96, 1.06), np.minimum(y, BELOW)], axis=1)


def _rounded(polygon: Points) -> Points:
    """Corners cut off three times (Chaikin 1974): float64 (8 * n, 2)."""
    for _ in range(3):
        ahead = np.roll(polygon, -1, axis=0)
        polygon = np.stack([0.8 * polygon + 0.2 * ahead, 0.2 * polygon + 0.8 * ahead], axis=1).reshape(-1, 2)
    return polygon


def _fabric(style: MaskStyle, u: Plane, v: Plane, rng: np.random.Generator) -> Picture:
    """The cloth of a mask, lit evenly; `u` and `v` are each pixel's place on it, in half widths of the face."""
    base = _colour(style, rng)
    cloth = np.broadcast_to(base, (*u.shape, 3)).astype(np.float32)
    if rng.random() < style.patterned:
        second = _colour(style, rng) if rng.random() < 0.5 else base * rng.uniform(0.4, 0.75)
        cloth += _pattern(u, v, rng)[..., None] * (second.astype(np.float32) - cloth)
    weave = _noise(u.shape, int(rng.integers(40, 90)), rng) + _noise(u.shape, 6, rng)
    return np.asarray(cloth * (1 + rng.uniform(0.01, 0.05) * weave[..., None]), dtype=np.float32)


def _colour(style: MaskStyle, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    if style.colours in PALETTES and rng.random() < 0.9:
        palette = PALETTES[style.colours]
        return np.asarray(palette[rng.integers(len(palette))] + rng.normal(0, 6, 3)).clip(12, 250)
    if rng.random() < 0.35:  # much of what is worn is black, white or grey
        return np.full(3, rng.choice([30, 50, 110, 170, 215, 238])) + rng.normal(0, 5, 3)
    hue, saturation, value = rng.random(), rng.beta(2, 2.5), rng.uniform(0.2, 0.95)
    return 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value))


def _pattern(u: Plane, v: Plane, rng: np.random.Generator) -> Plane:
    """Where the second colour of a cloth shows, 0..1."""
    kind = rng.integers(5)
    if kind == 0:  # stripes
        return _bands(_turned(u, v, rng)[0], rng.uniform(0.07, 0.35), rng.uniform(0.2, 0.6))
    if kind == 1:  # checks
        a, b = _turned(u, v, rng)
        period, share = rng.uniform(0.1, 0.35), rng.uniform(0.25, 0.6)
        return _plane((_bands(a, period, share) + _bands(b, period, share)) / 2)
    if kind == 2:  # dots
        period, radius = rng.uniform(0.1, 0.3), rng.uniform(0.15, 0.36)
        down = v / period
        across = u / period + 0.5 * (np.floor(down) % 2)  # every other row is shifted
        return _plane(np.clip((radius - np.hypot(across % 1 - 0.5, down % 1 - 0.5)) / 0.08 + 0.5, 0, 1))
    if kind == 3:  # a gradient
        along = _turned(u, v, rng)[0]
        return _plane(np.clip((along - along.min()) / max(float(np.ptp(along)), 1e-6), 0, 1))
    if rng.random() < 0.5:  # blots as of camouflage
        blots = _noise(u.shape, int(rng.integers(8, 22)), rng)
        return _plane(np.clip((blots - rng.uniform(-0.1, 0.3)) / 0.08, 0, 1))
    height, width = u.shape  # scattered leaves
    leaves = np.zeros(u.shape, np.float32)
    size = rng.uniform(0.02, 0.06) * width
    for _ in range(rng.integers(25, 90)):
        middle = int(rng.integers(width)), int(rng.integers(height))
        axes = max(1, round(size * rng.uniform(0.5, 1))), max(1, round(size * rng.uniform(0.2, 0.6)))
        shade = float(rng.uniform(0.3, 1))
        cv2.ellipse(leaves, middle, axes, float(rng.uniform(0, 180)), 0, 360, shade, -1, cv2.LINE_8)
    return _plane(cv2.GaussianBlur(leaves, (0, 0), max(0.4, 0.004 * width)))


def _turned(u: Plane, v: Plane, rng: np.random.Generator) -> tuple[Plane, Plane]:
    angle = rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)])
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cos * u + sin * v, cos * v - sin * u


def _bands(position: Plane, period: float, share: float) -> Plane:
    """1 on bands of `share` of a period, 0 between them."""
    distance = np.abs((position / period) % 1 - 0.5) * 2
    return _plane(np.clip((share - distance) / 0.08 + 0.5, 0, 1))


def _light(below: Pixels, canvas: Canvas, x: Plane, y: Plane) -> Plane:
    """Brightness of the face, as a plane over it: float32 (h, w), 1 in plain light."""
    grey = cv2.resize(cv2.cvtColor(below, cv2.COLOR_RGB2GRAY), canvas.shape[::-1]).astype(np.float32)
    inner = (np.abs(x) < 0.7) & (y > 0.1) & (y < 1.3)
    if not inner.any():
        return np.ones(canvas.shape, np.float32)
    mean = max(float(grey[inner].mean()), 1.0)
    sides = [float(grey[inner & side].mean()) if (inner & side).any() else mean for side in (x < 0, x > 0)]
    slope = np.clip((sides[1] - sides[0]) / mean / 0.7, -0.5, 0.5)
    level = np.clip(mean / PLAIN_FACE, 0.35, 1.2) ** 0.7  # a face may also be dark by itself
    return np.asarray(level * np.clip(1 + slope * x, 0.4, 1.5), dtype=np.float32)


def _relief_shade(
    style: MaskStyle, canvas: Canvas, x: Plane, t: Plane, cover: Plane, rng: np.random.Generator
) -> Plane:
    """Light and shade on the mask's relief: float32 (h, w), about 1."""
    dome = np.sqrt(np.clip(1 - (x / 1.1) ** 2 - (1.6 * (t - 0.52)) ** 2, 0, 1))
    relief = style.dome * 0.5 * _blurred(dome.astype(np.float32), 0.08 * canvas.unit)
    sag = t - 0.1 * (1 - x**2)  # lines across hang down a little in the middle of the outline
    for pleat in range(style.pleats):
        at = 0.32 + 0.42 * (pleat + rng.uniform(-0.12, 0.12)) / max(style.pleats - 1, 1)
        relief += 0.015 * (np.clip((sag - at + 0.08) / 0.08, 0, 1) - 2 * np.clip((sag - at) / 0.025, 0, 1))
    if style.seam == "vertical":
        relief += rng.uniform(0.05, 0.1) * np.exp(-np.abs(x) / 0.06)
    if style.seam == "horizontal":
        for at in (0.3, 0.66):
            relief -= 0.03 * np.clip((t - 0.12 * x**2 - at + 0.02) / 0.03, 0, 1)
    creases = _noise(t.shape, int(rng.integers(5, 10)), rng, stretch=rng.uniform(1, 2.5))
    relief += rng.uniform(0.005, 0.025) * creases
    relief += 0.02 * _blurred(cover, 0.03 * canvas.unit)  # the hem
    slope_y, slope_x = (np.asarray(g) * canvas.unit for g in np.gradient(_blurred(relief, 0.012 * canvas.unit)))
    from_x, from_y = rng.normal(0, 0.15), rng.uniform(0.2, 0.6)  # mostly from above
    lit = 1.0 + from_x * slope_x + from_y * slope_y
    around = 1 - rng.uniform(0.1, 0.3) * np.clip(np.abs(x), 0, 1.2) ** 2.5  # the sides turn away
    under = 1 - rng.uniform(0.1, 0.35) * np.clip(t - 0.55, 0, 0.6)
    return np.asarray(np.clip(lit, 0.55, 1.25) * around * under, dtype=np.float32)


def _draw_valve(
    cloth: Picture, canvas: Canvas, top: float, bottom: float, shade: Plane, rng: np.random.Generator
) -> None:
    middle = np.array([[rng.choice([-0.3, 0.0, 0.3]), top + 0.55 * (bottom - top)]])
    centre = tuple(canvas.pixels(middle)[0].tolist())
    grey = float(rng.choice([60, 200, 235]))
    for radius, level in ((0.17, 0.6 * grey), (0.16, grey), (0.11, 0.85 * grey), (0.1, grey)):
        disc = np.zeros(canvas.shape, np.uint8)
        cv2.circle(disc, centre, round(radius * canvas.unit * 16), 255, -1, cv2.LINE_AA, shift=4)
        over = _plane(disc / np.float32(255))[..., None]
        cloth += over * (level * shade[..., None] - cloth)


def _straps(style: MaskStyle, canvas: Canvas, half: Points, rng: np.random.Generator) -> Plane:
    """Coverage of the straps, float32 (h, w)."""
    drawn = np.zeros(canvas.shape, np.uint8)
    if style.straps == "none":
        return _plane(drawn / np.float32(255))
    ends = ((1.02, 0.2), (1.0, 0.6)) if style.straps == "ears" else ((1.1, 0.08), (1.0, 1.0))
    thick = max(1, round(canvas.unit * rng.uniform(0.02, 0.045)))
    for corner, end in zip(CORNERS, ends, strict=True):
        start = half[corner] * (0.96, 1)
        bend = (start + end) / 2 + (0.03, 0.02)
        along = np.linspace(0, 1, 9)[:, None]
        line = (1 - along) ** 2 * start + 2 * along * (1 - along) * bend + along**2 * np.array(end)
        for side in (1, -1):
            cv2.polylines(drawn, [canvas.pixels(line * (side, 1))], False, 255, thick, cv2.LINE_AA, shift=4)
    return _blurred(_plane(drawn / np.float32(255)), 0.3 * canvas.scale)
