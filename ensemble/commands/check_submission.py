"""maskens check-submission."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensemble.commands.options import DEFAULT_RUNS, DataOption, QuietOption, RunOption
from ensemble.commands.step import step
from ensemble.commands.terminal import Observer, Terminal

if TYPE_CHECKING:
    from ensemble.decision.submission import SubmissionCheck


@dataclass(frozen=True)
class Options:
    """Which file is checked, against which run's data."""

    submission: Annotated[
        Path | None,
        typer.Argument(metavar="[CSV]", help="The file to check; by default the run's submission.csv."),
    ] = None
    run: RunOption = DEFAULT_RUNS
    data: DataOption = None
    quiet: QuietOption = False


@dataclass(frozen=True)
class CheckedSubmission:
    """A submission that is accepted."""

    check: SubmissionCheck
    path: Path


def _print(done: CheckedSubmission, options: Options, terminal: Terminal) -> None:
    from ensemble.reporting.tables import submission_table

    terminal.print(submission_table(done.check))
    terminal.note(done.check.warnings, "warning")
    terminal.say(
        f"{done.path} is accepted: {done.check.photos} rows in the order of info.csv, all classes in 0..17; "
        f"{done.check.distance:.0%} away from the training mix",
    )


@step(Options, show=_print)
def check_submission(options: Options, observer: Observer) -> CheckedSubmission:
    """Check a submission's rows, order and range, and its classes against the training set's mix.

    Example:  maskens check-submission runs/default/submission.csv
    \f
    Raises:
        MaskensError: rows missing, too many or out of order, a class out of range.
    """
    from ensemble.decision.submission import check_submission as check_file
    from folds.layout import read_eval
    from folds.run_folder import load_run

    run = load_run(options.run[0])
    found = read_eval(run.data_folder(options.data), skip_bad=True)
    path = options.submission or run.submission_file
    return CheckedSubmission(check_file(path, found.ids, run.class_photos), path)
