"""What a job reports: job.json, which the parent polls on any backend, and the checksums of its files."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter

from folds.errors import MaskensError, typed
from folds.files import sha256_of_file, still_there, write_json
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


JobFile = Literal["model.safetensors", "oof.npz"]
JOB_FILES: tuple[JobFile, ...] = ("model.safetensors", "oof.npz")


def job_checksums(run: Run, task: str, fold: int) -> dict[str, str]:
    """sha256 of each of a job's files as they are now; those that are missing are left out."""
    folder = run.job_folder(task, fold)
    return {name: sha256_of_file(folder / name) for name in JOB_FILES if (folder / name).exists()}


def expected_checksum(run: Run, task: str, fold: int, name: JobFile) -> str:
    """What job.json says that a file's sha256 is; "" where it does not say.

    Only a finished job says so: while it is at work its files are replaced one by one. Jobs of maskens 0.5 and before
    never do.
    """
    status = read_status(run, task, fold)
    return status.sha256.get(name, "") if status.state == "done" else ""


def verified_sha256(run: Run, task: str, fold: int, name: JobFile) -> str:
    """The sha256 of a job's file, which must be there and as the job left it, as far as job.json tells.

    Raises:
        MaskensError: the file is another.
    """
    path = run.job_folder(task, fold) / name
    found, expected = sha256_of_file(path), expected_checksum(run, task, fold, name)
    if expected not in ("", found):
        raise MaskensError(
            f"{path} is damaged or was replaced: its sha256 is {found}, and job.json beside it says {expected}. "
            f"Put the file back, or train that job again: {restart_command(run, task, fold)}"
        )
    return found


def unverified(run: Run, jobs: Iterable[tuple[str, int]]) -> list[str]:
    """A line if some of these jobs have no job.json that says they are finished, so that nothing vouches for them."""
    unsure = [f"{task} fold {fold}" for task, fold in jobs if not _vouches(read_status(run, task, fold))]
    if not unsure:
        return []
    return [
        f"{run.folder}: job.json of {', '.join(unsure)} is missing, damaged or not of a finished job, so whether the "
        "files beside it are whole can't be verified; they are used as they are"
    ]


def _vouches(status: JobStatus) -> bool:
    """Whether a job is finished and has checksums of all its files, or of none as those of maskens 0.5 and before."""
    return status.state == "done" and status.sha256.keys() in (set(), set(JOB_FILES))


def remove_leftovers(run: Run, task: str, fold: int) -> list[str]:
    """Remove what a job needs no more once it is finished; a line for each file that the system refuses to remove."""
    folder = run.job_folder(task, fold)
    return [*filter(None, map(still_there, (folder / "last.pt", folder / "error.txt")))]


def restart_command(run: Run, task: str, fold: int) -> str:
    """What trains a job again."""
    return f"maskens train --run {typed(run.folder)} --task {task} --fold {fold} --restart"
