from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from ensemble.jobs.job import JobStatus
from ensemble.reporting.live_table import LiveJobs, PlainJobs, duration, jobs_display, jobs_table, sweep_jobs_table


def jobs(done: int, training: int, waiting: int) -> list[JobStatus]:
    states = ["done"] * done + ["training"] * training + ["waiting"] * waiting
    return [
        JobStatus("mask", i, state, 2, 5, 0.5, 0.75, 0.8, 123.4, 65.0)  # type: ignore[arg-type]
        for i, state in enumerate(states)
    ]


def text(table: object) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_row_shows_what_a_user_wants_to_know_of_a_job() -> None:
    shown = text(jobs_table(jobs(0, 1, 0)))
    for word in ("task", "fold", "state", "epoch", "loss", "macro F1", "best", "photos/s", "left"):
        assert word in shown
    for value in ("mask", "training", "2/5", "0.5000", "0.7500", "0.8000", "123", "1:05"):
        assert value in shown


def test_every_job_has_a_row_where_there_is_room() -> None:
    shown = text(jobs_table(jobs(5, 2, 13), height=40))
    assert shown.count("done") == 5
    assert shown.count("waiting") == 13


def test_on_a_short_terminal_finished_and_waiting_jobs_share_a_row_each() -> None:
    shown = text(jobs_table(jobs(5, 2, 13), height=20))
    assert len(shown.splitlines()) <= 20
    assert "5 jobs" in shown
    assert "13 jobs" in shown
    assert shown.count("training") == 2


def test_a_log_gets_a_line_for_each_epoch_and_each_end() -> None:
    console = Console(file=io.StringIO(), width=60)
    view = PlainJobs(console, "train")
    (first,) = jobs(0, 1, 0)
    view.update([dataclasses.replace(first, epoch=0, f1=None)])
    view.update([first])
    view.update([first])
    view.update([dataclasses.replace(first, state="done")])
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines == [
        "train",
        "mask fold 0: epoch 2/5  loss 0.5000  macro F1 0.7500  best 0.8000  123 photos/s  1:05 left",
        "mask fold 0: done",
    ]


def test_a_note_is_shown_once_in_a_log_and_below_the_table() -> None:
    console = Console(file=io.StringIO(), width=60)
    view = PlainJobs(console, "train")
    (job,) = jobs(0, 1, 0)
    noted = dataclasses.replace(job, note="precision fp16 falls back to fp32: its logits overflow")
    for status in (job, noted, noted, dataclasses.replace(noted, state="done")):
        view.update([status])
    log = console.file.getvalue()  # type: ignore[attr-defined]
    assert log.count("mask fold 0: precision fp16 falls back to fp32: its logits overflow\n") == 1
    assert "mask fold 0: precision fp16 falls back to fp32" in text(jobs_table([noted]))


def test_the_view_depends_on_whether_there_is_a_terminal() -> None:
    assert isinstance(jobs_display(Console(file=io.StringIO()), ""), PlainJobs)
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100, height=30)
    view = jobs_display(terminal, "train")
    assert isinstance(view, LiveJobs)
    with view:
        view.update(jobs(1, 1, 0))
        view.update(jobs(2, 0, 0))
    assert "train: 2 of 2 jobs done" in terminal.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("seconds", "shown"), [(None, ""), (0, "0:00"), (65.4, "1:05"), (7389, "2:03:09")])
def test_durations(seconds: float | None, shown: str) -> None:
    assert duration(seconds) == shown


def test_a_sweep_shows_its_runs_and_the_jobs_at_work_in_as_many_lines_as_there_are() -> None:
    runs = [f"quick-seed{n // 5}" for n in range(100)]
    many = [*jobs(6, 2, 92)]
    whole = text(sweep_jobs_table(runs, many))
    lines = [line.split() for line in whole.splitlines()]
    assert ["quick-seed0", "5/5", "done", "0.8000"] in lines
    assert ["quick-seed1", "1/5", "0.8000"] in lines
    assert whole.count("training") == 2
    assert all(run in whole for run in runs)
    short = text(sweep_jobs_table(runs, many, "sweep", height=20))
    assert len(short.splitlines()) <= 20
    assert "19 others" in short
    assert short.count("training") == 2


def test_jobs_of_several_runs_are_told_apart_in_a_log() -> None:
    console = Console(file=io.StringIO(), width=60)
    view = PlainJobs(console, "sweep", ["a-seed0", "b-seed0"])
    both = [*jobs(0, 1, 0), *jobs(0, 1, 0)]
    view.update(both)
    view.update([both[0], dataclasses.replace(both[1], state="done")])
    assert console.file.getvalue().splitlines() == ["sweep", "b-seed0 mask fold 0: done"]  # type: ignore[attr-defined]
