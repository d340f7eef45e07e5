"""maskens report."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ensemble.commands.options import (
    DEFAULT_RUNS,
    CheckpointOption,
    DataOption,
    NoTuningOption,
    QuietOption,
    RunsOption,
    TtaOption,
    WorkersOption,
)
from ensemble.commands.score import Scored, evaluate_runs
from ensemble.commands.step import step
from ensemble.commands.terminal import Observer, Terminal


@dataclass(frozen=True)
class Options:
    """What the page shows, of which runs."""

    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="The page; by default report.html in the (first) run."),
    ] = None
    photos: Annotated[
        int, typer.Option("--photos", metavar="N", min=0, max=500, help="Worst and most uncertain photos; 0 for none.")
    ] = 16
    tta: TtaOption = None
    checkpoint: CheckpointOption = "cross-fitted"
    no_tuning: NoTuningOption = False
    run: RunsOption = DEFAULT_RUNS
    data: DataOption = None
    workers: WorkersOption = None
    quiet: QuietOption = False


@dataclass(frozen=True)
class Reported:
    """The score and the page that shows it."""

    scored: Scored
    path: Path
    replaced: bool  # an earlier report


def _print(done: Reported, options: Options, terminal: Terminal) -> None:
    from ensemble.reporting.tables import headline

    terminal.note(done.scored.evaluation.notes)
    for line in headline(done.scored.evaluation, done.scored.runs):
        terminal.say(line, "bold")
    if done.replaced:
        terminal.say(f"the earlier report in {done.path} was replaced")
    if options.photos:
        terminal.say("it shows photos of people; share it with care, or leave them out: --photos 0")
    terminal.say(f"saved: {done.path}")


@step(Options, show=_print, first="run")
def report(options: Options, observer: Observer) -> Reported:
    """One page on what the ensemble is worth and where it errs: scores, confusions, calibration, ages, photos.

    Several runs on the same folds are shown as one ensemble.

    Example:  maskens report --run runs/default --photos 24
    \f
    Raises:
        MaskensError: nothing trained, runs that don't belong together, or a file that is not a report's to replace.
    """
    from ensemble.reporting.report import gather
    from ensemble.reporting.report_page import GENERATOR, report_file, write_report
    from folds.files import must_be_writable
    from folds.pages.html import refuse_foreign_file
    from folds.run_folder import load_run

    path = options.out or report_file([load_run(folder) for folder in options.run])
    must_be_writable(path)
    refuse_foreign_file(path, GENERATOR)
    scored = evaluate_runs(options.run, options.data, options.tta, options.checkpoint, not options.no_tuning)
    gathered = gather(scored.blend, scored.evaluation, options.photos)
    replaced = path.exists()
    with observer.progress() as on_progress:
        write_report(path, gathered, options.workers or -1, partial(on_progress, "opening photos"))
    return Reported(scored, path, replaced)
