"""What `maskens report` leaves: one HTML file that needs nothing else, and its charts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ensemble.evaluation.evaluate import Calibration
from ensemble.jobs.oof import CURVES, JobCurves
from ensemble.metrics.scores import SCORED_PARTS
from ensemble.reporting.report import EACH, GROUP, NEAR, AgeErrors, Confusion, Report, RunFacts, ShownPhoto
from folds.errors import MaskensError
from folds.files import write_text
from folds.labels import AGE_CUTS, CLASS_NAMES
from folds.pages.charts import BARS, DARK, LIGHT, png, style_axes
from folds.pages.contact_sheet import Cell, thumbnail
from folds.pages.html import render
from folds.photos import Pixels, Progress, in_threads, read_photo
from folds.run_folder import Run, file_of

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


GENERATOR = "maskens report"
BOX = (150, 150)  # width, height of a photo at most, in pixels
WELL_CALIBRATED = 0.02  # least gap of mean confidence and accuracy that is called over- or underconfident


def report_file(runs: Sequence[Run]) -> Path:
    """Where a report lies unless it is said otherwise: in the first run."""
    return file_of(runs, lambda run: run.report_file)


def write_report(path: Path, report: Report, workers: int, on_progress: Progress | None = None) -> None:
    """Open the photos that are shown, draw the charts and write the page.

    Args:
        workers: threads that open photos; -1 all cores.

    Raises:
        MaskensError: if the system refuses to write.
    """
    shown = [*report.worst, *report.uncertain]
    cells = photo_cells(report, shown, workers, on_progress)
    found = report.found
    html = render(
        "report.html",
        generator=GENERATOR,
        title=f"Evaluation of {' + '.join(run.name for run in report.runs)}",
        report=report,
        found=found,
        parts=SCORED_PARTS,
        class_names=CLASS_NAMES,
        findings=findings(report),
        reliability=reliability_chart(report.calibrations),
        ages=age_chart(report.ages),
        curves=[curves_chart(run.curves) if run.curves else None for run in report.runs],
        worst=cells[: len(report.worst)],
        uncertain=cells[len(report.worst) :],
        cuts=AGE_CUTS,
        each=EACH,
        group=GROUP,
        near=NEAR,
    )
    write_text(path, html)


def findings(report: Report) -> dict[str, str | list[str]]:
    """What each section shows, in a sentence; of the learning curves one a run."""
    found = report.found
    plain, *others = found.settings
    moved = {
        kind: ", ".join(f"{s.name} ({s.gain.value:+.4f})" for s in others if s.gain.significance == kind)
        for kind in ("better", "worse")
    }
    variants = "; ".join(f"{kind}: {names}" for kind, names in moved.items() if names)
    weakest = min(SCORED_PARTS[1:], key=lambda part: found.f1[part].value)
    folds = [fold.f1 for fold in found.folds]
    lowest = min(np.flatnonzero(found.score.support).tolist(), key=lambda c: found.class_f1[c].value)
    f1, people = found.class_f1[lowest], int(found.class_people[lowest])
    wrong, near = (sum(getattr(a, name) for a in report.ages) for name in ("wrong", "wrong_near"))
    return {
        "settings": f"Against {plain.name}, {variants}."
        if variants
        else f"No variant differs from {plain.name} by more than noise.",
        "parts": f"The weakest part is {weakest}, macro F1 {found.f1[weakest].value:.4f}. "
        f"Over folds, macro F1 of the 18 classes ranges from {min(folds):.4f} to {max(folds):.4f}.",
        "classes": f"Lowest F1: class {lowest} ({CLASS_NAMES[lowest]}), {f1:.3f}, on {people} people.",
        "confusion": _commonest_error(report.confusions[0]),
        "calibration": _calibration_finding(report.calibrations[0]),
        "ages": f"{wrong} of {sum(a.photos for a in report.ages)} photos get the wrong age band; "
        f"{near} of them are of people within {NEAR} years of a cut.",
        "curves": [_curves_finding(run) for run in report.runs],
    }


def _commonest_error(matrix: Confusion) -> str:
    errors = matrix.counts * (1 - np.eye(len(matrix.labels), dtype=np.int64))
    true, said = np.unravel_index(int(errors.argmax()), errors.shape)
    if not errors.any():
        return "No photo is predicted wrong."
    return (
        f"The most common error: {matrix.labels[true]} predicted as {matrix.labels[said]}, "
        f"{errors[true, said]} of {matrix.counts[true].sum()} photos."
    )


def _calibration_finding(part: Calibration) -> str:
    sure, right = (float(np.average(values, weights=part.photos)) for values in (part.confidence, part.accuracy))
    if abs(sure - right) < WELL_CALIBRATED:
        words = "well calibrated on average"
    else:
        words = "overconfident" if sure > right else "underconfident"
    return f"The {part.name} are {words}: mean confidence {sure:.3f}, accuracy {right:.3f}."


def _curves_finding(run: RunFacts) -> str:
    last = sum(job.best == job.epochs for job in run.curves)
    advice = ": more epochs may help" if 2 * last > len(run.curves) else ""
    return f"The best epoch is the last one in {last} of {len(run.curves)} jobs{advice}."


def photo_cells(
    report: Report, shown: Sequence[ShownPhoto], workers: int, on_progress: Progress | None = None
) -> list[Cell]:
    """Thumbnails with the true and the predicted class and their probabilities; no picture if it can't be read."""
    data = report.blend.data
    paths = [data.photos.path(data.files[photo.row]) for photo in shown]
    pictures = in_threads(partial(_small, box=BOX), paths, workers, on_progress)
    cells = []
    for photo, picture in zip(shown, pictures, strict=True):
        right = photo.decided == photo.truth
        sure = [f"p(true) {photo.p_true:.3g}", f"p(predicted) {photo.p_decided:.3g}", f"{photo.entropy:.2f} bits"]
        said = "predicted right" if right else f"predicted {photo.decided}"
        name = f"{photo.person}/{photo.photo}"
        cells.append(Cell(picture, "\n".join([f"true {photo.truth}", said, *sure, name]), name))
    return cells


def _small(path: Path, box: tuple[int, int]) -> Pixels | None:
    try:
        return thumbnail(read_photo(path), box)
    except MaskensError:
        return None
