"""Locks between processes: two commands may share a run, never a job."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from ensemble.jobs.spec import JobSpec
from folds.errors import MaskensError
from folds.files import write_json

ENDING = 120.0  # seconds in which a process whose command was killed saves its work and ends


@contextlib.contextmanager
def lock_jobs(specs: Sequence[JobSpec]) -> Iterator[None]:
    """Hold a lock on each job. The system lets go of the locks when the process ends, however it ends, so none is ever
    stale.

    Raises:
        MaskensError: another process is at one of the jobs.
    """
    with contextlib.ExitStack() as stack:
        for spec in specs:
            path = _file(spec.run.folder, _name(spec))
            try:
                stack.enter_context(FileLock(path, timeout=0))
            except Timeout:
                raise MaskensError(
                    f"another maskens is training {spec.task} fold {spec.fold} in {spec.run.folder}{_holder(path)}. "
                    "Wait for it, or leave that job out with --fold and --task."
                ) from None
            _sign(path)
        yield


@contextlib.contextmanager
def lock_job_process(spec: JobSpec) -> Iterator[None]:
    """Hold the lock of the process that does a job's work: one that outlives its command is waited for.

    Raises:
        MaskensError: it does not end.
    """
    path = _file(spec.run.folder, f"{_name(spec)}.process")
    try:
        lock = FileLock(path, timeout=ENDING)
        lock.acquire()
    except Timeout:
        raise MaskensError(
            f"the process{_holder(path)} of an earlier maskens, which is gone, is still at {spec.task} fold "
            f"{spec.fold}: end it and run again."
        ) from None
    try:
        _sign(path)
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def one_at_a_time(run: Path, name: str) -> Iterator[None]:
    """One process at a time; others wait.

    Args:
        run: folder of the run.
        name: of what is done meanwhile.
    """
    with FileLock(_file(run, name), timeout=-1):
        yield


def _name(spec: JobSpec) -> str:
    return f"{spec.task}-fold{spec.fold}"


def _file(run: Path, name: str) -> Path:
    path = run / ".locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _signature(lock: Path) -> Path:
    return lock.with_name(f"{lock.name}.json")


def _sign(lock: Path) -> None:
    """Say beside a lock who holds it."""
    write_json(_signature(lock), {"pid": os.getpid(), "host": socket.gethostname(), "since": time.ctime()})


def _holder(lock: Path) -> str:
    """` (process 12 on host, since ...)`, as far as that is known."""
    try:
        who = json.loads(_signature(lock).read_text(encoding="utf-8"))
        return f" (process {who['pid']} on {who['host']}, since {who['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
