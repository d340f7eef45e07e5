"""Jobs that are stopped or killed: their work is kept, and resuming leads to the same bytes."""

from __future__ import annotations

import dataclasses
import errno
import functools
import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, get_args

import psutil
import pytest
import torch
from tiny_runs import TINY, Silent, TinyRun, at_batch, history, tiny_run
from torch import Tensor

from ensemble.backends.backend import Call, SequentialBackend, WorkerLost
from ensemble.jobs.finished import is_done
from ensemble.jobs.hardware import Hardware
from ensemble.jobs.job import JOB_FILES, JobStatus, write_status
from ensemble.jobs.stopping import stop_requests
from ensemble.recipes.recipe_file import parse_recipe
from ensemble.recipes.schema import Loss, Sampler, Schedule
from ensemble.recipes.tasks import Head
from ensemble.training import fit_fold, queue, trainer
from ensemble.training.queue import run_job, train
from folds.people import TrainData
from folds.run_folder import Run

STATE = (  # all that has a state
    *("ema=0.9", "average_epochs=2", "accumulate=2", "drop_last=false", "head_epochs=0.5", "sizes=[[24, 16]]"),
    *("optimizer.layer_decay=0.8", "mix={cutmix=1.0, prob=0.5}", "sampler={balance='class'}"),
)
HALF = ("precision='fp16'",)  # whose gradients are scaled
SCHEDULES = [
    f"schedule={{name='{name}', T_0=2, T_mult=2, eta_min=1e-6, warmup_epochs=0.5, lr_min=1e-6}}"
    for name in get_args(Schedule.model_fields["name"].annotation)
]
SAMPLERS = [
    *(f"sampler={{balance='{way}', fraction=0.8}}" for way in get_args(Sampler.model_fields["balance"].annotation)),
    "sampler={photos_per_person=4, fraction=1.5}",
]
MIXES = [
    "mix={}",
    *(f"mix={{{kind}}}" for kind in ("mixup=1.0", "cutmix=1.0", "mixup=1.0, cutmix=1.0", "half_face=true")),
]
KINDS = (SCHEDULES, SAMPLERS, MIXES)
ROWS = list(islice(zip(*map(cycle, KINDS), strict=False), max(map(len, KINDS))))  # each of them once at least
ONE = Hardware("cpu", workers=0)


def left_by(setting: TinyRun, task: str = "mask") -> list[object]:
    """What a job leaves, but for what tells the time."""
    folder = setting.run.job_folder(task, 0)
    return [history(setting, task), *((folder / name).read_bytes() for name in JOB_FILES)]


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="session")
def unbroken(
    data: TrainData, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[tuple[str, ...]], tuple[list[object], int]]:
    """(what a job with these keys leaves that nothing stopped, batches an epoch)."""

    @functools.cache
    def train_whole(keys: tuple[str, ...]) -> tuple[list[object], int]:
        setting = tiny_run(tmp_path_factory.mktemp("unbroken") / "run", data, TINY, *(f"tasks.*.{k}" for k in keys))
        with pytest.MonkeyPatch.context() as patch:
            shown = at_batch(patch, 0, ctrl_c)
            assert run_job(setting.spec(), setting.data, setting.folds) is None
        return left_by(setting), len(shown) // 3

    return train_whole


@pytest.mark.parametrize(
    ("batch", "keys"), [(1, ()), (5, HALF), (4, STATE), (8, STATE), *((None, row) for row in ROWS)]
)
def test_a_job_that_is_stopped_within_an_epoch_resumes_there_to_the_same_bytes(
    setting: TinyRun, batch: int, keys: tuple[str, ...], unbroken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For every schedule, sampler, mix, average and precision; 0 is in the second epoch."""
    left, an_epoch = unbroken(keys)
    batch = batch or an_epoch + 3
    recipe = parse_recipe(TINY, "tiny", changes=[f"tasks.*.{key}" for key in keys])
    spec = dataclasses.replace(setting.spec(), recipe=recipe)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        at_batch(patch, batch, ctrl_c)
        run_job(spec, setting.data, setting.folds)
    status, updates = spec.job.status(), recipe.tasks["mask"].accumulate
    batches = status.epoch * an_epoch + status.batches
    assert (status.state, batches) == ("stopped", -(-batch // updates) * updates), "the update is finished first"
    shown = at_batch(monkeypatch, 0, ctrl_c)
    assert run_job(spec, setting.data, setting.folds) is None
    assert len(shown) == 3 * an_epoch - batches, "no batch is done twice"
    assert left_by(setting) == left


def test_a_job_out_of_memory_resumes_in_micro_batches(setting: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, loss, most = setting.spec(), trainer.task_loss, 5

    def full(mix: Loss, heads: Sequence[Head], logits: Tensor, *rest: Any) -> Tensor:
        if len(logits) > most:
            raise torch.OutOfMemoryError("full")
        return loss(mix, heads, logits, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer, "task_loss", full)
        at_batch(patch, 6, ctrl_c)
        run_job(spec, setting.data, setting.folds)
    assert run_job(spec, setting.data, setting.folds) is None
    status = spec.job.status()
    assert status.record["micro_batch"] == 4 and "micro-batches of 4" in status.note
    monkeypatch.setattr(trainer, "task_loss", full)
    most = 0
    failure = run_job(setting.spec("gender"), setting.data, setting.folds)
    assert failure and re.search("out of memory, also with one photo.* smaller model .* 'gender'", failure.message)


def test_a_long_epoch_is_saved_now_and_then(setting: TinyRun, unbroken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def kill() -> None:
        raise Killed

    left, an_epoch = unbroken(())
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(fit_fold, "SAVE_EVERY", 0)
        at_batch(patch, an_epoch + 4, kill)
        run_job(setting.spec(), setting.data, setting.folds)
    status = setting.spec().job.status()
    assert (status.epoch, status.batches) == (1, 3)
    assert run_job(setting.spec(), setting.data, setting.folds) is None
    assert left_by(setting) == left


def test_a_second_ctrl_c_waits_for_nothing() -> None:
    with pytest.raises(KeyboardInterrupt), stop_requests() as stop:
        ctrl_c()
        assert stop.made
        ctrl_c()
        pytest.fail("the second one goes through at once")
    with stop_requests() as stop:
        pass
    assert not stop.made


def test_parallel_jobs_leave_what_sequential_ones_do_whatever_is_killed(
    data: TrainData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With loader processes; one job's process is killed, and another resumes the job."""
    alone, there = (tiny_run(tmp_path / name, data, TINY, "tasks.*.epochs=5") for name in ("alone", "parallel"))
    specs = [there.spec(task, workers=1) for task in ("mask", "gender")]
    plain = [alone.spec(task) for task in ("mask", "gender")]
    assert train(plain, data, alone.folds, plain, ONE, Silent()) == {}

    class Killing(Silent):
        killed = 0

        def update(self, statuses: list[JobStatus]) -> None:
            super().update(statuses)
            for status in statuses:
                if not self.killed and status.state == "training" and status.epoch < 3:
                    holder = there.run.folder / ".locks" / f"{status.task}-fold0.process.json"
                    self.killed = json.loads(holder.read_text())["pid"]
                    assert psutil.Process(self.killed) in psutil.Process().children()
                    os.kill(self.killed, signal.SIGKILL)

    def write_and_note(run: Run, status: JobStatus) -> None:  # a display may miss what is written for a moment only
        notes.append(status.note)
        write_status(run, status)

    notes: list[str] = []
    monkeypatch.setattr(queue, "write_status", write_and_note)
    monkeypatch.setattr(queue, "POLL", 0.01)  # a job is killed before it is done
    view = Killing()
    assert train(specs, data, there.folds, specs, Hardware("cpu", workers=1, jobs=2), view, retries=1) == {}
    assert view.killed
    assert any("SIGKILL, probably out of memory" in note and "attempt 2 of 2" in note for note in notes)
    for spec in specs:
        assert is_done(spec) and spec.job.status().note == ""
        assert left_by(there, spec.task) == left_by(alone, spec.task)


def test_a_job_whose_worker_crashes_too_often_fails_alone(setting: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    class Crashing(SequentialBackend):
        def call(self, call: Call) -> Any:
            if call.name == "gender fold 0":
                raise WorkerLost("worker crashed (SIGKILL, probably out of memory)")

    monkeypatch.setattr(queue, "open_backend", lambda hardware: Crashing())
    specs = [setting.spec("gender"), setting.spec("mask")]
    ((place, failure),) = train(specs, setting.data, setting.folds, specs, ONE, Silent(), retries=1).items()
    assert place == 0 and not failure.crashed
    assert "SIGKILL" in failure.message and "same command resumes it" in failure.message
    status = specs[0].job.status()
    assert (status.state, status.error) == ("failed", failure.message)


def test_a_run_removed_meanwhile_does_not_come_back_in_parts(setting: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    at_batch(monkeypatch, 7, lambda: shutil.rmtree(setting.run.folder))
    failure = run_job(setting.spec(), setting.data, setting.folds)
    assert failure
    assert "was removed or moved meanwhile" in failure.message
    assert not setting.run.folder.exists()


def test_a_file_that_cannot_be_removed_fails_no_finished_job(setting: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    job, unlink = setting.spec().job, Path.unlink
    job.folder.mkdir(parents=True)
    job.error.write_text("of an earlier attempt")

    def fails(self: Path, missing_ok: bool = False) -> None:
        if self.name == "error.txt":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", fails)
    assert run_job(setting.spec(), setting.data, setting.folds) is None
    assert job.status().state == "done"
    assert f"can't remove {job.error} (Input/output error)" in job.status().note


@pytest.mark.parametrize(("error", "writes"), [(errno.ENOSPC, 4), (errno.EROFS, 8)])
def test_a_disk_that_takes_no_more_costs_one_message_and_nothing_that_was_there(
    setting: TinyRun, error: int, writes: int, unbroken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, left = os.replace, writes

    def full(source: str, target: str) -> None:
        nonlocal left
        left -= 1
        if left < 0 and Path(target).name != "job.json":
            raise OSError(error, os.strerror(error))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        failure = run_job(setting.spec(), setting.data, setting.folds)
    assert failure and not failure.crashed
    assert re.match(rf"can't write \S+: {os.strerror(error)}", failure.message)
    assert run_job(setting.spec(), setting.data, setting.folds) is None
    assert left_by(setting) == unbroken(())[0]
