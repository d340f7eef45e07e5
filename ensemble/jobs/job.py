"""A job, one task and one fold of a run: its files, its status in job.json, and the checksums of its results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict

from folds.errors import MaskensError, typed
from folds.files import sha256_of_file
from folds.ranges import FULL, fold_folder, fold_name, in_short
from folds.records import read_record, write_record
from folds.run_folder import LAST, MODEL, OOF, FileIn, Run

State = Literal["waiting", "starting", "training", "done", "stopped", "failed", "unreadable"]
STATUS = "job.json"
GRAPH, GRAPH_RECORD = "graph.onnx", "graph.json"  # of the model, for other engines; models/kept_graphs.py
JOB_FILES = (MODEL, OOF)  # of a finished job, the last one written last; job.json has their checksums


@dataclass(frozen=True)
class JobStatus:
    """State of one job; job.json holds it, which the parent polls on any backend."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    task: str
    fold: int  # FULL for the model on everybody
    state: State = "waiting"
    epoch: int = 0  # finished epochs
    epochs: int = 0
    loss: float | None = None  # of the epoch so far
    f1: float | None = None  # after the last finished epoch
    best: float | None = None  # F1 of the epoch whose model is kept
    photos_per_s: float | None = None
    seconds_left: float | None = None
    seconds: float = 0.0  # training time so far, over all resumes
    error: str = ""
    note: str = ""  # a warning, e.g. of a precision that falls back
    record: dict[str, Any] = field(default_factory=dict)  # what the result came from: hashes, versions, device
    checksums: dict[str, str] = field(default_factory=dict)  # file -> sha256, once the job is finished
    batches: int = 0  # of the epoch after the finished ones, if they are saved


@dataclass(frozen=True)
class Job:
    """One task and one fold of a run, or FULL, its model on everybody: where its files are, and its state."""

    run: Run
    task: str
    fold: int

    model = FileIn(MODEL)
    oof = FileIn(OOF)
    last = FileIn(LAST)  # what an interrupted job resumes from
    status_file = FileIn(STATUS)
    history = FileIn("history.csv")
    log = FileIn("log.txt")
    error = FileIn("error.txt")

    def __str__(self) -> str:
        return f"{self.task} {fold_name(self.fold)}"

    @property
    def folder(self) -> Path:
        """Raises MaskensError: a link leads out of the run's folder."""
        return self.run.job_folder(self.task, self.fold)

    @property
    def name(self) -> str:
        """Its folder below that of the run: `mask/fold0`."""
        return f"{self.task}/{self.folder.name}"

    @property
    def files(self) -> tuple[str, ...]:
        """Those of JOB_FILES that it leaves: the model on everybody has nobody held out."""
        return (MODEL,) if self.fold == FULL else JOB_FILES

    def status(self) -> JobStatus:
        """job.json; `waiting` if the job has not begun, `unreadable` if the file is damaged or was edited."""
        if not self.status_file.exists():
            return JobStatus(self.task, self.fold)
        try:
            return read_record(self.status_file, JobStatus)
        except MaskensError:
            return JobStatus(self.task, self.fold, "unreadable")

    @property
    def resumable(self) -> bool:
        """Whether an epoch, or a part of one, is saved."""
        return self.last.exists()

    @property
    def trained(self) -> bool:
        """Whether it was trained to its end."""
        return (self.folder / self.files[-1]).exists()

    @property
    def complete(self) -> bool:
        """Whether all files of a finished job are there."""
        return self.model.exists() and self.trained

    @property
    def unfinished(self) -> bool:
        """Whether something is left to do. With all files it is finished, even without job.json."""
        return (self.resumable or not self.complete) and self.status().state != "done"

    def checksums(self) -> dict[str, str]:
        """sha256 of those of its files that are there, as they are now."""
        return {name: sha256_of_file(self.folder / name) for name in self.files if (self.folder / name).exists()}

    def verified_sha256(self, name: str) -> str:
        """The sha256 of one of its files, which must be there and as the job left it, as far as job.json records it.

        Only a finished job has checksums: while it is at work its files are replaced one by one. Raises MaskensError:
        the file is another."""
        path, status = self.folder / name, self.status()
        found, expected = sha256_of_file(path), status.checksums.get(name) if status.state == "done" else None
        if expected not in (None, found):
            raise MaskensError(
                f"{path} is damaged or was replaced: its sha256 is {found}, and in job.json it is {expected}. "
                f"Put the file back, or train that job again: {self.restart_command}"
            )
        return found

    def remove_leftovers(self) -> list[str]:
        """Remove what a finished job does not need; a line for each file that the system refuses to remove."""
        notes = []
        for path in (self.last, self.error):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                notes.append(f"can't remove {path} ({error.strerror}); it is of an earlier attempt, delete it")
        return notes

    @property
    def restart_command(self) -> str:
        """The command that trains it again."""
        run, fold = typed(self.run.folder), in_short([self.fold])
        return f"maskens train --run {run} --task {self.task} --fold {fold} --restart"


def write_status(run: Run, status: JobStatus) -> None:
    """Replace the job's status file, atomically."""
    write_record(Job(run, status.task, status.fold).status_file, status)


def jobs_of(run: Run, tasks: Iterable[str], folds: Iterable[int] | None = None) -> list[Job]:
    """The jobs of these tasks and folds, task by task; default: all folds."""
    return [Job(run, task, fold) for task in tasks for fold in (range(run.k) if folds is None else folds)]


def job_names(jobs: Sequence[Job], most: int = 6) -> str:
    """The first few jobs, and how many more there are."""
    more = f" and {len(jobs) - most} more" if len(jobs) > most else ""
    return ", ".join(map(str, jobs[:most])) + more


def trained_with(run: Run, key: str) -> list[Job]:
    """The jobs whose record has pseudo-labels or soft targets, by its key."""
    places = [f for f in run.jobs_on_disk() if f.name != fold_folder(FULL)]  # it is trained on labels alone
    jobs = [Job(run, f.parent.name, int(f.name.removeprefix("fold"))) for f in places]
    return [job for job in jobs if job.status().record.get(key)]


def unverified(run: Run, jobs: Iterable[Job]) -> list[str]:
    """A warning if some of these jobs have no checksums, as their job.json is not that of a finished job."""
    unsure = [str(job) for job in jobs if job.status().state != "done"]
    if not unsure:
        return []
    return [
        f"{run.folder}: job.json of {', '.join(unsure)} is missing, damaged or not of a finished job, so the files "
        "beside it can't be verified; they are used as they are"
    ]
