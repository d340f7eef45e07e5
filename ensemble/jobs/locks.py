"""Locks between processes: two commands may share a run, never a job.

A lock is the system's own and is gone with its process, but a shared file system may keep it from other nodes. So the
process that does a job's work also claims it, in a file: the last claim counts, and who finds another's writes no more.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ensemble.jobs.spec import JobSpec
from ensemble.jobs.stopping import CALL_VARIABLE, stop_file
from folds.errors import MaskensError
from folds.files import read_json, write_json
from folds.ranges import fold_folder

OTHER_FILES = 512  # that a process may have open besides locks
WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP}  # errors of file systems without locks
ENDING = 120.0  # seconds in which a process whose command was killed saves its work and ends


class TakenOver(MaskensError):
    """Another process has claimed the job."""


@dataclass(frozen=True)
class Claim:
    """A process's claim on a job."""

    lock: Path
    token: str

    def refuse_taken_over(self) -> None:
        """Raises TakenOver: another process has claimed the job. A file that can't be read claims nothing."""
        if _read(self.lock).get("token", self.token) != self.token:
            raise TakenOver(f"another process has taken the job over{_holder(self.lock)}; nothing more is saved here.")


@contextlib.contextmanager
def lock_jobs(specs: Sequence[JobSpec]) -> Iterator[None]:
    """Hold a lock on each job. The system lets go of the locks when the process ends, however it ends, so none is ever
    stale. Raises MaskensError: another process is at one of the jobs."""
    with contextlib.suppress(ValueError, OSError):
        # a lock is an open file, and a sweep may have more than the 1,024 that a process usually may open
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = len(specs) + OTHER_FILES
        if soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard < 0 else min(wanted, hard), hard))
    with contextlib.ExitStack() as stack:
        for spec in specs:
            path = _file(spec)
            try:
                stack.enter_context(_lock(path, 0))
            except Timeout:
                raise MaskensError(
                    f"another maskens is training {spec.job} in {spec.run.folder}{_holder(path)}. "
                    "Wait for it, or train other folds or tasks meanwhile."
                ) from None
            _sign(path)
        yield


@contextlib.contextmanager
def lock_job_process(spec: JobSpec) -> Iterator[Claim]:
    """Hold the lock of the process that does a job's work, and claim the job. A process that outlives its command is
    waited for; on a cluster's node, where it would train to the end of its job, it is asked to stop. Raises
    MaskensError: it does not end."""
    path = _file(spec, ".process")
    try:
        try:
            lock = _lock(path, 0)
        except Timeout:
            if call := _read(path).get("call"):
                stop_file(path.parent, call).touch()
            lock = _lock(path, ENDING)
    except Timeout:
        raise MaskensError(
            f"the process{_holder(path)} that an earlier command left is still training {spec.job}. "
            "End it and run again."
        ) from None
    with lock:
        yield Claim(path, _sign(path))


def lock_measurements(run: Path) -> contextlib.AbstractContextManager[object]:
    """One process at a time measures a precision or batch size for a run; others wait."""
    return _lock(lock_folder(run) / "precision", -1)


def _lock(path: Path, seconds: float) -> contextlib.AbstractContextManager[object]:
    """A lock, held until its block ends; nothing on a file system without locks. Raises Timeout: another holds it."""
    try:
        return FileLock(path).acquire(timeout=seconds)
    except NotImplementedError:
        pass
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
    return contextlib.nullcontext()


def lock_folder(run: Path) -> Path:
    """The folder of locks and notes of a run's processes; it is made."""
    folder = run / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _file(spec: JobSpec, ending: str = "") -> Path:
    return lock_folder(spec.run.folder) / f"{spec.task}-{fold_folder(spec.fold)}{ending}"


def _sign(lock: Path) -> str:
    """Write beside a lock who holds it; returns a token of this holder alone."""
    token = uuid.uuid4().hex
    who = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.ctime(), "token": token}
    write_json(lock.with_name(f"{lock.name}.json"), who | {"call": os.environ.get(CALL_VARIABLE, "")})
    return token


def _read(lock: Path) -> dict[str, Any]:
    """Who holds a lock, as far as that is known."""
    try:
        found = read_json(lock.with_name(f"{lock.name}.json"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _holder(lock: Path) -> str:
    """` (process 12 on host, since ...)`, as far as that is known."""
    match _read(lock):
        case {"pid": pid, "host": host, "since": since}:
            return f" (process {pid} on {host}, since {since})"
    return ""
