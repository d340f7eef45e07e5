"""What an ensemble is worth: out-of-fold, or against known answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ensemble.decision.blend import Blend, load_blend
from ensemble.decision.submission import align, read_answers, read_people
from ensemble.decision.tuning import apply_tuning
from ensemble.evaluation.evaluate import AnswersScore, Evaluation, evaluate, save_oof, score_answers
from ensemble.jobs.oof import Checkpoint
from ensemble.pipeline.inputs import DEFAULT_RUN, Folder, Folders, load_runs
from ensemble.recipes.views import Tta, TtaSet
from folds.errors import MaskensError
from folds.run import file_of


@dataclass(frozen=True)
class Scored:
    """The ensemble and what it is worth out-of-fold."""

    blend: Blend
    evaluation: Evaluation
    tta: TtaSet  # the views it uses

    @property
    def runs(self) -> list[str]:
        """Their folders."""
        return [member.name for member in self.blend.runs]


@dataclass(frozen=True)
class ScoredSubmission(AnswersScore):
    """A CSV scored against answers."""

    path: Path


def score(
    runs: Folders = DEFAULT_RUN,
    *,
    data: Folder | None = None,
    tta: Tta | None = None,
    checkpoint: Checkpoint = "cross-fitted",
    tuned: bool = True,
) -> Scored:
    """Macro F1 over the 18 classes on people never seen in training, with 95 % intervals over people.

    A single run's pooled out-of-fold logits are kept as its oof.npz. No torch is needed.

    Args:
        runs: several on the same folds count as one ensemble.
        data: where the data are now, if they were moved.
        tta: name or TOML file of the views; None takes those that were tuned, else flip.
        checkpoint: which epoch of each job.
        tuned: with what `tune` fitted, if it fits.

    Raises:
        MaskensError: nothing trained, runs that don't belong together.
    """
    scored = evaluate_runs(runs, data, tta, checkpoint, tuned)
    if len(scored.blend.runs) == 1:
        save_oof(scored.blend, scored.evaluation, scored.tta)
    return scored


def evaluate_runs(runs: Folders, data: Folder | None, tta: Tta | None, checkpoint: Checkpoint, tuned: bool) -> Scored:
    """As `score`, without writing anything."""
    blend = load_blend(load_runs(runs), Path(data) if data else None, checkpoint)
    found, recipes = [m.run for m in blend.runs], [m.recipe for m in blend.runs]
    # a tuning is fitted on the cross-fitted epochs, and what it gains is measured on them
    applied = apply_tuning(found, recipes, tta, tuned and checkpoint == "cross-fitted")
    return Scored(blend, evaluate(blend, applied), applied.fitted.tta_set)


def score_submission(
    truth: Folder, submission: Folder | None = None, runs: Folders = DEFAULT_RUN, person_column: str | None = None
) -> ScoredSubmission:
    """Score a submission against answers (ImageID,ans), with 95 % intervals.

    Args:
        submission: the CSV; None takes the run's.
        person_column: of the answers, who is on a photo: the intervals are over people, else over photos.

    Raises:
        MaskensError: a file that can't be used, or other photos in one than in the other.
    """
    path = Path(submission) if submission else file_of(load_runs(runs), "submission.csv")
    return score_submissions(truth, [path], person_column)[0]


def score_submissions(
    truth: Folder, submissions: Sequence[Folder], person_column: str | None = None
) -> list[ScoredSubmission]:
    """Score submissions against answers, each with its gain against the first on the same draws.

    Args:
        person_column: of the answers, who is on a photo: the intervals are over people, else over photos.

    Raises:
        MaskensError: a file that can't be used, or other photos in one than in the other.
    """
    paths, answers_file = [Path(file) for file in submissions], Path(truth)
    ids, first = read_answers(paths[0])
    answers = align(answers_file, ids)
    if answers_file.name == "info.csv" and len(answers) > 1 and (answers == answers[0]).all():
        raise MaskensError(
            f"--truth {truth}: every answer is class {answers[0]}, as in an info.csv that holds placeholders. "
            "Name the file that has the answers; if these are, rename it."
        )
    predicted = [first, *(align(path, ids) for path in paths[1:])]
    person = read_people(answers_file, person_column, ids) if person_column else None
    return [
        ScoredSubmission(**vars(found), path=path)
        for found, path in zip(score_answers(answers, predicted, person), paths, strict=True)
    ]
