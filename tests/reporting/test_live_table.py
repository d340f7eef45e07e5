from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from ensemble.commands.terminal import Terminal
from ensemble.jobs.job import JobStatus
from ensemble.reporting.live_table import PlainJobs, duration, jobs_display, jobs_table, sweep_jobs_table


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


def log_of(*updates: list[JobStatus], runs: tuple[str, ...] = ()) -> list[str]:
    """The lines of a log after these states of all jobs."""
    console = Console(file=io.StringIO(), width=60)
    with jobs_display(console, "train", runs) as view:
        for statuses in updates:
            view.update(statuses)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_a_row_shows_what_a_user_wants_to_know_of_a_job() -> None:
    shown = text(jobs_table(jobs(0, 1, 0))).split()
    assert {*["task", "fold", "state", "epoch", "loss", "macro", "F1", "kept", "photos/s", "left"]} <= set(shown)
    assert {*["mask", "training", "2/5", "0.5000", "0.7500", "0.8000", "123", "1:05"]} <= set(shown)


def test_on_a_short_terminal_finished_and_waiting_jobs_share_a_row_each() -> None:
    whole, short = (text(jobs_table(jobs(5, 2, 13), height=height)) for height in (40, 20))
    assert (whole.count("done"), whole.count("waiting")) == (5, 13)
    assert len(short.splitlines()) <= 20
    assert "5 jobs" in short
    assert "13 jobs" in short
    assert short.count("training") == 2


def test_a_log_gets_a_line_for_each_epoch_each_note_and_each_end() -> None:
    (job,) = jobs(0, 1, 0)
    noted = dataclasses.replace(job, note="precision fp16 falls back to fp32: its logits overflow")
    first, done = dataclasses.replace(job, epoch=0, f1=None), dataclasses.replace(noted, state="done")
    assert log_of([first], [job], [job], [noted], [noted], [done]) == [
        "train",
        "mask fold 0: epoch 2/5  loss 0.5000  macro F1 0.7500  kept 0.8000  123 photos/s  1:05 left",
        "mask fold 0: precision fp16 falls back to fp32: its logits overflow",
        "mask fold 0: done",
    ]
    assert "mask fold 0: precision fp16 falls back to fp32" in text(jobs_table([noted]))
    both = [job, dataclasses.replace(job, state="done")]
    assert log_of([job, job], both, runs=("a-seed0", "b-seed0")) == ["train", "b-seed0 mask fold 0: done"]


def test_the_view_depends_on_whether_there_is_a_terminal() -> None:
    with jobs_display(Console(file=io.StringIO()), "") as view:
        assert isinstance(view, PlainJobs)
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100, height=30)
    with jobs_display(terminal, "train") as view:
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


def test_columns_keep_their_places_while_jobs_run() -> None:
    waiting = [JobStatus("mask", 0, "waiting", 0, 5)]
    headers = {text(jobs_table(found)).splitlines()[1] for found in (waiting, jobs(0, 1, 0), jobs(1, 0, 0))}
    assert len(headers) == 1
    assert len(headers.pop().rstrip()) < 80


def test_lines_break_between_words_and_commands_stay_whole() -> None:
    terminal = Terminal()
    terminal.console = Console(file=io.StringIO(), width=40, force_terminal=True, color_system=None)
    terminal.say("out-of-fold over 210 photos of 29 people, cross-fitted epochs")
    terminal.next("maskens infer --run runs/with-a-long-name --allow-missing")
    lines = terminal.console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line.rstrip() for line in lines] == [
        "out-of-fold over 210 photos of 29",
        "people, cross-fitted epochs",
        "next: maskens infer --run runs/with-a-long-name --allow-missing",
    ]
