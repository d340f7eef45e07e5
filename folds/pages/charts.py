"""Charts as inline SVG, which the template `macros.html` draws: one panel each, in the colours of the page."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from folds.labels import AGE_CUTS, AGES, GENDERS

WIDTH, HEIGHT = 340, 210  # of a panel, in units of the SVG; the page scales it
LEFT, RIGHT, TOP, BOTTOM = 40, 8, 16, 34  # margins around the axes
COLOURS = 7  # of the page: --c0 to --c6


@dataclass(frozen=True)
class Bar:
    left: float
    right: float
    low: float
    high: float
    colour: int | None  # None: faint


@dataclass(frozen=True)
class Line:
    points: Sequence[tuple[float, float]]
    colour: int | None  # None: faint and dashed
    dots: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Panel:
    """One chart in data coordinates."""

    title: str
    x_label: str
    x: tuple[float, float]  # range of the axis
    y: tuple[float, float]
    least: tuple[float, float] = (0, 0)  # smallest steps between ticks of x and y
    bars: Sequence[Bar] = ()
    lines: Sequence[Line] = ()
    cuts: Sequence[float] = ()  # x of dashed vertical lines
    notes: Sequence[tuple[float, str]] = ()  # words at the top, centred on x

    def px(self, x: float) -> float:
        return round(LEFT + (x - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - LEFT - RIGHT), 1)

    def py(self, y: float) -> float:
        return round(HEIGHT - BOTTOM - (y - self.y[0]) / (self.y[1] - self.y[0]) * (HEIGHT - TOP - BOTTOM), 1)

    def path(self, points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{self.px(x)},{self.py(y)}" for x, y in points)

    @property
    def ticks(self) -> list[list[str]]:
        """Round numbers along x and y."""
        return [ticks(*ends, least) for ends, least in zip((self.x, self.y), self.least, strict=True)]


def ticks(low: float, high: float, least: float = 0) -> list[str]:
    """At most seven round numbers within a range, at least `least` apart."""
    rough = max((high - low) / 6, least)
    power = 10.0 ** np.floor(np.log10(rough))
    step = power * next(m for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    return [f"{n * step:g}" for n in range(int(np.ceil(low / step - 1e-9)), int(np.floor(high / step + 1e-9)) + 1)]


def age_histogram(years: Sequence[Sequence[int]]) -> list[Panel]:
    """People of each age, a panel a gender, with the age cuts and the people of each band, from the ages in whole years
    of the people of each gender."""
    counts = [Counter(ages) for ages in years]
    everyone = [age for of_gender in counts for age in of_gender]
    low, high = min([*everyone, AGE_CUTS[0] - 5]) - 1.5, max([*everyone, AGE_CUTS[-1] + 5]) + 1.5
    top = 1.2 * max([4, *(n for of_gender in counts for n in of_gender.values())])
    edges = [low, *(c - 0.5 for c in AGE_CUTS), high]
    bands = [(name, *edge) for name, edge in zip(AGES, itertools.pairwise(edges), strict=True)]
    return [
        Panel(
            f"{gender}, people by age",
            "age in years",
            (low, high),
            (0, top),
            least=(1, 1),
            bars=[Bar(age - 0.42, age + 0.42, 0, n, number) for age, n in sorted(counts[number].items())],
            cuts=edges[1:-1],
            notes=[((a + b) / 2, f"{name}: {sum(a < y < b for y in years[number])}") for name, a, b in bands],
        )
        for number, gender in enumerate(GENDERS)
    ]
