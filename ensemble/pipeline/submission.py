"""Checking a CSV before it is handed in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ensemble.decision.submission import SubmissionCheck
from ensemble.decision.submission import check_submission as check_file
from ensemble.pipeline.inputs import DEFAULT_RUN, Folder
from folds.layout import read_eval
from folds.run import load_run


@dataclass(frozen=True)
class CheckedSubmission:
    """A submission that is accepted."""

    check: SubmissionCheck
    path: Path


def check_submission(
    submission: Folder | None = None, run: Folder = DEFAULT_RUN, *, data: Folder | None = None
) -> CheckedSubmission:
    """Check a submission's rows, order and range, and its classes against the training set's mix.

    Args:
        submission: the CSV; None takes the run's.

    Raises:
        MaskensError: rows missing, too many or out of order, a class out of range.
    """
    loaded = load_run(Path(run))
    found = read_eval(loaded.data_folder(data), skip_bad=True)
    path = Path(submission) if submission else loaded.submission_file
    return CheckedSubmission(check_file(path, found.ids, loaded.class_photos), path)
