"""maskens verify."""

from __future__ import annotations

import typer

import ensemble.evaluation.verify as verifying
from ensemble.commands.options import VerifyOptions
from ensemble.commands.step import step
from ensemble.commands.terminal import Observer, Terminal
from ensemble.reporting.tables import verification_table
from folds.run_folder import load_run


def _print(verified: tuple[verifying.Verification, ...], options: VerifyOptions, terminal: Terminal) -> None:
    for found in verified:
        terminal.print(verification_table(found))
        terminal.note(found.notes)
        if not found.wrong:
            terminal.say(f"{found.run.folder}: all {len(found.checks)} checks match", "bold")
            continue
        terminal.say(f"{found.run.folder}: {len(found.wrong)} of {len(found.checks)} checks do not match", "bold red")
        for remedy in dict.fromkeys(check.remedy for check in found.wrong):
            terminal.next(remedy)
    if any(found.wrong for found in verified):
        raise typer.Exit(1)


@step(VerifyOptions, show=_print, first="run")
def verify(options: VerifyOptions, observer: Observer) -> tuple[verifying.Verification, ...]:
    """
    Returns:
        One for each run; what does not match is in its `wrong`.

    Raises:
        MaskensError: a folder that is no run, or a run.json that can't be read.
    """
    return tuple(verifying.verify(load_run(run), options.data) for run in options.run)
