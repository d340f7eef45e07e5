"""maskens score."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ensemble.commands.options import (
    DEFAULT_RUNS,
    DataOption,
    EpochOption,
    QuietOption,
    RunsOption,
    TtaOption,
    UntunedOption,
)
from ensemble.commands.terminal import make_console, note, say
from folds.errors import MaskensError


def score(
    truth: Annotated[
        Path | None,
        typer.Option("--truth", metavar="CSV", help="Score a submission against these answers (ImageID,ans)."),
    ] = None,
    submission: Annotated[
        Path | None,
        typer.Option("--submission", metavar="CSV", help="With --truth: the file to score; by default the run's."),
    ] = None,
    tta: TtaOption = None,
    epoch: EpochOption = "best",
    untuned: UntunedOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON instead.")] = False,
    run: RunsOption = DEFAULT_RUNS,
    data: DataOption = None,
    quiet: QuietOption = False,
) -> None:
    """What the ensemble is worth on people never seen in training: out-of-fold, or against --truth.

    Several runs on the same folds are scored as one ensemble.

    Example:  maskens score --run runs/default --run runs/heads
    """
    if submission and not truth:
        raise MaskensError("--submission needs --truth CSV, the answers to score it against.")
    if truth:
        _score_submission(truth, submission, run, as_json, quiet)
        return

    from ensemble.evaluation.evaluate import evaluation_record
    from ensemble.pipeline.score import score as score_runs
    from ensemble.reporting.score_tables import evaluation_tables, headline
    from folds.files import json_text

    done = score_runs(run, data=data, tta=tta, epoch=epoch, tuned=not untuned)
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


def _score_submission(truth: Path, submission: Path | None, run: list[Path], as_json: bool, quiet: bool) -> None:
    from ensemble.metrics.scores import score_record
    from ensemble.pipeline.score import score_submission
    from ensemble.reporting.score_tables import class_table, parts_table
    from folds.files import json_text

    done = score_submission(truth, submission, run)
    found = done.score
    if as_json:
        typer.echo(json_text(score_record(found)), nl=False)
        return
    console = make_console(quiet)
    console.print(class_table(found))
    console.print(parts_table(found, {}))
    words = f"over {found.photos} photos ({done.path} against {truth})"
    say(console, f"macro F1 {found.f1:.4f}, accuracy {found.accuracy:.4f} {words}", "bold")
