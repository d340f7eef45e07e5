"""A training that ends by a deadline: whole folds first, and what is there is a valid ensemble."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import TINY, TinyRun, at_batch, history, tiny_run

from ensemble.jobs.card import read_card
from ensemble.jobs.finished import is_done, restore
from ensemble.jobs.job import JOB_FILES, JobStatus, write_status
from ensemble.jobs.oof import load_job_oof
from ensemble.jobs.spec import JobSpec, TimeLimit
from ensemble.recipes.schema import TaskRecipe
from ensemble.training.deadline import (
    MARGIN,
    InferenceTime,
    JobTime,
    Timetable,
    describe_folds,
    fitting_epochs,
    fitting_folds,
    seconds_after,
    seconds_of_jobs,
    trained_epochs,
)
from ensemble.training.queue import run_job
from folds.people import TrainData
from folds.ranges import FULL

SECONDS = st.floats(0.0, 50.0)
JOB = st.builds(
    lambda start, epoch, most, resumed: JobTime(start, epoch, most, 0 if resumed else min(1, most)),
    *(SECONDS, SECONDS, st.integers(1, 12), st.booleans()),
)
FOLD = st.lists(JOB, min_size=1, max_size=4)
BUSY = st.lists(SECONDS, min_size=1, max_size=3)
LEFT = st.floats(0.0, 1000.0)


@given(FOLD, LEFT, LEFT, BUSY)
def test_a_fold_ends_in_time_and_more_time_is_never_fewer_epochs(
    jobs: list[JobTime], seconds: float, more: float, busy: list[float]
) -> None:
    epochs = fitting_epochs(jobs, seconds, busy)
    least = [job.least for job in jobs]
    if epochs is None:
        assert seconds_of_jobs(jobs, least, busy) > seconds, "it is begun if one epoch of each job fits"
        return
    assert seconds_of_jobs(jobs, epochs, busy) <= seconds
    assert all(job.least <= n <= job.most for job, n in zip(jobs, epochs, strict=True))
    longer = fitting_epochs(jobs, seconds + more, busy)
    assert longer is not None and all(a <= b for a, b in zip(epochs, longer, strict=True))
    if len(jobs) == 1 and epochs[0] < jobs[0].most:
        assert seconds_of_jobs(jobs, [epochs[0] + 1], busy) > seconds, "as many as fit"
    slack = seconds - seconds_after(jobs, epochs[0], busy) - jobs[0].seconds(epochs[0])
    late = [dataclasses.replace(jobs[0], start=jobs[0].start + slack / MARGIN), *jobs[1:]]
    assert seconds_of_jobs(late, [epochs[0], *least[1:]], busy) <= seconds + 1e-6, "and the others still fit"


@given(FOLD, st.integers(1, 5), LEFT, SECONDS, SECONDS, st.integers(1, 3), st.integers(0, 2))
def test_whole_folds_come_first_and_leave_time_to_predict(
    jobs: list[JobTime], k: int, seconds: float, start: float, fold: float, slots: int, complete: int
) -> None:
    infer = InferenceTime(start, fold)
    found = fitting_folds(dict.fromkeys(range(k), jobs), seconds, infer, slots, complete)
    begun = [epochs for epochs in found.values() if epochs is not None]
    assert list(found.values())[: len(begun)] == begun, "in their order"
    if begun:
        every = [job for _ in begun for job in jobs]
        taken = seconds_of_jobs(every, [n for epochs in begun for n in epochs], [0.0] * slots)
        assert taken + infer.seconds(complete + len(begun)) <= seconds + 1e-6


class Clock:
    """Seconds that pass as a test says."""

    time = 0.0

    def __call__(self) -> float:
        return self.time


def trained_in(clock: Clock, table: Timetable, spec: JobSpec, epoch: float) -> JobSpec | None:
    """Begin a job, let it take 2 s and so many an epoch, and end it."""
    begun = table.begin(spec)
    if begun:
        assert begun.epochs and begun.limit
        seconds = epoch * begun.epochs
        clock.time += 2 + seconds
        status = JobStatus(spec.task, spec.fold, "done", begun.epochs, begun.epochs, seconds=seconds)
        write_status(spec.run, status)
        table.end(spec)
    return begun


def test_epochs_follow_what_jobs_really_take(setting: TinyRun) -> None:
    """Of three wanted: as estimated all of both folds fit; really everything takes four times as long."""
    clock, specs = Clock(), [setting.spec(task, fold) for fold in (0, 1) for task in ("mask", "gender")]
    times = {(spec.task, spec.fold): JobTime(1.0, 10.0, 3) for spec in specs}
    table = Timetable(times, 440.0, InferenceTime(10.0, 10.0), [], 1, now=clock)
    assert describe_folds(table.forecast()) == ""
    first = trained_in(clock, table, specs[0], 40.0)
    assert first and first.limit and first.epochs == 3
    assert (first.limit.ends, first.limit.epoch) == (pytest.approx(440 - 11), pytest.approx(11))
    assert first.limit.after == pytest.approx(1.1 * (10 + 11)), "predicting, and an epoch of the other task"
    second = trained_in(clock, table, specs[1], 40.0)
    assert second and second.epochs == 3, "the fold that is begun comes first"
    assert trained_in(clock, table, specs[2], 40.0) and specs[2].job.status().epoch == 1
    assert clock.time == 2 * (2 + 120) + 2 + 40
    assert trained_in(clock, table, specs[3], 40.0), "and its fold is whole"
    assert clock.time + 10 + 3 * 2 * 10 <= 440


def test_a_fold_without_time_is_not_begun(setting: TinyRun) -> None:
    clock, specs = Clock(), [setting.spec(task, fold) for fold in (0, 1) for task in ("mask", "gender")]
    times = {(spec.task, spec.fold): JobTime(0.0, 10.0, 3) for spec in specs}
    table = Timetable(times, 80.0, InferenceTime(10.0, 0.0), [], 1, now=clock)
    assert describe_folds(table.forecast()) == "fold 1: not trained"
    assert not table.too_short
    assert [bool(trained_in(clock, table, spec, 10.0)) for spec in specs] == [True, True, False, False]
    clock.time = 55.0
    again = Timetable(times, 80.0, InferenceTime(10.0, 0.0), [0], 1, decode=5.0, now=clock)
    assert again.too_short
    assert again.least_seconds() == (pytest.approx(22), pytest.approx(16))


@pytest.mark.parametrize(("seconds", "begun"), [(59.0, False), (61.0, True)])
def test_the_model_on_everybody_needs_time_for_all_its_epochs(setting: TinyRun, seconds: float, begun: bool) -> None:
    clock, spec = Clock(), setting.spec("mask", FULL)
    times = {("mask", FULL): JobTime(0.0, 10.0, 9, 9)}  # as estimated before the folds had decided on three
    table = Timetable(times, seconds, InferenceTime(10.0, 5.0), [0, 1], 1, now=clock)
    assert bool(trained_in(clock, table, spec, 10.0)) == begun


def of(fold: int, **epochs: int) -> dict[int, dict[str, tuple[int, int]]]:
    return {fold: {task: (given, 3) for task, given in epochs.items()}}


def test_what_is_cut_is_reported_by_fold() -> None:
    assert describe_folds(of(0, mask=3, gender=3)) == ""
    assert describe_folds(of(0, mask=1, gender=1) | of(1, mask=0, gender=0) | of(2, mask=0, gender=0)) == (
        "fold 0: 1 of 3 epochs; folds 1, 2: not trained"
    )
    assert describe_folds(of(4, mask=1, gender=2)) == "fold 4: mask 1 of 3, gender 2 of 3 epochs"
    assert describe_folds(of(4, mask=0, gender=0) | of(FULL, mask=0, gender=0)) == "folds 4, full: not trained"
    assert describe_folds(of(4, mask=3, gender=0)) == "fold 4: not complete, without gender"


def shorter(setting: TinyRun, **changes: Any) -> JobSpec:
    return dataclasses.replace(setting.spec(), **changes)


def test_a_job_with_fewer_epochs_is_the_one_that_its_recipe_would_train_with_them(
    setting: TinyRun, data: TrainData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its schedule reaches its end; stopped, it keeps it, whatever the deadline is then."""
    two = tiny_run(tmp_path / "two", data, TINY, "tasks.*.epochs=2")
    assert run_job(two.spec(), data, two.folds) is None
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        at_batch(patch, 7, raise_interrupt)
        run_job(shorter(setting, epochs=2), data, setting.folds)
    spec = setting.spec()
    assert run_job(spec, data, setting.folds) is None
    assert history(setting) == history(two)
    first, second = (load_job_oof(there.spec().job.oof, {}).logits for there in (setting, two))
    assert (first == second).all()
    status = spec.job.status()
    assert (status.epoch, status.epochs, status.note) == (2, 2, "deadline: 2 of 3 epochs")
    assert read_card(spec.job.model).epochs == 2 and read_card(two.spec().job.model).epochs is None
    assert is_done(spec)
    spec.job.status_file.unlink()
    assert len(restore([spec])) == 1
    assert is_done(spec) and trained_epochs([spec]) == {0: {"mask": (2, 3)}}


def raise_interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("batch", "past", "begun"), [(3, 1.0, 3), (5, -1e-4, 5), (8, 1.0, 8)])
def test_a_machine_that_becomes_slow_ends_a_job_with_the_epochs_that_it_has(
    setting: TinyRun, whole: TinyRun, batch: int, past: float, begun: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its first epoch, before a second one that would not fit, and in the second epoch."""
    ends = time.time() + 1000
    spec = shorter(setting, limit=TimeLimit(ends + 50, after=50, epoch=1e9))
    with monkeypatch.context() as patch:
        shown = at_batch(patch, batch, lambda: patch.setattr(time, "time", lambda: ends + past))
        assert run_job(spec, setting.data, setting.folds) is None
    status = spec.job.status()
    assert len(shown) == begun
    if batch > 3:
        assert (status.state, status.epoch, status.note) == ("done", 1, "deadline: 1 of 3 epochs")
        assert is_done(spec)
        assert history(setting) == history(whole)[:1]
        return
    assert (status.state, status.batches) == ("stopped", 3), "it is saved"
    assert run_job(setting.spec(), setting.data, setting.folds) is None
    left = ([there.spec().job.verified_sha256(name) for name in JOB_FILES] for there in (setting, whole))
    assert next(left) == next(left)


def test_what_a_recipe_counts_in_epochs_shrinks_with_them() -> None:
    recipe = TaskRecipe(
        **{"predicts": "mask", "model": "test_resnet.r160_in1k", "resize": (32, 24), "epochs": 4},
        **{"head_epochs": 1, "sizes": ((20, 16), (28, 20)), "average_epochs": 2},
        schedule={"name": "cosine_warm_restarts", "warmup_epochs": 1, "T_0": 2},  # type: ignore[arg-type]
    )
    two = recipe.of_epochs(2)
    assert (two.epochs, two.head_epochs, two.sizes, two.average_epochs) == (2, 0.5, ((28, 20),), 1)
    assert (two.schedule.warmup_epochs, two.schedule.T_0) == (0.5, 2)
    one = recipe.of_epochs(1)
    assert (one.sizes, one.average_epochs, one.schedule.T_0) == ((), 0, 1)
    assert recipe.of_epochs(3).schedule.T_0 == 3, "no second cycle that would end at the highest rate"
    assert recipe.of_epochs(4) is recipe
