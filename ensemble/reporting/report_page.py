"""What `maskens report` leaves behind: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ensemble.metrics.bootstrap import SCORED_PARTS
from ensemble.reporting.report import EACH, GROUP, NEAR, Report, ShownPhoto
from ensemble.reporting.report_charts import age_chart, class_chart, curves_chart, reliability_chart
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
        title="What "
        + " + ".join(run.name for run in report.runs)
        + (" are" if len(report.runs) > 1 else " is")
        + " worth",
        report=report,
        found=found,
        parts=SCORED_PARTS,
        class_names=CLASS_NAMES,
        class_chart=class_chart(found.class_f1, found.score.support),
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


def photo_cells(
    report: Report, shown: Sequence[ShownPhoto], workers: int, on_progress: Progress | None = None
) -> list[Cell]:
    """Each photo small, with what it is, what it was taken as and how sure that was; no picture if it can't be read."""
    data = report.blend.data
    paths = [data.photos.path(data.files[photo.row]) for photo in shown]
    pictures = in_threads(partial(_small, box=BOX), paths, workers, on_progress)
    cells = []
    for photo, picture in zip(shown, pictures, strict=True):
        right = photo.decided == photo.truth
        sure = [f"p(true) {photo.p_true:.3g}", f"p(decided) {photo.p_decided:.3g}", f"{photo.entropy:.2f} bits"]
        said = "decided right" if right else f"as {photo.decided}"
        name = f"{photo.person}/{photo.photo}"
        cells.append(Cell(picture, "\n".join([f"is {photo.truth}", said, *sure, name]), name))
    return cells


def _small(path: Path, box: tuple[int, int]) -> Pixels | None:
    try:
        return thumbnail(read_photo(path), box)
    except MaskensError:
        return None
