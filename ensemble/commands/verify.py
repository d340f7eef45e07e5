"""maskens verify."""

from __future__ import annotations

import typer

from ensemble.commands.options import DEFAULT_RUNS, DataOption, EachRunOption, QuietOption
from ensemble.commands.terminal import make_console, note, say


def verify(run: EachRunOption = DEFAULT_RUNS, data: DataOption = None, quiet: QuietOption = False) -> None:
    """Whether a run still holds what its commands wrote: data, folds, recipe, models, logits, tuning, submission.

    Exits with 1 if something does not match what is recorded of it. Nothing is written.

    Example:  maskens verify --run runs/default --run runs/heads
    """
    from ensemble.pipeline.verify import verify as verify_runs
    from ensemble.reporting.tables import verification_table

    console = make_console(quiet)
    wrong = 0
    for found in verify_runs(run, data=data):
        console.print(verification_table(found))
        note(console, found.notes)
        for line in found.made_with:
            say(console, line, "dim")
        wrong += len(found.wrong)
        if not found.wrong:
            say(console, f"{found.run.folder}: all {len(found.checks)} checks match", "bold")
            continue
        say(console, f"{found.run.folder}: {len(found.wrong)} of {len(found.checks)} checks do not match", "bold red")
        for mend in dict.fromkeys(check.mend for check in found.wrong):
            say(console, f"next: {mend}", "dim")
    if wrong:
        raise typer.Exit(1)
