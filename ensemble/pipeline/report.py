"""One page on what an ensemble is worth and where it errs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ensemble.jobs.oof import Checkpoint
from ensemble.pipeline.inputs import DEFAULT_RUN, Folder, Folders, OnProgress, load_runs, part_of
from ensemble.pipeline.score import Scored, evaluate_runs
from ensemble.recipes.views import Tta
from ensemble.reporting.report import gather
from ensemble.reporting.report_page import GENERATOR, report_file, write_report
from folds.files import must_be_writable
from folds.pages.html import refuse_foreign_file


@dataclass(frozen=True)
class Reported:
    """The score and the page that shows it."""

    scored: Scored
    path: Path
    replaced: bool  # an earlier report


def report(
    runs: Folders = DEFAULT_RUN,
    *,
    out: Folder | None = None,
    photos: int = 16,
    data: Folder | None = None,
    tta: Tta | None = None,
    checkpoint: Checkpoint = "cross-fitted",
    tuned: bool = True,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> Reported:
    """Write scores, confusions, calibration, ages, learning curves and photos as one self-contained HTML page.

    Args:
        runs, data, tta, checkpoint, tuned: as of `score`.
        out: the page; None is report.html in the (first) run.
        photos: worst and most uncertain ones; 0 for none.
        workers: threads that open photos; None takes all cores.

    Raises:
        MaskensError: as `score`, or a file that is not a report's to replace.
    """
    path = Path(out) if out else report_file(load_runs(runs))
    must_be_writable(path)
    refuse_foreign_file(path, GENERATOR)
    scored = evaluate_runs(runs, data, tta, checkpoint, tuned)
    gathered = gather(scored.blend, scored.evaluation, photos)
    replaced = path.exists()
    write_report(path, gathered, workers or -1, part_of(on_progress, "opening photos"))
    return Reported(scored, path, replaced)
