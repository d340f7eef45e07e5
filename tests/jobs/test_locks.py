"""Locks and claims on jobs, on file systems that have the one or only the other."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import DEFAULTS, TinyRun, at_batch, tiny_run

from ensemble.jobs.job import Job
from ensemble.jobs.locks import TakenOver, lock_job_process, lock_jobs
from ensemble.jobs.stopping import CALL_VARIABLE, stop_file
from ensemble.training.queue import run_job
from folds.files import read_json, write_json
from folds.layout import read_train

RECIPE = f"{DEFAULTS}[tasks.heads]\n"


@pytest.fixture
def setting(make_data: Callable[..., Path], tmp_path: Path) -> TinyRun:
    return tiny_run(tmp_path / "run", read_train(make_data(tmp_path / "data", people=24)), RECIPE)


def without_locks(*args: Any) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_more_jobs_than_a_process_usually_may_open_files_for(setting: TinyRun) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        with lock_jobs([setting.spec("heads", fold) for fold in range(300)]):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_without_file_system_locks_the_last_claim_counts(setting: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", without_locks)
    spec = setting.spec("heads")
    with lock_jobs([spec]), lock_job_process(spec) as first:
        first.refuse_taken_over()
    with lock_job_process(spec) as first, lock_job_process(spec) as second:
        second.refuse_taken_over()
        with pytest.raises(TakenOver, match=rf"taken the job over \(process {os.getpid()} on .*\); nothing more is"):
            first.refuse_taken_over()


@pytest.mark.parametrize("spoil", [Path.unlink, lambda file: file.write_text("{")], ids=["deleted", "half written"])
def test_a_claim_that_cannot_be_read_is_nobody_elses(setting: TinyRun, spoil: Callable[[Path], object]) -> None:
    with lock_job_process(setting.spec("heads")) as claim:
        spoil(setting.run.folder / ".locks" / "heads-fold0.process.json")
        claim.refuse_taken_over()


def test_a_job_that_is_taken_over_writes_no_more(setting: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    signature = setting.run.folder / ".locks" / "heads-fold0.process.json"
    another = {"token": "another's", "host": "node7"}
    at_batch(monkeypatch, 7, lambda: write_json(signature, read_json(signature) | another))
    failure = run_job(setting.spec("heads"), setting.data, setting.folds)
    assert failure and "another process has taken the job over (process" in failure.message
    status = Job(setting.run, "heads", 0).status()
    assert (status.state, status.epoch, status.error) == ("training", 1, "")


def test_a_process_outliving_its_command_is_waited_for_and_asked_to_stop(
    setting: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scheduler's worker would train on to the end of the job."""
    spec = setting.spec("heads")
    monkeypatch.setenv(CALL_VARIABLE, "call1")
    monkeypatch.setattr("ensemble.jobs.locks.ENDING", 0.1)
    with lock_job_process(spec):
        failure = run_job(spec, setting.data, setting.folds)
    assert failure and re.search(rf"process {os.getpid()} on .* still training heads fold 0", failure.message)
    assert stop_file(setting.run.folder / ".locks", "call1").exists()
