"""A sweep in the terminal: what there is to train, what is being trained, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from ensemble.jobs.status import JobStatus
from ensemble.reporting.live_table import AROUND, COLUMNS, STYLES, job_cells, mean_best
from folds.pages.tables import new_table

if TYPE_CHECKING:
    from ensemble.evaluation.sweep import OverSeeds, SweepComparison

ACTIVE = ("starting", "training")


def matrix_table(title: str, rows: Mapping[str, Sequence[int]]) -> Table:
    """What there is to train, a row a recipe.

    Args:
        rows: recipe -> its runs, jobs, and of these those done, to be trained, and shared with another recipe.
    """
    table = new_table(title)
    table.add_column("recipe", overflow="fold")
    for name in ("runs", "jobs", "done", "to train", "shared"):
        table.add_column(name, justify="right", no_wrap=True)
    for recipe, counts in rows.items():
        table.add_row(Text(recipe), *map(str, counts))
    return table


def sweep_jobs_table(
    runs: Sequence[str], statuses: Sequence[JobStatus], title: str = "", height: int | None = None
) -> Table:
    """A row a run with how many of its jobs are done, and below it those at work. Where `height` lines are too few,
    runs that rest share a row.

    Args:
        runs: the run of each job.
    """
    table = new_table(title)
    table.add_column("run", overflow="fold")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "state" else "right", no_wrap=True)
    of_run: dict[str, list[JobStatus]] = {}
    for run, status in zip(runs, statuses, strict=True):
        of_run.setdefault(run, []).append(status)
    active = sum(s.state in ACTIVE for s in statuses)
    resting = [run for run, jobs in of_run.items() if not any(s.state in ACTIVE for s in jobs)]
    if height is None or len(of_run) + active <= height - AROUND:
        resting = []
    for run, jobs in of_run.items():
        if run not in resting:
            table.add_row(Text(run), *_summary(jobs))
            for s in jobs:
                if s.state in ACTIVE:
                    table.add_row(Text(f"  {s.task}"), *job_cells(s), style=STYLES[s.state])
    if resting:
        others = [s for run in resting for s in of_run[run]]
        table.add_row(f"{len(resting)} others", *_summary(others), style="dim")
    notes: dict[str, list[str]] = {}
    for run, s in zip(runs, statuses, strict=True):
        if s.note:
            notes.setdefault(s.note, []).append(f"{run} {s.task} fold {s.fold}")
    if notes:
        lines = (f"{jobs[0]}{f' and {len(jobs) - 1} more' if len(jobs) > 1 else ''}: {n}" for n, jobs in notes.items())
        table.caption, table.caption_justify = Text("\n".join(lines), style="yellow"), "left"
    return table


def _summary(jobs: Sequence[JobStatus]) -> tuple[Text | str, ...]:
    """Of the columns after the first: jobs that are done of all, those that failed, the mean of the best F1."""
    done = sum(s.state == "done" for s in jobs)
    failed = sum(s.state == "failed" for s in jobs)
    state = Text(f"{failed} failed", STYLES["failed"]) if failed else Text("done" if done == len(jobs) else "")
    return f"{done}/{len(jobs)}", state, "", "", "", mean_best(jobs), "", ""


def comparison_table(comparison: SweepComparison) -> Table:
    """Out-of-fold macro F1 of each recipe, mean and spread over seeds, and the difference to the first recipe."""
    several = len(comparison.scores) > 1
    table = new_table("out-of-fold macro F1")
    table.add_column("", overflow="fold")
    for name in ("macro F1", *(("against the first", "") if several else ())):
        table.add_column(name, no_wrap=bool(name), min_width=None if name else 12)
    for number, scores in enumerate(comparison.scores):
        table.add_row(Text(scores.recipe), style="bold")
        for part, f1 in scores.f1.items():
            gain = scores.gain[part]
            words = gain.mean.significance if len(comparison.seeds) > 1 else gain.mean.of_one_seed
            against = (f"{_spread(gain, '+.3f')} {_range(gain, '+.3f')}", words) if number else ()
            mean = _spread(f1, ".3f") if several else f"{_spread(f1, '.3f')} {_range(f1, '.3f')}"
            table.add_row(f"  {part}", mean, *against, end_section=part == list(scores.f1)[-1])
    return table


def _spread(of: OverSeeds, form: str) -> str:
    return f"{of.mean.value:{form}}" + (f" ±{of.deviation:.3f}" if of.deviation is not None else "")


def _range(of: OverSeeds, form: str) -> str:
    return f"({of.mean.low:{form}} to {of.mean.high:{form}})"


def comparison_line(comparison: SweepComparison) -> str:
    """What was compared, and how to read it."""
    seeds, folds = (", ".join(map(str, numbers)) for numbers in (comparison.seeds, comparison.folds))
    several = len(comparison.seeds) > 1
    chance = f"{'At least ' if several else ''}1 of 20 differences looks real by chance. "
    return (
        f"{comparison.photos} photos of {comparison.people} people, folds {folds}, seeds {seeds}. "
        + ("Mean ± standard deviation over seeds. " if several else "")
        + f"Intervals (95 %) are over people{' and seeds' if several else ''}. "
        + (f"Within noise: the interval holds 0. {chance}" if len(comparison.scores) > 1 else "")
        + ("" if several else "Of one seed: another one moves scores too. ")
    ).rstrip()
