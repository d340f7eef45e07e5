"""maskens tune."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from ensemble.commands.options import DEFAULT_RUNS, DataOption, QuietOption, RunsOption
from ensemble.commands.terminal import make_console, note, progress_bars, run_options, say


class StepChoice(StrEnum):
    views = "views"
    view_weights = "view-weights"
    temperatures = "temperatures"
    offsets = "offsets"


def tune(
    step: Annotated[
        list[StepChoice] | None,
        typer.Option("--step", help="Only these; may be repeated. By default all but view-weights."),
    ] = None,
    blend: Annotated[
        bool, typer.Option("--blend", help="Fit the weights of several runs by greedy selection; else they are equal.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Keep what is fitted even if its gain is noise.")] = False,
    run: RunsOption = DEFAULT_RUNS,
    data: DataOption = None,
    quiet: QuietOption = False,
) -> None:
    """Fit the decision on out-of-fold logits; what is worth more than noise is kept and used by infer.

    The set of views, a weight for each of them, a temperature of each head, offsets of the classes, weights of
    the runs. Each is scored by cross-validation over people: on people that it was not fitted on.

    Example:  maskens tune --run runs/default --run runs/heads --blend
    """
    from ensemble.pipeline.tune import tune as tune_runs
    from ensemble.reporting.tables import steps_table

    console = make_console(quiet)
    with progress_bars(console) as on_progress:
        done = tune_runs(
            run,
            data=data,
            steps=[s.value for s in step] if step else None,
            weigh_runs=blend,
            keep_all=force,
            on_progress=on_progress,
        )
    note(console, done.notes)
    console.print(steps_table(done.tuning))
    for line in done.tuning.summary:
        say(console, line, "bold")
    if done.earlier:
        say(console, f"the earlier tuning is kept as {done.earlier}")
    say(console, f"saved: {done.path}")
    say(console, f"next: maskens infer{run_options(run)}", "dim")
