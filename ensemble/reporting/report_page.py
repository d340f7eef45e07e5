"""What `maskens report` leaves behind: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ensemble.evaluation.calibration import Calibration
from ensemble.metrics.bootstrap import SCORED_PARTS
from ensemble.reporting.report import EACH, GROUP, NEAR, Confusion, Report, RunFacts, ShownPhoto
from ensemble.reporting.report_charts import age_chart, curves_chart, reliability_chart
from folds.data.decode import Pixels, Progress, in_threads, read_photo
from folds.data.labels import AGE_CUTS, CLASS_NAMES
from folds.errors import MaskensError
from folds.files import write_text
from folds.pages.contact_sheet import Cell, thumbnail
from folds.pages.html import render
from folds.run import Run
from folds.runs import file_of

GENERATOR = "maskens report"
BOX = (150, 150)  # width, height of a photo at most, in pixels
WELL_CALIBRATED = 0.02  # least gap of mean confidence and accuracy that is called over- or underconfident


def report_file(runs: Sequence[Run]) -> Path:
    """Where a report lies unless it is said otherwise: in the first run."""
    return file_of(runs, "report.html")


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
