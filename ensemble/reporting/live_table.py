"""Running jobs in the terminal: a live table, or plain lines where there is no terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ensemble.jobs.job import JobStatus
from folds.ranges import FULL, fold_name, in_short
from folds.terminal_tables import new_table

STYLES = {
    "waiting": "dim",
    "starting": "cyan",
    "training": "bold cyan",
    "done": "green",
    "stopped": "yellow",
    "failed": "bold red",
    "unreadable": "bold red",
}
ACTIVE = ("starting", "training")
COLUMNS = (">fold", "<state", ">epoch", ">loss", ">macro F1", ">kept", ">photos/s", ">left")  # after the task
WIDTHS = (4, 8, 5, 6, 8, 6, 8, 4)  # least width of each, so that the table keeps its columns while jobs run
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


def _f1(s: JobStatus, value: float | None) -> str:
    """A macro F1 of a job; the model on everybody has none."""
    return "-" if s.fold == FULL else _number(value, ".4f")


def job_cells(s: JobStatus) -> tuple[str, ...]:
    """The cells of a job's row for COLUMNS."""
    f1, best = _f1(s, s.f1), _f1(s, s.best)
    speed, left = _number(s.photos_per_s, ".0f"), duration(s.seconds_left or None)
    return in_short([s.fold]), s.state, f"{s.epoch}/{s.epochs}", _number(s.loss, ".4f"), f1, best, speed, left


def _mean_kept(jobs: Sequence[JobStatus]) -> str:
    best = [s.best for s in jobs if s.best is not None]
    return f"{sum(best) / len(best):.4f}" if best else ""


def _table(title: str, first: str) -> Table:
    table = new_table(title, first, *COLUMNS)
    for column, width in zip(table.columns[1:], WIDTHS, strict=True):
        column.min_width = width
    return table


def _caption(table: Table, notes: Sequence[str]) -> Table:
    if notes:
        table.caption, table.caption_justify = Text("\n".join(notes), style="yellow"), "left"
    return table


def jobs_table(jobs: Sequence[JobStatus], title: str = "", height: int | None = None) -> Table:
    """A row a job. Where `height` lines are too few, finished and waiting jobs share a row each."""
    table = _table(title, "<task")
    shared = {"done", "waiting"} if height is not None and len(jobs) > height - AROUND else set()
    for state in ("done", "waiting"):
        hidden = [s for s in jobs if s.state == state]
        if state in shared and hidden:
            mean = _mean_kept(hidden) if state == "done" else ""
            table.add_row(f"{len(hidden)} jobs", "", state, "", "", "", mean, style=STYLES[state])
    for s in jobs:
        if s.state not in shared:
            table.add_row(s.task, *job_cells(s), style=STYLES[s.state])
    return _caption(table, list(dict.fromkeys(f"{s.task} {fold_name(s.fold)}: {s.note}" for s in jobs if s.note)))


def sweep_jobs_table(
    runs: Sequence[str], jobs: Sequence[JobStatus], title: str = "", height: int | None = None
) -> Table:
    """A row a run with how many of its jobs are done, and below it those at work. Where `height` lines are too few,
    runs without any share a row; `runs` is the run of each job."""
    table = _table(title, "run")
    of_run: dict[str, list[JobStatus]] = {}
    notes: dict[str, list[str]] = {}
    for run, s in zip(runs, jobs, strict=True):
        of_run.setdefault(run, []).append(s)
        if s.note:
            notes.setdefault(s.note, []).append(f"{run} {s.task} {fold_name(s.fold)}")
    active = sum(s.state in ACTIVE for s in jobs)
    crowded = height is not None and len(of_run) + active > height - AROUND
    resting: list[JobStatus] = []
    hidden = 0
    for run, its in of_run.items():
        at_work = [s for s in its if s.state in ACTIVE]
        if crowded and not at_work:
            resting += its
            hidden += 1
            continue
        table.add_row(Text(run), *_summary(its))
        for s in at_work:
            table.add_row(Text(f"  {s.task}"), *job_cells(s), style=STYLES[s.state])
    if resting:
        table.add_row(f"{hidden} others", *_summary(resting), style="dim")
    lines = [f"{of[0]}{f' and {len(of) - 1} more' if len(of) > 1 else ''}: {note}" for note, of in notes.items()]
    return _caption(table, lines)


def _summary(jobs: Sequence[JobStatus]) -> tuple[Text | str, ...]:
    """Cells for COLUMNS: jobs that are done of all, those that failed, the mean F1 of what is kept."""
    done, failed = (sum(s.state == state for s in jobs) for state in ("done", "failed"))
    state = Text(f"{failed} failed", STYLES["failed"]) if failed else Text("done" if done == len(jobs) else "")
    return f"{done}/{len(jobs)}", state, "", "", "", _mean_kept(jobs)


class LiveJobs:
    """The table, redrawn in place."""

    def __init__(self, live: Live, title: str, runs: Sequence[str]) -> None:
        self.live, self.title, self.runs, self.started = live, title, runs, time.perf_counter()

    def update(self, jobs: Sequence[JobStatus]) -> None:
        done = sum(s.state == "done" for s in jobs)
        title = f"{self.title}: {done} of {len(jobs)} jobs done in {duration(time.perf_counter() - self.started)}"
        height = None if all(s.state in ("done", "failed") for s in jobs) else self.live.console.height
        table = sweep_jobs_table(self.runs, jobs, title, height) if self.runs else jobs_table(jobs, title, height)
        self.live.update(table, refresh=True)


class PlainJobs:
    """One line for each finished epoch and each change of state, for logs."""

    def __init__(self, console: Console, title: str, runs: Sequence[str] = ()) -> None:
        self.console, self.runs = console, runs
        self.before: dict[str, JobStatus] = {}
        self._line(title)

    def _line(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def update(self, jobs: Sequence[JobStatus]) -> None:
        for run, s in zip(self.runs or [""] * len(jobs), jobs, strict=True):
            label = f"{run} {s.task} {fold_name(s.fold)}".lstrip()
            old = self.before.get(label)
            self.before[label] = s
            if old is not None and s.epoch > old.epoch:
                left = f"  {duration(s.seconds_left)} left" if s.seconds_left else ""
                self._line(
                    f"{label}: epoch {s.epoch}/{s.epochs}  loss {_number(s.loss, '.4f')}  "
                    f"macro F1 {_f1(s, s.f1)}  kept {_f1(s, s.best)}  "
                    f"{_number(s.photos_per_s, '.0f')} photos/s{left}"
                )
            if s.note and s.note != (old.note if old else ""):
                self._line(f"{label}: {s.note}")
            if old is not None and s.state != old.state and s.state in ("done", "failed", "stopped"):
                self._line(f"{label}: {s.state}{': ' + s.error if s.error else ''}")


@contextlib.contextmanager
def jobs_display(console: Console, title: str, runs: Sequence[str] = ()) -> Iterator[LiveJobs | PlainJobs]:
    """A live table on a terminal, plain lines elsewhere; `runs` is the run of each job, where they are of several."""
    if not console.is_terminal:
        yield PlainJobs(console, title, runs)
        return
    with Live(console=console, auto_refresh=False) as live:
        yield LiveJobs(live, title, runs)
