"""The charts of a report, each for light and for dark pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ensemble.evaluation.calibration import Calibration
from ensemble.jobs.history import CURVES, JobCurves
from ensemble.reporting.report import AgeErrors
from folds.data.labels import AGE_CUTS
from folds.pages.charts import BARS, DARK, LIGHT, png, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


Look = Mapping[str, str]

DPI = 200
WIDTH = 7.0  # inches
COLOURS = (*BARS, "#2f9e77", "#a06cc0", "#c08a1e", "#3fa3bd", "#8a93a2")  # tell apart on either background
LINES = ("-", "--", ":")  # once the colours are used up


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
    """How the age band of each age was predicted: right, too young, too old; a panel a gender."""

    def draw(figure: Figure, look: Look) -> None:
        panels = figure.subplots(len(found), 1, sharex=True, squeeze=False)[:, 0]
        for panel, errors in zip(panels, found, strict=True):
            middle = [(g.first + g.last) / 2 for g in errors.groups]
            width = [g.last - g.first + 0.86 for g in errors.groups]
            foot = [0.0] * len(middle)
            for name, label, colour in (
                ("right", "right", COLOURS[0]),
                ("younger", "too young", COLOURS[4]),
                ("older", "too old", COLOURS[1]),
            ):
                shares = [getattr(g, name) for g in errors.groups]
                panel.bar(middle, shares, width, bottom=foot, color=colour, label=label)
                foot = [a + b for a, b in zip(foot, shares, strict=True)]
            for cut in AGE_CUTS:
                panel.axvline(cut - 0.5, color=look["ink"], linestyle="--", linewidth=1)
            panel.set(ylim=(0, 1), ylabel=f"{errors.gender},\nfraction of photos")
            panel.margins(x=0.01)
            _style_axes(panel, look)
        panels[-1].set_xlabel("age in years", fontsize=9, color=look["ink"])
        _legend(figure, panels[0], look)

    return _both(0.6 + 1.8 * len(found), draw)


def curves_chart(jobs: Sequence[JobCurves]) -> Chart:
    """Losses of training and validation and macro F1 by epoch: a row a task, a line a fold, a dot the best epoch."""
    tasks = list(dict.fromkeys(job.task for job in jobs))
    folds = sorted({job.fold for job in jobs})
    names = {"loss": "training loss", "val_loss": "validation loss", "f1": "validation macro F1"}

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
