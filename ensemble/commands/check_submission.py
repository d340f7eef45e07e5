"""maskens check-submission."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ensemble.commands.options import CheckSubmissionOptions
from ensemble.commands.step import step
from ensemble.commands.terminal import Observer, Terminal
from ensemble.decision import submission
from ensemble.reporting.tables import submission_table
from folds.layout import read_eval
from folds.run_folder import load_run


@dataclass(frozen=True)
class CheckedSubmission:
    """A submission that is accepted."""

    check: submission.SubmissionCheck
    path: Path


def _print(done: CheckedSubmission, options: CheckSubmissionOptions, terminal: Terminal) -> None:
    terminal.print(submission_table(done.check))
    terminal.note(done.check.warnings, "warning")
    terminal.say(
        f"{done.path} is accepted: {done.check.photos} rows in the order of info.csv, all classes in 0..17; "
        f"{done.check.distance:.0%} from the training mix of classes"
    )


@step(CheckSubmissionOptions, show=_print, first="submission")
def check_submission(options: CheckSubmissionOptions, observer: Observer) -> CheckedSubmission:
    """
    Raises:
        MaskensError: rows missing, too many or out of order, a class out of range.
    """
    run = load_run(options.run[0])
    found = read_eval(run.data_folder(options.data), skip_bad=True)
    path = options.submission or run.submission_file
    return CheckedSubmission(submission.check_submission(path, found.ids, run.class_photos), path)
