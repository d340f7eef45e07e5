"""The charts of a report, each for light and for dark pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ensemble.evaluation.calibration import Calibration
from ensemble.jobs.history import CURVES, JobCurves
from ensemble.metrics.bootstrap import Interval
from ensemble.reporting.report import AgeErrors
from folds.data.labels import AGE_CUTS, MASKS, IntArray, decode
from folds.pages.charts import BARS, DARK, LIGHT, png, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


Look = Mapping[str, str]

DPI = 200
WIDTH = 7.0  # inches
COLOURS = (*BARS, "#2f9e77", "#a06cc0", "#c08a1e", "#3fa3bd", "#8a93a2")  # tell apart on either background
LINES = ("-", "--", ":")  # once the colours are used up
ASIDE = (1.0, 0.95, 1.055)  # by mask: the last two have one photo a person each, so their classes are of one size


@dataclass(frozen=True)
class Chart:
    """One chart in two looks, PNG."""

    light: bytes
    dark: bytes
    width: int  # pixels
    height: int


def _both(height: float, draw: Callable[[Figure, Look], None]) -> Chart:
    from matplotlib.figure import Figure

    def drawn(look: Look) -> bytes:
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor=look["paper"], layout="constrained")
        draw(figure, look)
        return png(figure)

    return Chart(drawn(LIGHT), drawn(DARK), round(WIDTH * DPI), round(height * DPI))


def _legend(figure: Figure, panel: Axes, look: Look) -> None:
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=8,
        frameon=False,
        labelcolor=look["ink"],
        fontsize=9,
        handlelength=1.4,
        columnspacing=1.2,
    )


def _style_axes(panel: Axes, look: Look) -> None:
    style_axes(panel, look)
    panel.tick_params(labelsize=8.5)
    for label in (panel.xaxis.label, panel.yaxis.label, panel.title):
        label.set_fontsize(9)


def class_chart(class_f1: Sequence[Interval], support: IntArray) -> Chart:
    """F1 of each class with its interval against its photos; a class without photos is left out.

    Args:
        support: int64 (18,), true photos of each class.
    """
    some = [c for c in range(len(support)) if support[c]]
    mask = decode(range(len(support)))[0]

    def draw(figure: Figure, look: Look) -> None:
        panel = figure.subplots()
        for number, name in enumerate(MASKS):
            mine = [c for c in some if mask[c] == number]
            x = [support[c] * ASIDE[number] for c in mine]
            f1 = [class_f1[c] for c in mine]
            error = [[max(0.0, i.value - i.low) for i in f1], [max(0.0, i.high - i.value) for i in f1]]
            colour = COLOURS[number]
            panel.errorbar(x, [i.value for i in f1], error, fmt="none", ecolor=colour, elinewidth=1, alpha=0.65)
            panel.scatter(x, [i.value for i in f1], s=115, color=colour, label=name, zorder=3, linewidths=0)
            for c, place, i in zip(mine, x, f1, strict=True):
                panel.text(place, i.value, f"{c}", color="white", fontsize=7, ha="center", va="center", zorder=4)
        panel.set(xscale="log", ylim=(-0.04, 1.04), xlabel="photos of the class", ylabel="F1")
        _round_ticks(panel, [int(support[c]) for c in some])
        _style_axes(panel, look)
        panel.grid(axis="y", color=look["faint"], alpha=0.25, linewidth=0.6)
        _legend(figure, panel, look)

    return _both(4.2, draw)


def _round_ticks(panel: Axes, values: Sequence[int]) -> None:
    """Whole numbers on a logarithmic axis, not powers of ten."""
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    low, high = min(values) / 1.25, max(values) * 1.25
    steps = [m * 10**e for e in range(7) for m in (1, 2, 5)]
    panel.set_xlim(low, high)
    panel.xaxis.set_major_locator(FixedLocator([s for s in steps if low <= s <= high]))
    panel.xaxis.set_major_formatter(ScalarFormatter())
    panel.xaxis.set_minor_locator(NullLocator())


def reliability_chart(found: Sequence[Calibration]) -> Chart:
    """Accuracy against confidence, a panel a part; the bars at the foot are the shares of the photos."""

    def draw(figure: Figure, look: Look) -> None:
        panels = figure.subplots(1, len(found), sharex=True, sharey=True)
        for panel, part in zip(panels, found, strict=True):
            shares = part.photos / part.photos.sum()
            panel.plot([0, 1], [0, 1], color=look["faint"], linestyle="--", linewidth=1)
            panel.bar(part.confidence, shares, width=0.045, color=look["faint"], alpha=0.4)
            panel.plot(part.confidence, part.accuracy, color=COLOURS[0], marker="o", markersize=4, linewidth=1.6)
            panel.set(xlim=(0, 1.03), ylim=(0, 1.03), xlabel="confidence", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
            panel.set_title(f"{part.name}\nECE {part.ece:.3f}")
            panel.set_box_aspect(1)
            _style_axes(panel, look)
            panel.tick_params(left=panel is panels[0])
        panels[0].set_ylabel("accuracy", fontsize=9, color=look["ink"])

    return _both(2.45, draw)


def age_chart(found: Sequence[AgeErrors]) -> Chart:
    """How the age band of each age was decided: right, taken as younger, taken as older; a panel a gender."""

    def draw(figure: Figure, look: Look) -> None:
        panels = figure.subplots(len(found), 1, sharex=True, squeeze=False)[:, 0]
        for panel, errors in zip(panels, found, strict=True):
            middle = [(g.first + g.last) / 2 for g in errors.groups]
            width = [g.last - g.first + 0.86 for g in errors.groups]
            foot = [0.0] * len(middle)
            for name, colour in (("right", COLOURS[0]), ("younger", COLOURS[4]), ("older", COLOURS[1])):
                shares = [getattr(g, name) for g in errors.groups]
                label = name if name == "right" else f"taken as {name}"
                panel.bar(middle, shares, width, bottom=foot, color=colour, label=label)
                foot = [a + b for a, b in zip(foot, shares, strict=True)]
            for cut in AGE_CUTS:
                panel.axvline(cut - 0.5, color=look["ink"], linestyle="--", linewidth=1)
            panel.set(ylim=(0, 1), ylabel=f"{errors.gender},\nshare of photos")
            panel.margins(x=0.01)
            _style_axes(panel, look)
        panels[-1].set_xlabel("age in years", fontsize=9, color=look["ink"])
        _legend(figure, panels[0], look)

    return _both(0.6 + 1.8 * len(found), draw)


def curves_chart(jobs: Sequence[JobCurves]) -> Chart:
    """Loss, loss on the held-out fold and its macro F1 by epoch: a row a task, a line a fold, a dot the best epoch."""
    tasks = list(dict.fromkeys(job.task for job in jobs))
    folds = sorted({job.fold for job in jobs})
    names = {"loss": "training loss", "val_loss": "held-out loss", "f1": "held-out macro F1"}

    def draw(figure: Figure, look: Look) -> None:
        from matplotlib.ticker import MaxNLocator

        rows = figure.subplots(len(tasks), len(CURVES), squeeze=False)
        for panels, task in zip(rows, tasks, strict=True):
            mine = [job for job in jobs if job.task == task]
            longest = max(job.epochs for job in mine)
            for panel, column in zip(panels, CURVES, strict=True):
                for job in mine:
                    number = folds.index(job.fold)
                    colour, line = COLOURS[number % len(COLOURS)], LINES[number // len(COLOURS) % len(LINES)]
                    values, epochs = job.curves[column], range(1, job.epochs + 1)
                    panel.plot(epochs, values, color=colour, linestyle=line, linewidth=1.3, label=f"fold {job.fold}")
                    panel.plot(job.best, values[job.best - 1], color=colour, marker="o", markersize=4.5)
                panel.set_xlim(0.8, longest + 0.2)
                panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5, min_n_ticks=1))
                panel.yaxis.set_major_locator(MaxNLocator(nbins=4))
                panel.set_title(f"{task}: {names[column]}")
                _style_axes(panel, look)
        for panel in rows[-1]:
            panel.set_xlabel("epoch", fontsize=9, color=look["ink"])
        _legend(figure, max(rows[:, 0], key=lambda p: len(p.lines)), look)

    return _both(0.7 + 1.6 * len(tasks), draw)
