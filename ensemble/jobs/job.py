"""A job, one task and one fold of a run: its files, what job.json says of it, and the checksums of what it leaves."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter

from folds.errors import MaskensError, typed
from folds.files import sha256_of_file, still_there, write_json
from folds.run_folder import LAST, MODEL, OOF, Run

State = Literal["waiting", "starting", "training", "done", "stopped", "failed", "unreadable"]
STATUS = "job.json"
JOB_FILES = (MODEL, OOF)  # of a finished job; job.json has their checksums


@dataclass(frozen=True)
class JobStatus:
    """State of one job; job.json holds it, which the parent polls on any backend."""

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


@dataclass(frozen=True)
class Job:
    """One task and one fold of a run: where its files are, and what they say of its state."""

    run: Run
    task: str
    fold: int

    def __str__(self) -> str:
        return f"{self.task} fold {self.fold}"

    @property
    def folder(self) -> Path:
        """Raises MaskensError as `Run.job_folder`."""
        return self.run.job_folder(self.task, self.fold)

    @property
    def model(self) -> Path:
        return self.folder / MODEL

    @property
    def oof(self) -> Path:
        return self.folder / OOF

    @property
    def last(self) -> Path:
        """What an interrupted job resumes from."""
        return self.folder / LAST

    @property
    def status_file(self) -> Path:
        return self.folder / STATUS

    @property
    def history(self) -> Path:
        return self.folder / "history.csv"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def error(self) -> Path:
        return self.folder / "error.txt"

    @property
    def resumable(self) -> bool:
        """Whether a whole epoch, or a part of one, is saved to continue from."""
        return self.last.exists()

    @property
    def trained(self) -> bool:
        """Whether it was trained to its end: its out-of-fold logits are written last."""
        return self.oof.exists()

    @property
    def complete(self) -> bool:
        """Whether all files of a finished job are there."""
        return self.model.exists() and self.oof.exists()

    @property
    def unfinished(self) -> bool:
        """Whether it has something left to do. One whose files are all there is finished, even without job.json."""
        return (self.resumable or not self.complete) and self.status().state != "done"

    def status(self) -> JobStatus:
        """What job.json says; `waiting` if the job has not begun, `unreadable` if the file is damaged."""
        try:
            return _adapter().validate_json(self.status_file.read_bytes())
        except FileNotFoundError:
            return JobStatus(self.task, self.fold)
        except (OSError, ValueError):
            return JobStatus(self.task, self.fold, "unreadable")

    def checksums(self) -> dict[str, str]:
        """sha256 of each of its files as they are now; those that are missing are left out."""
        return {name: sha256_of_file(self.folder / name) for name in JOB_FILES if (self.folder / name).exists()}

    def verified_sha256(self, name: str) -> str:
        """The sha256 of one of its files, which must be there and as the job left it, as far as job.json tells.

        Only a finished job has checksums: while it is at work its files are replaced one by one.

        Raises:
            MaskensError: the file is another.
        """
        path, status = self.folder / name, self.status()
        found, expected = sha256_of_file(path), status.sha256.get(name, "") if status.state == "done" else ""
        if expected not in ("", found):
            raise MaskensError(
                f"{path} is damaged or was replaced: its sha256 is {found}, and job.json beside it says {expected}. "
                f"Put the file back, or train that job again: {self.restart_command}"
            )
        return found

    def remove_leftovers(self) -> list[str]:
        """Remove what it needs no more once it is finished; a line for each file that the system refuses to remove."""
        return [*filter(None, map(still_there, (self.last, self.error)))]

    @property
    def restart_command(self) -> str:
        """What trains it again."""
        return f"maskens train --run {typed(self.run.folder)} --task {self.task} --fold {self.fold} --restart"


def write_status(run: Run, status: JobStatus) -> None:
    """Replace the job's status file, atomically."""
    write_json(Job(run, status.task, status.fold).status_file, asdict(status))


@functools.cache
def _adapter() -> TypeAdapter[JobStatus]:
    return TypeAdapter(JobStatus)


def jobs_of(run: Run, tasks: Iterable[str], folds: Iterable[int] | None = None) -> list[Job]:
    """The jobs of these tasks and folds, task by task; all folds if none are named."""
    return [Job(run, task, fold) for task in tasks for fold in (range(run.k) if folds is None else folds)]


def job_names(jobs: Sequence[Job], most: int = 6) -> str:
    """Jobs in words, the first few of them."""
    more = f" and {len(jobs) - most} more" if len(jobs) > most else ""
    return ", ".join(map(str, jobs[:most])) + more


def learned_from(run: Run, key: str) -> list[Job]:
    """The jobs whose record has the key, of pseudo-labels or soft targets that they have learned from."""
    jobs = [Job(run, f.parent.name, int(f.name.removeprefix("fold"))) for f in run.jobs_on_disk()]
    return [job for job in jobs if key in job.status().record]


def unverified(run: Run, jobs: Iterable[Job]) -> list[str]:
    """A line if some of these jobs have no job.json that says they are finished, so that nothing vouches for them."""
    unsure = [str(job) for job in jobs if not _vouches(job.status())]
    if not unsure:
        return []
    return [
        f"{run.folder}: job.json of {', '.join(unsure)} is missing, damaged or not of a finished job, so whether the "
        "files beside it are whole can't be verified; they are used as they are"
    ]


def _vouches(status: JobStatus) -> bool:
    """Whether a job is finished and has checksums of all its files, or of none."""
    return status.state == "done" and status.sha256.keys() in (set(), set(JOB_FILES))
