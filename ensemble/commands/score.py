"""maskens score."""

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
)
from ensemble.commands.terminal import make_console, note, say
from folds.errors import MaskensError


def score(
    truth: Annotated[
        Path | None,
        typer.Option("--truth", metavar="CSV", help="Score a submission against these answers (ImageID,ans)."),
    ] = None,
    submission: Annotated[
        list[Path] | None,
        typer.Option(
            "--submission",
            metavar="CSV",
            help="With --truth: the file to score; repeat it to compare files. Default: the run's.",
        ),
    ] = None,
    person_column: Annotated[
        str | None,
        typer.Option(
            "--person-column",
            metavar="NAME",
            help="With --truth: its column that says who is on a photo; intervals are then over people, not photos.",
        ),
    ] = None,
    tta: TtaOption = None,
    checkpoint: CheckpointOption = "cross-fitted",
    no_tuning: NoTuningOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON instead.")] = False,
    run: RunsOption = DEFAULT_RUNS,
    data: DataOption = None,
    quiet: QuietOption = False,
) -> None:
    """What the ensemble is worth on people never seen in training: out-of-fold, or against --truth.

    Several runs on the same folds are scored as one ensemble.

    Example:  maskens score --run runs/default --run runs/heads
    """
    if (submission or person_column) and not truth:
        named = "--submission" if submission else "--person-column"
        raise MaskensError(f"{named} needs --truth CSV, the answers to score against.")
    if truth:
        _score_submissions(truth, submission or [], person_column, run, as_json, quiet)
        return

    from ensemble.evaluation.evaluate import evaluation_record
    from ensemble.pipeline.score import score as score_runs
    from ensemble.reporting.tables import evaluation_tables, headline
    from folds.files import json_text

    done = score_runs(run, data=data, tta=tta, checkpoint=checkpoint, tuned=not no_tuning)
    found = done.evaluation
    if as_json:
        typer.echo(json_text(evaluation_record(found)), nl=False)
        return
    console = make_console(quiet)
    note(console, found.notes)
    for table in evaluation_tables(found):
        console.print(table)
    for line in headline(found, done.runs):
        say(console, line, "bold")


def _score_submissions(
    truth: Path, submissions: list[Path], person_column: str | None, run: list[Path], as_json: bool, quiet: bool
) -> None:
    from ensemble.evaluation.evaluate import answers_record
    from ensemble.pipeline.score import score_submission, score_submissions
    from ensemble.reporting.tables import answers_lines, class_table, parts_table
    from folds.files import json_text

    if submissions:
        done = score_submissions(truth, submissions, person_column)
    else:
        done = [score_submission(truth, None, run, person_column)]
    if as_json:
        records = [answers_record(found) for found in done]
        several = {"submissions": [{"file": str(d.path)} | r for d, r in zip(done, records, strict=True)]}
        typer.echo(json_text(several if len(done) > 1 else records[0]), nl=False)
        return
    console = make_console(quiet)
    if len(done) == 1:
        console.print(class_table(done[0].score, done[0].class_f1))
        console.print(parts_table(done[0].score, {}))
    note(console, list(dict.fromkeys(f"{d.path}: {d.score.absent_words}" for d in done if d.score.absent)))
    for found in done:
        for line in answers_lines(found, str(found.path), str(truth), str(done[0].path)):
            say(console, line, "bold")
