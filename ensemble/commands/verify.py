"""maskens verify."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from ensemble.commands.options import DEFAULT_RUNS, DataOption, EachRunOption, QuietOption
from ensemble.commands.step import step
from ensemble.commands.terminal import Observer, Terminal

if TYPE_CHECKING:
    from ensemble.evaluation.verify import Verification


@dataclass(frozen=True)
class Options:
    """Which runs are verified, each by itself, and where their data are."""

    run: EachRunOption = DEFAULT_RUNS
    data: DataOption = None
    quiet: QuietOption = False


def _print(verified: tuple[Verification, ...], options: Options, terminal: Terminal) -> None:
    from ensemble.reporting.tables import verification_table

    for found in verified:
        terminal.print(verification_table(found))
        terminal.note(found.notes)
        for line in found.environment:
            terminal.say(line, "dim")
        if not found.wrong:
            terminal.say(f"{found.run.folder}: all {len(found.checks)} checks match", "bold")
            continue
        terminal.say(f"{found.run.folder}: {len(found.wrong)} of {len(found.checks)} checks do not match", "bold red")
        for mend in dict.fromkeys(check.mend for check in found.wrong):
            terminal.say(f"next: {mend}", "dim")
    if any(found.wrong for found in verified):
        raise typer.Exit(1)


@step(Options, show=_print)
def verify(options: Options, observer: Observer) -> tuple[Verification, ...]:
    """Whether a run still holds what its commands wrote: data, folds, recipe, models, logits, tuning, submission.

    Exits with 1 if something does not match what is recorded of it. Nothing is written.

    Example:  maskens verify --run runs/default --run runs/heads
    \f
    Returns:
        One for each run; what does not match is in its `wrong`.

    Raises:
        MaskensError: a folder that is no run, or a run.json that can't be read.
    """
    from ensemble.evaluation.verify import verify as verify_run
    from folds.run_folder import load_run

    return tuple(verify_run(load_run(run), options.data) for run in options.run)
