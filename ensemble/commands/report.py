"""maskens report."""

from __future__ import annotations

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
from ensemble.commands.terminal import make_console, note, progress_bars, say


def report(
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="The page; by default report.html in the (first) run."),
    ] = None,
    photos: Annotated[
        int, typer.Option("--photos", metavar="N", min=0, max=500, help="Worst and most uncertain photos; 0 for none.")
    ] = 16,
    tta: TtaOption = None,
    checkpoint: CheckpointOption = "cross-fitted",
    no_tuning: NoTuningOption = False,
    run: RunsOption = DEFAULT_RUNS,
    data: DataOption = None,
    workers: WorkersOption = None,
    quiet: QuietOption = False,
) -> None:
    """One page on what the ensemble is worth and where it errs: scores, confusions, calibration, ages, photos.

    Several runs on the same folds are shown as one ensemble.

    Example:  maskens report --run runs/default --photos 24
    """
    from ensemble.pipeline.report import report as write_report
    from ensemble.reporting.tables import headline

    console = make_console(quiet)
    with progress_bars(console) as on_progress:
        done = write_report(
            run,
            out=out,
            photos=photos,
            data=data,
            tta=tta,
            checkpoint=checkpoint,
            tuned=not no_tuning,
            workers=workers,
            on_progress=on_progress,
        )
    found = done.scored.evaluation
    note(console, found.notes)
    for line in headline(found, done.scored.runs):
        say(console, line, "bold")
    if done.replaced:
        say(console, f"the earlier report in {done.path} was replaced")
    if photos:
        say(console, "it shows photos of people; share it with care, or leave them out: --photos 0")
    say(console, f"saved: {done.path}")
