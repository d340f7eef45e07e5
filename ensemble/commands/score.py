"""maskens score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensemble.commands.options import (
    DEFAULT_RUNS,
    CheckpointOption,
    DataOption,
    NoTuningOption,
    QuietOption,
    RunsOption,
    TtaOption,
)
from ensemble.commands.step import step
from ensemble.commands.terminal import Observer, Terminal
from folds.errors import MaskensError

if TYPE_CHECKING:
    from ensemble.decision.blend import OofEnsemble
    from ensemble.evaluation.evaluate import Evaluation, SubmissionScore
    from ensemble.jobs.oof import Checkpoint
    from ensemble.recipes.views import Tta, TtaSet


@dataclass(frozen=True)
class Options:
    """Which runs are scored, and how they decide; or which submissions, against which answers."""

    truth: Annotated[
        Path | None,
        typer.Option("--truth", metavar="CSV", help="Score a submission against these answers (ImageID,ans)."),
    ] = None
    submission: Annotated[
        list[Path] | None,
        typer.Option(
            "--submission",
            metavar="CSV",
            help="With --truth: the file to score; repeat it to compare files. Default: the run's.",
        ),
    ] = None
    person_column: Annotated[
        str | None,
        typer.Option(
            "--person-column",
            metavar="NAME",
            help="With --truth: its column that says who is on a photo; intervals are then over people, not photos.",
        ),
    ] = None
    tta: TtaOption = None
    checkpoint: CheckpointOption = "cross-fitted"
    no_tuning: NoTuningOption = False
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON instead.")] = False
    run: RunsOption = DEFAULT_RUNS
    data: DataOption = None
    quiet: QuietOption = False


@dataclass(frozen=True)
class Scored:
    """The ensemble and what it is worth out-of-fold."""

    blend: OofEnsemble
    evaluation: Evaluation
    tta: TtaSet  # the views it uses

    @property
    def runs(self) -> list[str]:
        """Their folders."""
        return [member.name for member in self.blend.runs]


def _print(done: Scored | tuple[SubmissionScore, ...], options: Options, terminal: Terminal) -> None:
    from ensemble.evaluation.evaluate import evaluation_record
    from ensemble.reporting.tables import evaluation_tables, headline
    from folds.files import json_text

    if not isinstance(done, Scored):
        _print_submissions(done, options, terminal)
    elif options.as_json:
        typer.echo(json_text(evaluation_record(done.evaluation)), nl=False)
    else:
        terminal.note(done.evaluation.notes)
        terminal.print(*evaluation_tables(done.evaluation))
        for line in headline(done.evaluation, done.runs):
            terminal.say(line, "bold")


def _print_submissions(done: tuple[SubmissionScore, ...], options: Options, terminal: Terminal) -> None:
    from ensemble.evaluation.evaluate import submission_record
    from ensemble.reporting.tables import class_table, parts_table, submission_lines
    from folds.files import json_text

    if options.as_json:
        records = [submission_record(found) for found in done]
        several = {"submissions": [{"file": str(d.path)} | r for d, r in zip(done, records, strict=True)]}
        typer.echo(json_text(several if len(done) > 1 else records[0]), nl=False)
        return
    if len(done) == 1:
        terminal.print(class_table(done[0].score, done[0].class_f1), parts_table(done[0].score, {}))
    terminal.note(dict.fromkeys(f"{d.path}: {d.score.absent_words}" for d in done if d.score.absent))
    for found in done:
        for line in submission_lines(found, str(options.truth), str(done[0].path)):
            terminal.say(line, "bold")


@step(Options, show=_print, first="run")
def score(options: Options, observer: Observer) -> Scored | tuple[SubmissionScore, ...]:
    """What the ensemble is worth on people never seen in training: out-of-fold, or against --truth.

    Several runs on the same folds are scored as one ensemble.

    Example:  maskens score --run runs/default --run runs/heads
    \f
    A single run's pooled out-of-fold logits are kept as its oof.npz. No torch is needed.

    Returns:
        The ensemble with its scores; with `truth`, those of each submission.

    Raises:
        MaskensError: nothing trained, runs that don't belong together; a file that can't be used, or other photos in
            a submission than in the answers.
    """
    from ensemble.evaluation.evaluate import save_oof, score_submissions
    from folds.run_folder import file_of, load_run

    if (options.submission or options.person_column) and not options.truth:
        named = "--submission" if options.submission else "--person-column"
        raise MaskensError(f"{named} needs --truth CSV, the answers to score against.")
    if options.truth:
        files = options.submission or [
            file_of([load_run(folder) for folder in options.run], lambda run: run.submission_file)
        ]
        return score_submissions(options.truth, files, options.person_column)
    scored = evaluate_runs(options.run, options.data, options.tta, options.checkpoint, not options.no_tuning)
    if len(scored.blend.runs) == 1:
        save_oof(scored.blend, scored.evaluation, scored.tta)
    return scored


def evaluate_runs(
    runs: Sequence[Path], data: Path | None, tta: Tta | None, checkpoint: Checkpoint, tuned: bool
) -> Scored:
    """What runs are worth as one ensemble, out-of-fold. Nothing is written.

    Args:
        data: where the data are now, if they were moved.
        tta: name or TOML file of the views; None takes those that were tuned, else flip.
        checkpoint: which epoch of each job.
        tuned: with what `tune` fitted, if it fits.

    Raises:
        MaskensError: nothing trained, runs that don't belong together.
    """
    from ensemble.decision.blend import load_oof_ensemble
    from ensemble.decision.tuning import apply_tuning
    from ensemble.evaluation.evaluate import evaluate
    from folds.run_folder import load_run

    blend = load_oof_ensemble([load_run(folder) for folder in runs], data, checkpoint)
    found, recipes = [m.run for m in blend.runs], [m.recipe for m in blend.runs]
    # a tuning is fitted on the cross-fitted epochs, and what it gains is measured on them
    applied = apply_tuning(found, recipes, tta, tuned and checkpoint == "cross-fitted")
    return Scored(blend, evaluate(blend, applied), applied.fitted.tta_set)
