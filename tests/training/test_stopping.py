"""Jobs that are stopped or killed: what they had learned is kept, and going on leads to the same bytes."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any, get_args

import psutil
import pytest
from run_command import maskens, started
from tiny_runs import DEFAULTS, Silent, TinyRun, history, tiny_run
from torch import Tensor

import ensemble.training.trainer
from ensemble.jobs.finished import is_done
from ensemble.jobs.hardware import Hardware
from ensemble.jobs.job import JOB_FILES, Job
from ensemble.jobs.locks import lock_job_process, lock_jobs
from ensemble.jobs.stopping import stop_requests
from ensemble.recipes.recipe_file import parse_recipe
from ensemble.recipes.schema import Sampler, Schedule
from ensemble.training.queue import train
from ensemble.training.runner import run_job
from ensemble.training.trainer import Trainer
from folds.errors import MaskensError, Stopped
from folds.layout import read_train
from folds.people import TrainData

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")

RECIPE = f"{DEFAULTS}[tasks.mask]\n[tasks.gender]\n[tasks.age]\n"
KEYS = {
    "plain": (),
    "all that has a state": (
        "ema=0.9",
        "average_epochs=2",
        "accumulate=2",
        "drop_last=false",
        "head_epochs=0.5",
        "optimizer.layer_decay=0.8",
        "mix={cutmix=1.0, prob=0.5}",
        "sampler={balance='class'}",
    ),
}
SCHEDULES = [
    f"schedule={{name='{name}', T_0=2, T_mult=2, eta_min=1e-6, warmup_epochs=0.5, lr_min=1e-6}}"
    for name in get_args(Schedule.model_fields["name"].annotation)
]
SAMPLERS = [
    *(f"sampler={{balance='{balance}'}}" for balance in get_args(Sampler.model_fields["balance"].annotation)),
    "sampler={photos_per_person=4, fraction=1.5}",
    "sampler={fraction=0.8}",
]
MIXES = [
    "mix={}",
    *(f"mix={{{kind}}}" for kind in ("mixup=1.0", "cutmix=1.0", "mixup=1.0, cutmix=1.0", "half_face=true")),
]
AVERAGES = ["ema=0.0", "ema=0.9"]
# each of them once at least, and no two rows alike
ROWS = list(zip(*(islice(cycle(kind), len(MIXES)) for kind in (SCHEDULES, SAMPLERS, MIXES, AVERAGES)), strict=True))
ONE = Hardware("cpu", workers=0)


@pytest.fixture(scope="module")
def data(make_data: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> TrainData:
    return read_train(make_data(tmp_path_factory.mktemp("stopping") / "data", people=24))


@pytest.fixture
def setting(data: TrainData, tmp_path: Path) -> TinyRun:
    return tiny_run(tmp_path / "run", data, RECIPE)


def left_by(setting: TinyRun, task: str = "mask") -> list[object]:
    """What a job leaves, but for what tells the time."""
    folder = setting.run.job_folder(task, 0)
    return [history(setting, task), *((folder / name).read_bytes() for name in JOB_FILES)]


def interrupted_at(batch: int) -> Callable[..., Tensor]:
    """A loss that on its way to this batch, counted from 1 over all epochs, gets a Ctrl-C."""
    loss, left = Trainer._loss, batch

    def compute(self: Trainer, *args: Any) -> Tensor:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(self, *args)

    return compute


def counted(patch: pytest.MonkeyPatch) -> list[None]:
    """An entry for each batch that is learned from, from now on."""
    loss, shown = Trainer._loss, list[None]()

    def compute(self: Trainer, *args: Any) -> Tensor:
        shown.append(None)
        return loss(self, *args)

    patch.setattr(Trainer, "_loss", compute)
    return shown


@pytest.fixture(scope="module")
def unbroken(
    data: TrainData, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[tuple[str, ...]], tuple[list[object], int]]:
    """(what a job with these keys leaves that nothing stopped, batches an epoch)."""

    @functools.cache
    def train_whole(keys: tuple[str, ...]) -> tuple[list[object], int]:
        setting = tiny_run(tmp_path_factory.mktemp("unbroken") / "run", data, RECIPE, *(f"tasks.*.{k}" for k in keys))
        with pytest.MonkeyPatch.context() as patch:
            shown = counted(patch)
            assert run_job(setting.spec(), setting.data, setting.folds) is None
        return left_by(setting), len(shown) // 3

    return train_whole


def resumed_alike(
    setting: TinyRun, keys: tuple[str, ...], batch: int, whole: tuple[list[object], int], patch: pytest.MonkeyPatch
) -> None:
    """A job that is stopped at this batch, counted from 1 over all epochs, resumes there and ends as if it had not."""
    recipe = parse_recipe(RECIPE, "tiny", changes=[f"tasks.*.{key}" for key in keys])
    setting = dataclasses.replace(setting, recipe=recipe)
    left, an_epoch = whole
    with patch.context() as stopping, pytest.raises(KeyboardInterrupt):
        stopping.setattr(Trainer, "_loss", interrupted_at(batch))
        run_job(setting.spec(), setting.data, setting.folds)
    status = Job(setting.run, "mask", 0).status()
    updates = recipe.tasks["mask"].accumulate
    batches = status.epoch * an_epoch + status.batches
    assert (status.state, batches) == ("stopped", -(-batch // updates) * updates), "the update is finished first"
    shown = counted(patch)
    assert run_job(setting.spec(), setting.data, setting.folds) is None
    assert len(shown) == 3 * an_epoch - batches, "no batch is done twice"
    assert left_by(setting) == left


@pytest.mark.parametrize(
    ("batch", "keys"), [(1, "plain"), (5, "plain"), (11, "plain"), *((n, "all that has a state") for n in (4, 5, 8))]
)
def test_a_job_that_is_stopped_within_an_epoch_goes_on_from_there(
    setting: TinyRun, batch: int, keys: str, unbroken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    resumed_alike(setting, KEYS[keys], batch, unbroken(KEYS[keys]), monkeypatch)


@pytest.mark.parametrize("keys", ROWS, ids=range(len(ROWS)))
def test_resuming_within_an_epoch_leads_to_the_same_bytes_for_every_schedule_sampler_mix_and_average(
    setting: TinyRun, keys: tuple[str, ...], unbroken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = unbroken(keys)
    resumed_alike(setting, keys, whole[1] + 3, whole, monkeypatch)


def test_a_long_epoch_is_saved_now_and_then(setting: TinyRun, unbroken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def killed(self: Trainer, photos: Tensor, labels: Tensor, epoch: int, number: int) -> Tensor:
        if (epoch, number) == (1, 3):
            raise Killed
        return loss(self, photos, labels, epoch, number)

    loss = Trainer._loss
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(ensemble.training.trainer, "SAVE_EVERY", 0)
        patch.setattr(Trainer, "_loss", killed)
        run_job(setting.spec(), setting.data, setting.folds)
    status = Job(setting.run, "mask", 0).status()
    assert (status.epoch, status.batches) == (1, 3)
    assert run_job(setting.spec(), setting.data, setting.folds) is None
    assert left_by(setting) == unbroken(())[0]


def test_what_was_saved_is_told(setting: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    specs = [setting.spec("gender"), setting.spec("mask")]
    with monkeypatch.context() as patch, pytest.raises(Stopped) as stopped:
        patch.setattr(Trainer, "_loss", interrupted_at(15 + 7))
        train(specs, setting.data, setting.folds, specs, ONE, Silent())
    assert str(stopped.value) == "mask fold 0: 1 of 3 epochs and 2 batches; 1 of the 2 jobs that were left are done"


def test_a_second_ctrl_c_waits_for_nothing() -> None:
    with pytest.raises(KeyboardInterrupt), stop_requests() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.made
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second one goes through at once")
    with stop_requests() as stop:
        pass
    assert not stop.made


def test_a_process_that_is_killed_goes_on_and_at_the_last_attempt_fails_its_job_alone(setting: TinyRun) -> None:
    specs = [setting.spec("mask"), setting.spec("gender")]

    def kill_twice() -> None:
        """The first process of a job that is at work, and the one that goes on with the job."""
        killed: list[int] = []
        until = time.monotonic() + 120
        while not (begun := [s for s in specs if s.job.status().state == "training"]):
            time.sleep(0.01)
        holder = setting.run.folder / ".locks" / f"{begun[0].task}-fold0.process.json"
        while len(killed) < 2 and time.monotonic() < until:
            time.sleep(0.01)
            with contextlib.suppress(OSError, ValueError, psutil.Error):
                pid = json.loads(holder.read_text())["pid"]
                if pid not in killed and psutil.Process(pid) in psutil.Process().children():
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    killer = threading.Thread(target=kill_twice)
    killer.start()
    many = [dataclasses.replace(s, recipe=parse_recipe(RECIPE, "tiny", changes=["tasks.*.epochs=10"])) for s in specs]
    two, view = Hardware("cpu", workers=0, jobs=2), Silent()
    ((killed, failure),) = train(many, setting.data, setting.folds, many, two, view, retries=1).items()
    killer.join()
    notes = {status.note for shown in view.shown for status in shown}
    assert any("killed its process, most likely for want of memory; goes on, attempt 2 of 2" in n for n in notes)
    assert "the system killed its process, most likely for want of memory" in failure.message
    assert [s.job.status().state for s in (many[killed], many[1 - killed])] == ["failed", "done"]
    assert train(many, setting.data, setting.folds, many, ONE, Silent()) == {}
    assert all(is_done(s) for s in many)


def test_processes_end_with_the_command_that_started_them(make_data: Callable[..., Path], tmp_path: Path) -> None:
    """Else they would go on, unseen, beside those of the next command."""
    make_data(tmp_path / "data", people=24)
    maskens("folds", "--data", tmp_path / "data", "--run", tmp_path / "run", "--k", 2)
    (tmp_path / "tiny.toml").write_text(RECIPE.replace("epochs = 3", "epochs = 200"))
    words = ("train", "--run", "run", "--recipe", "tiny.toml", "--jobs", 2, "--yes")
    training = started(*words, cwd=tmp_path, stdout=subprocess.PIPE)
    assert training.stdout
    for line in training.stdout:
        if "epoch" in line:
            break
    processes = psutil.Process(training.pid).children(recursive=True)
    training.kill()
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert not alive
    training.communicate()


def test_who_is_at_a_job_is_told(setting: TinyRun) -> None:
    with (
        lock_jobs([setting.spec()]),
        pytest.raises(MaskensError, match=rf"is training mask fold 0 in \S+ \(process {os.getpid()} on \S+, since "),
    ):
        train([setting.spec()], setting.data, setting.folds, [], ONE, Silent())


def test_a_process_that_outlives_its_command_is_waited_for(setting: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    with lock_job_process(setting.spec()), monkeypatch.context() as patch:
        patch.setattr("ensemble.jobs.locks.ENDING", 0.1)
        failure = run_job(setting.spec(), setting.data, setting.folds)
    assert failure
    assert f"the process (process {os.getpid()} on " in failure.message
    assert run_job(setting.spec(), setting.data, setting.folds) is None


@pytest.mark.parametrize("batch", [3, 7])
def test_a_run_that_is_removed_meanwhile_does_not_come_back_in_parts(
    setting: TinyRun, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, left = Trainer._loss, batch

    def remove(self: Trainer, *args: Any) -> Tensor:
        nonlocal left
        left -= 1
        if left == 0:
            shutil.rmtree(setting.run.folder)
        return loss(self, *args)

    monkeypatch.setattr(Trainer, "_loss", remove)
    failure = run_job(setting.spec(), setting.data, setting.folds)
    assert failure
    assert failure.message.endswith("was removed or moved meanwhile: nothing more is saved there.")
    assert not setting.run.folder.exists()


def test_a_file_that_can_not_be_removed_fails_no_finished_job(
    setting: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = setting.run.job_folder("mask", 0)
    folder.mkdir(parents=True)
    (folder / "error.txt").write_text("of an earlier attempt")

    def fails(self: Path, missing_ok: bool = False) -> None:
        if self.name == "error.txt":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        unlink(self, missing_ok)

    unlink = Path.unlink
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fails)
        assert run_job(setting.spec(), setting.data, setting.folds) is None
    status = Job(setting.run, "mask", 0).status()
    assert status.state == "done"
    assert f"can't remove {folder / 'error.txt'} (Input/output error)" in status.note
    assert (folder / "error.txt").read_text() == "of an earlier attempt"


@pytest.mark.parametrize(("error", "writes"), [(errno.ENOSPC, 4), (errno.EROFS, 8), (errno.EACCES, 12)])
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
    assert failure
    assert not failure.crashed
    assert re.fullmatch(
        rf"can't write \S+: {os.strerror(error)}\.( The file that was there is unchanged\.)?", failure.message
    )
    assert run_job(setting.spec(), setting.data, setting.folds) is None
    assert left_by(setting) == unbroken(())[0]


def test_kills_leave_no_trace() -> None:
    root = Path(__file__).parents[2]
    soak = [sys.executable, root / "benchmarks" / "kills.py", "--kills", "4"]
    found = subprocess.run(soak, cwd=root, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "4 kills" in found.stdout
    assert "0 files differ" in found.stdout
