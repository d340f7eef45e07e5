"""What train prints before, while and after its jobs run."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from ensemble.commands.terminal import fail, note, progress_bars, say

if TYPE_CHECKING:
    from rich.console import Console

    from ensemble.pipeline.sweep_plan import SweepPlan
    from ensemble.pipeline.train import TrainingPlan
    from ensemble.training.runner import Failure


def print_plan(console: Console, plan: TrainingPlan) -> None:
    """Say what is finished already, and what the user should know before the rest."""
    if len(plan.todo) < len(plan.jobs):
        finished = len(plan.jobs) - len(plan.todo)
        say(console, f"{finished} of {len(plan.jobs)} jobs are finished already; --restart does them anew")
    note(console, plan.warnings, "warning")


def print_estimate(console: Console, plan: TrainingPlan | SweepPlan) -> None:
    """Print jobs, time, memory and disk; nothing if no job is left."""
    from ensemble.reporting.plan_tables import estimate_lines, estimate_table

    if not plan.todo:
        return
    with progress_bars(console) as on_progress:
        found = plan.estimate(on_progress)
    console.print(estimate_table(found))
    for line in estimate_lines(found, plan.hardware.jobs):
        say(console, line, "bold")
    say(console, "measured on a few batches, with nothing else running; nothing was written", "dim")


def confirm_long(console: Console, plan: TrainingPlan | SweepPlan) -> None:
    """Ask on a terminal before hours of work; refuse elsewhere."""
    with console.status("timing a batch of each model") if console.is_terminal else contextlib.nullcontext():
        message = plan.long()
    if message and not console.is_terminal:
        fail(message)
    try:
        if message and not typer.confirm(f"{message}\nGo ahead?"):
            raise typer.Exit(2)
    except typer.Abort as abort:
        typer.echo()  # the message gets a line of its own
        raise abort.__context__ or abort from None  # Ctrl-C, or Ctrl-D, which says neither yes nor no


def run_jobs(console: Console, plan: TrainingPlan) -> None:
    """Train with a live table; ends with exit code 1 or 2 if a job failed."""
    from ensemble.pipeline.train import prepare, run_plan
    from ensemble.reporting.live_table import jobs_display
    from ensemble.training.tracking import where_to_look

    with progress_bars(console) as on_progress:
        notes = prepare(plan, on_progress)
    note(console, notes)
    for line in where_to_look(plan.trackers, plan.run.folder):
        say(console, f"next, while it trains: {line}", "dim")
    with jobs_display(console, f"maskens train, {plan.run.folder}, recipe {plan.recipe.name}") as display:
        trained = run_plan(plan, display)
    failed = [(f"{task} fold {fold}", failure) for (task, fold), failure in trained.failed.items()]
    fail_jobs(failed, len(plan.todo))


def fail_jobs(failed: Sequence[tuple[str, Failure]], jobs: int) -> None:
    """End with exit code 1 or 2 if a job failed, and say which and why.

    Args:
        failed: what each is called, and why.
        jobs: how many there were.
    """
    if failed:
        lines = [f"  - {label}: {failure.message}" for label, failure in failed]
        crashed = any(failure.crashed for _, failure in failed)
        fail("\n".join([f"{len(lines)} of {jobs} jobs failed:", *lines]), code=1 if crashed else 2)
