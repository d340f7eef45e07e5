"""maskens check-submission."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ensemble.commands.options import DEFAULT_RUNS, DataOption, QuietOption, RunOption
from ensemble.commands.terminal import make_console, note, say


def check_submission(
    submission: Annotated[
        Path | None,
        typer.Argument(metavar="[CSV]", help="The file to check; by default the run's submission.csv."),
    ] = None,
    run: RunOption = DEFAULT_RUNS,
    data: DataOption = None,
    quiet: QuietOption = False,
) -> None:
    """Check a submission's rows, order and range, and its classes against the training set's mix.

    Example:  maskens check-submission runs/default/submission.csv
    """
    from ensemble.pipeline.submission import check_submission as check_file
    from ensemble.reporting.tables import submission_table

    console = make_console(quiet)
    done = check_file(submission, run[0], data=data)
    console.print(submission_table(done.check))
    note(console, done.check.warnings, "warning")
    say(
        console,
        f"{done.path} is accepted: {done.check.photos} rows in the order of info.csv, all classes in 0..17; "
        f"{done.check.distance:.0%} away from the training mix",
    )
