"""Locks between processes: two commands may share a run, never a job."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from ensemble.jobs.spec import JobSpec
from folds.errors import MaskensError


@contextlib.contextmanager
def lock_jobs(specs: Sequence[JobSpec]) -> Iterator[None]:
    """Hold a lock on each job. The system lets go of the locks when the process ends, however it ends.

    Raises:
        MaskensError: another process is at one of the jobs.
    """
    with contextlib.ExitStack() as stack:
        for spec in specs:
            try:
                stack.enter_context(_lock(spec.run.folder, f"{spec.task}-fold{spec.fold}", timeout=0))
            except Timeout:
                raise MaskensError(
                    f"another maskens is training {spec.task} fold {spec.fold} in {spec.run.folder}. "
                    "Wait for it, or leave that job out with --fold and --task."
                ) from None
        yield


@contextlib.contextmanager
def one_at_a_time(run: Path, name: str) -> Iterator[None]:
    """One process at a time; others wait.

    Args:
        run: folder of the run.
        name: of what is done meanwhile.
    """
    with _lock(run, name, timeout=-1):
        yield


def _lock(run: Path, name: str, timeout: float) -> FileLock:
    path = run / ".locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path, timeout=timeout)
