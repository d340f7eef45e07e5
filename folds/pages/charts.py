"""Charts, drawn without a display and without matplotlib's global state."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from folds.labels import AGE_CUTS, AGES, GENDERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


BARS = ("#3b6fb6", "#c8553d")  # by gender; both tell apart in grey and on either background
LIGHT = {"paper": "#ffffff", "ink": "#1d2430", "faint": "#8a93a2"}
DARK = {"paper": "#1b1f27", "ink": "#e6e9ef", "faint": "#7d8696"}


def age_histogram(years: Sequence[Sequence[int]], dark: bool = False) -> bytes:
    """People of each age, a panel a gender, with the cuts between the age bands.

    Args:
        years: ages in whole years of the people of each gender, in the order of GENDERS.

    Returns:
        A PNG of 1400 x 1000 pixels.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    look = DARK if dark else LIGHT
    figure = Figure(figsize=(5.6, 4), dpi=250, facecolor=look["paper"], layout="constrained")
    panels = figure.subplots(len(GENDERS), 1, sharex=True, sharey=True)
    everyone = [y for ages in years for y in ages]
    low, high = min([*everyone, AGE_CUTS[0] - 5]) - 1, max([*everyone, AGE_CUTS[-1] + 5]) + 1
    bins = [y - 0.5 for y in range(low, high + 2)]
    for panel, gender, ages, colour in zip(panels, GENDERS, years, BARS, strict=True):
        panel.hist(ages, bins=bins, color=colour, rwidth=0.85)
        panel.set_ylabel(f"{gender}, people")
        style_axes(panel, look)
        panel.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        panel.margins(y=0.18)
        panel.set_xlim(bins[0], bins[-1])
        for cut in AGE_CUTS:
            panel.axvline(cut - 0.5, color=look["ink"], linestyle="--", linewidth=1)
        edges = [bins[0], *(c - 0.5 for c in AGE_CUTS), bins[-1]]
        for band, (start, end) in enumerate(itertools.pairwise(edges)):
            count = sum(start < y < end for y in ages)
            panel.text(
                (start + end) / 2,
                0.97,
                f"{AGES[band]}: {count}",
                transform=panel.get_xaxis_transform(),
                ha="center",
                va="top",
                color=look["ink"],
                fontsize=10,
            )
    panels[-1].set_xlabel("age in years", color=look["ink"])
    return png(figure)


def style_axes(panel: Axes, look: Mapping[str, str]) -> None:
    """Give a panel the colours of its page, LIGHT or DARK, and no frame but its foot."""
    panel.set_facecolor(look["paper"])
    panel.tick_params(colors=look["ink"])
    for label in (panel.xaxis.label, panel.yaxis.label, panel.title):
        label.set_color(look["ink"])
    for side, spine in panel.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(look["faint"])


def png(figure: Figure) -> bytes:
    """A PNG of a figure on its own background."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=figure.get_facecolor())
    return buffer.getvalue()
