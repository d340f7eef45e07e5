"""Cloth for drawn masks: colours and patterns."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np
import numpy.typing as npt

from ensemble.data.mask_styles import PALETTES, MaskStyle

Plane = npt.NDArray[np.float32]  # (h, w)
Picture = npt.NDArray[np.float32]  # (h, w, 3), RGB 0..255


def fabric(style: MaskStyle, u: Plane, v: Plane, rng: np.random.Generator) -> Picture:
    """The cloth of a mask, lit evenly.

    Args:
        style: decides on the colours, and how often there is a pattern.
        u, v: float32 (h, w), where each pixel is on the cloth, in half widths of the face.

    Returns:
        float32 (h, w, 3), RGB 0..255.
    """
    base = _colour(style, rng)
    cloth = np.broadcast_to(base, (*u.shape, 3)).astype(np.float32)
    if rng.random() < style.patterned:
        second = _colour(style, rng) if rng.random() < 0.5 else base * rng.uniform(0.4, 0.75)
        amount = (_stripes, _checks, _dots, _gradient, _print)[rng.integers(5)](u, v, rng)
        cloth += amount[..., None] * (second.astype(np.float32) - cloth)
    weave = smooth_noise(u.shape, int(rng.integers(40, 90)), rng) + smooth_noise(u.shape, 6, rng)
    return np.asarray(cloth * (1 + rng.uniform(0.01, 0.05) * weave[..., None]), dtype=np.float32)


def smooth_noise(shape: tuple[int, ...], cells: int, rng: np.random.Generator, stretch: float = 1.0) -> Plane:
    """Value noise: float32 (h, w), about -1..1.

    Args:
        cells: blobs from one side to the other.
        stretch: above 1, blobs are as much wider than high.
    """
    coarse = rng.uniform(-1, 1, (max(2, round(cells * stretch)), max(2, int(cells)))).astype(np.float32)
    return np.asarray(cv2.resize(coarse, shape[1::-1], interpolation=cv2.INTER_CUBIC), dtype=np.float32)


def _colour(style: MaskStyle, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    if style.colours in PALETTES and rng.random() < 0.9:
        palette = PALETTES[style.colours]
        return np.asarray(palette[rng.integers(len(palette))] + rng.normal(0, 6, 3)).clip(12, 250)
    if rng.random() < 0.35:  # much of what is worn is black, white or grey
        return np.full(3, rng.choice([30, 50, 110, 170, 215, 238])) + rng.normal(0, 5, 3)
    hue, saturation, value = rng.random(), rng.beta(2, 2.5), rng.uniform(0.2, 0.95)
    return 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value))


def _turned(u: Plane, v: Plane, rng: np.random.Generator) -> tuple[Plane, Plane]:
    angle = rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)])
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cos * u + sin * v, cos * v - sin * u


def _bands(position: Plane, period: float, share: float, soft: float = 0.08) -> Plane:
    """1 on bands of `share` of a period, 0 between them."""
    distance = np.abs((position / period) % 1 - 0.5) * 2
    return np.asarray(np.clip((share - distance) / soft + 0.5, 0, 1), dtype=np.float32)


def _stripes(u: Plane, v: Plane, rng: np.random.Generator) -> Plane:
    return _bands(_turned(u, v, rng)[0], rng.uniform(0.07, 0.35), rng.uniform(0.2, 0.6))


def _checks(u: Plane, v: Plane, rng: np.random.Generator) -> Plane:
    a, b = _turned(u, v, rng)
    period, share = rng.uniform(0.1, 0.35), rng.uniform(0.25, 0.6)
    return np.asarray((_bands(a, period, share) + _bands(b, period, share)) / 2, dtype=np.float32)


def _dots(u: Plane, v: Plane, rng: np.random.Generator) -> Plane:
    period, radius = rng.uniform(0.1, 0.3), rng.uniform(0.15, 0.36)
    a, b = u / period, v / period
    a = a + 0.5 * (np.floor(b) % 2)  # every other row is shifted
    return np.asarray(np.clip((radius - np.hypot(a % 1 - 0.5, b % 1 - 0.5)) / 0.08 + 0.5, 0, 1), dtype=np.float32)


def _gradient(u: Plane, v: Plane, rng: np.random.Generator) -> Plane:
    a = _turned(u, v, rng)[0]
    return np.asarray(np.clip((a - a.min()) / max(float(np.ptp(a)), 1e-6), 0, 1), dtype=np.float32)


def _print(u: Plane, v: Plane, rng: np.random.Generator) -> Plane:
    """Blots as of camouflage, or scattered leaves."""
    if rng.random() < 0.5:
        blots = smooth_noise(u.shape, int(rng.integers(8, 22)), rng)
        return np.asarray(np.clip((blots - rng.uniform(-0.1, 0.3)) / 0.08, 0, 1), dtype=np.float32)
    height, width = u.shape
    canvas = np.zeros(u.shape, np.float32)
    size = rng.uniform(0.02, 0.06) * width
    for _ in range(rng.integers(25, 90)):
        middle = int(rng.integers(width)), int(rng.integers(height))
        axes = max(1, round(size * rng.uniform(0.5, 1))), max(1, round(size * rng.uniform(0.2, 0.6)))
        shade = float(rng.uniform(0.3, 1))
        cv2.ellipse(canvas, middle, axes, float(rng.uniform(0, 180)), 0, 360, shade, -1, cv2.LINE_8)
    return np.asarray(cv2.GaussianBlur(canvas, (0, 0), max(0.4, 0.004 * width)), dtype=np.float32)
