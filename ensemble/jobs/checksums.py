"""Checksums of a finished job's files: kept in job.json, and held against the files when these are read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from ensemble.jobs.status import JobStatus, read_status
from folds.errors import MaskensError, typed
from folds.files import sha256_of_file
from folds.run import Run

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


def restart_command(run: Run, task: str, fold: int) -> str:
    """What trains a job again."""
    return f"maskens train --run {typed(run.folder)} --task {task} --fold {fold} --restart"
