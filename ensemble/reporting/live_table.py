"""Running jobs in the terminal: a live table, or plain lines where there is no terminal."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ensemble.jobs.job import JobStatus
from folds.pages.tables import new_table

if TYPE_CHECKING:
    from ensemble.evaluation.compare import OverSeeds, SweepComparison


STYLES = {
    "waiting": "dim",
    "starting": "cyan",
    "training": "bold cyan",
    "done": "green",
    "stopped": "yellow",
    "failed": "bold red",
    "unreadable": "bold red",
}

COLUMNS = ("fold", "state", "epoch", "loss", "macro F1", "best", "photos/s", "left")  # after the task
AROUND = 6  # lines of the table that are not rows: title, borders, header, summary


def duration(seconds: float | None) -> str:
    """`1:05` or `2:03:09`; empty for None."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def job_cells(s: JobStatus) -> tuple[str, ...]:
    """What a row says of a job, of the columns after its task."""
    return (
        str(s.fold),
        s.state,
        f"{s.epoch}/{s.epochs}",
        _number(s.loss, ".4f"),
        _number(s.f1, ".4f"),
        _number(s.best, ".4f"),
        _number(s.photos_per_s, ".0f"),
        duration(s.seconds_left or None),
    )


def mean_best(statuses: Sequence[JobStatus]) -> str:
    """The mean of their best macro F1."""
    best = [s.best for s in statuses if s.best is not None]
    return f"{sum(best) / len(best):.4f}" if best else ""


def jobs_table(statuses: Sequence[JobStatus], title: str = "", height: int | None = None) -> Table:
    """One row a job. Where `height` lines are too few, finished and waiting jobs share a row each."""
    table = new_table(title, left=["task"])
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "state" else "right", no_wrap=True)
    folded = {"done", "waiting"} if height is not None and len(statuses) > height - AROUND else set()
    for state in ("done", "waiting"):
        hidden = [s for s in statuses if s.state == state]
        if state in folded and hidden:
            mean = mean_best(hidden) if state == "done" else ""
            table.add_row(f"{len(hidden)} jobs", "", state, "", "", "", mean, "", "", style=STYLES[state])
    for s in statuses:
        if s.state not in folded:
            table.add_row(s.task, *job_cells(s), style=STYLES[s.state])
    notes = dict.fromkeys(f"{s.task} fold {s.fold}: {s.note}" for s in statuses if s.note)
    if notes:
        table.caption, table.caption_justify = Text("\n".join(notes), style="yellow"), "left"
    return table


JobsTable = Callable[[Sequence[JobStatus], str, int | None], Table]
"""Jobs, a title and the terminal's lines -> a table that fits; None for as many lines as it takes."""


class LiveJobs:
    """The table, redrawn in place."""

    def __init__(self, console: Console, title: str, table: JobsTable = jobs_table) -> None:
        self.console, self.title, self.table, self.started = console, title, table, time.perf_counter()
        self.live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> LiveJobs:
        self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.stop()

    def update(self, statuses: Sequence[JobStatus]) -> None:
        done = sum(s.state == "done" for s in statuses)
        title = f"{self.title}: {done} of {len(statuses)} jobs done in {duration(time.perf_counter() - self.started)}"
        over = all(s.state in ("done", "failed") for s in statuses)
        self.live.update(self.table(statuses, title, None if over else self.console.height), refresh=True)


class PlainJobs:
    """One line for each finished epoch and each change of state, for logs."""

    def __init__(self, console: Console, title: str, runs: Sequence[str] = ()) -> None:
        self.console, self.runs = console, runs
        self.before: dict[str, JobStatus] = {}
        self._line(title)

    def _line(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> PlainJobs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def update(self, statuses: Sequence[JobStatus]) -> None:
        for run, s in zip(self.runs or [""] * len(statuses), statuses, strict=True):
            label = f"{run} {s.task} fold {s.fold}".lstrip()
            old = self.before.get(label)
            self.before[label] = s
            if old is not None and s.epoch > old.epoch:
                left = f"  {duration(s.seconds_left)} left" if s.seconds_left else ""
                self._line(
                    f"{label}: epoch {s.epoch}/{s.epochs}  loss {_number(s.loss, '.4f')}  "
                    f"macro F1 {_number(s.f1, '.4f')}  best {_number(s.best, '.4f')}  "
                    f"{_number(s.photos_per_s, '.0f')} photos/s{left}"
                )
            if s.note and s.note != (old.note if old else ""):
                self._line(f"{label}: {s.note}")
            if old is not None and s.state != old.state and s.state in ("done", "failed", "stopped"):
                self._line(f"{label}: {s.state}{': ' + s.error if s.error else ''}")


def jobs_display(console: Console, title: str, runs: Sequence[str] = ()) -> LiveJobs | PlainJobs:
    """A live table on a terminal; rich would show only its last state elsewhere, so plain lines there.

    Args:
        runs: the run of each job, where they are of several.
    """
    if console.is_terminal:
        return LiveJobs(console, title, functools.partial(sweep_jobs_table, runs) if runs else jobs_table)
    return PlainJobs(console, title, runs)


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
