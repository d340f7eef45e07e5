"""What a job tells the outside: a small file in its folder that the parent polls on any backend."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter

from folds.files import write_json
from folds.run import Run

State = Literal["waiting", "starting", "training", "done", "stopped", "failed", "unreadable"]


@dataclass(frozen=True)
class JobStatus:
    """State of one job; job.json holds it."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    task: str
    fold: int
    state: State = "waiting"
    epoch: int = 0  # finished epochs
    epochs: int = 0
    loss: float | None = None  # of the epoch so far
    f1: float | None = None  # after the last finished epoch
    best: float | None = None
    photos_per_s: float | None = None
    seconds_left: float | None = None
    seconds: float = 0.0  # training time so far, over all resumes
    error: str = ""
    note: str = ""  # what the user should know though all goes on, e.g. a precision that falls back
    record: dict[str, Any] = field(default_factory=dict)  # what the result came from: hashes, versions, device
    sha256: dict[str, str] = field(default_factory=dict)  # file -> hex digest, once the job is finished
    batches: int = 0  # of the epoch after the finished ones, if what it has learned is saved


def job_file(run: Run, task: str, fold: int) -> Path:
    """Where a job's status lies."""
    return run.job_folder(task, fold) / "job.json"


def write_status(run: Run, status: JobStatus) -> None:
    """Replace the job's status file, atomically."""
    write_json(job_file(run, status.task, status.fold), asdict(status))


def read_status(run: Run, task: str, fold: int) -> JobStatus:
    """The job's status; `waiting` if it has not begun, `unreadable` if its file is damaged."""
    try:
        return _adapter().validate_json(job_file(run, task, fold).read_bytes())
    except FileNotFoundError:
        return JobStatus(task, fold)
    except (OSError, ValueError):
        return JobStatus(task, fold, "unreadable")


def learned_from(run: Run, key: str) -> list[tuple[str, int]]:
    """The jobs whose record has the key, of pseudo-labels or soft targets that they have learned from: each in words,
    and its fold."""
    jobs = [(folder.parent.name, int(folder.name.removeprefix("fold"))) for folder in run.jobs_on_disk()]
    return [(f"{task} fold {fold}", fold) for task, fold in jobs if key in read_status(run, task, fold).record]


@functools.cache
def _adapter() -> TypeAdapter[JobStatus]:
    return TypeAdapter(JobStatus)
