"""maskens score."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import typer

from ensemble.commands.options import ReportOptions, ScoreOptions
from ensemble.commands.step import step
from ensemble.commands.terminal import Observer, Terminal
from ensemble.decision.oof_ensemble import OofEnsemble, load_oof_ensemble
from ensemble.decision.tuning import apply_tuning
from ensemble.evaluation import evaluate
from ensemble.evaluation.evaluate import Evaluation, SubmissionScore
from ensemble.jobs.job import jobs_of
from ensemble.recipes.views import TtaSet
from ensemble.reporting import tables
from folds.errors import MaskensError
from folds.files import json_text
from folds.ranges import FULL
from folds.run_folder import file_of, load_run


@dataclass(frozen=True)
class Scored:
    """An ensemble and its out-of-fold scores."""

    oof: OofEnsemble
    evaluation: Evaluation
    tta: TtaSet  # the views it uses

    @property
    def runs(self) -> list[str]:
        """Their folders."""
        return [member.name for member in self.oof.runs]


def _print(done: Scored | tuple[SubmissionScore, ...], options: ScoreOptions, terminal: Terminal) -> None:
    if not isinstance(done, Scored):
        _print_submissions(done, options, terminal)
    elif options.json:
        typer.echo(json_text(evaluate.plain_values(done.evaluation)), nl=False)
    else:
        terminal.note(done.evaluation.notes)
        terminal.print(*tables.evaluation_tables(done.evaluation))
        terminal.lines(tables.headline(done.evaluation, done.runs), "bold")


def _print_submissions(done: tuple[SubmissionScore, ...], options: ScoreOptions, terminal: Terminal) -> None:
    if options.json:
        typer.echo(json_text(evaluate.plain_values(done)), nl=False)
        return
    if len(done) == 1:
        (one,) = done
        terminal.print(tables.class_scores_table(one.score, one.class_f1))
        terminal.print(tables.parts_table(one.score, one.f1, one.accuracy))
    terminal.note(f"{d.path}: {note}" for d in done for note in d.score.absent_notes)
    for found in done:
        terminal.lines(tables.submission_lines(found, str(options.truth), str(done[0].path)), "bold")


@step(ScoreOptions, show=_print, first="run")
def score(options: ScoreOptions, observer: Observer) -> Scored | tuple[SubmissionScore, ...]:
    """A single run's pooled out-of-fold logits are kept as its oof.npz. No torch is needed.

    Returns:
        The ensemble with its scores; with `truth`, those of each submission.

    Raises:
        MaskensError: nothing trained, runs that don't belong together; a file that can't be used, or other photos in
            a submission than in the answers.
    """
    if (options.submission or options.person_column) and not options.truth:
        named = "--submission" if options.submission else "--person-column"
        raise MaskensError(f"{named} needs --truth CSV, the answers to score against.")
    if options.truth:
        runs = [] if options.submission else [load_run(folder) for folder in options.run]
        files = options.submission or [file_of(runs, lambda run: run.submission_file)]
        return evaluate.score_submissions(options.truth, files, options.person_column)
    scored = evaluate_runs(options)
    if len(scored.oof.runs) == 1:
        evaluate.save_oof(scored.oof, scored.evaluation, scored.tta)
    return scored


def evaluate_runs(options: ScoreOptions | ReportOptions) -> Scored:
    """Score runs as one ensemble, out-of-fold. Nothing is written."""
    oof = load_oof_ensemble([load_run(folder) for folder in options.run], options.data, options.checkpoint)
    tuned = not options.no_tuning and options.checkpoint == "cross-fitted"  # a tuning is fitted on these epochs
    applied = apply_tuning([m.run for m in oof.runs], options.tta, tuned)
    evaluation = evaluate.evaluate(oof, applied)
    full = [m.name for m in oof.runs if any(job.trained for job in jobs_of(m.run, m.recipe.tasks, [FULL]))]
    notes = (*evaluation.notes, *(f"{name}: the full model is not part of the out-of-fold score" for name in full))
    return Scored(oof, dataclasses.replace(evaluation, notes=notes), applied.fitted.views)
