"""Which jobs are finished, and which have begun."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ensemble.jobs.card import read_card
from ensemble.jobs.job import JobSpec, identity
from ensemble.jobs.oof import last_row, read_job_oof
from ensemble.jobs.status import (
    JOB_FILES,
    JobStatus,
    job_checksums,
    job_file,
    read_status,
    remove_leftovers,
    restart_command,
    write_status,
)
from folds.errors import MaskensError, first_line, refuse

MAY_DIFFER = {"pseudo", "soft_targets", "skipped"}  # keys of a job's identity that only some jobs have


def is_done(spec: JobSpec) -> bool:
    """Whether a job is finished, with this recipe, seed and folds."""
    status = read_status(spec.run, spec.task, spec.fold)
    folder = spec.run.job_folder(spec.task, spec.fold)
    there = all((folder / name).exists() for name in JOB_FILES)
    return status.state == "done" and _same(spec, status.record) and there


def _same(spec: JobSpec, record: Mapping[str, Any]) -> bool:
    known = identity(spec)
    return all(record.get(key) == known.get(key) for key in {*known, *MAY_DIFFER})


def restore(specs: Sequence[JobSpec]) -> list[str]:
    """Write a job.json that is damaged or gone anew where the files beside it say that the job is finished, and remove
    what a finished job needs no more and a crash has left.

    Returns:
        What to say of it.

    Raises:
        MaskensError: files of a finished job that don't: training would replace them.
    """
    notes, problems = [], []
    for spec in specs:
        if is_done(spec):
            notes += remove_leftovers(spec.run, spec.task, spec.fold)
            continue
        folder, file = spec.run.job_folder(spec.task, spec.fold), job_file(spec.run, spec.task, spec.fold)
        left = [name for name in JOB_FILES if (folder / name).exists()]
        if read_status(spec.run, spec.task, spec.fold).state != "unreadable" and (file.exists() or not left):
            continue
        if (folder / "last.pt").exists() and "oof.npz" not in left:
            continue  # unfinished; what it goes on from says whose it is
        try:
            if not left:
                continue
            write_status(spec.run, _confirmed(spec))
            notes.append(f"{file} was damaged or gone; it is made anew from the files beside it, which fit this run")
        except MaskensError as error:
            again = restart_command(spec.run, spec.task, spec.fold)
            problems.append(f"{file}: {first_line(error)}. Put it back, or train the job again: {again}")
    refuse(problems, "finished jobs whose job.json is damaged or gone, and whose other files can't vouch for them")
    return notes


def _confirmed(spec: JobSpec) -> JobStatus:
    """The status of a finished job, from its files.

    Raises:
        MaskensError: one of them is missing, damaged or not of this job.
    """
    folder = spec.run.job_folder(spec.task, spec.fold)
    card = read_card(folder / "model.safetensors")
    _, record = read_job_oof(folder / "oof.npz")
    known = {key: value for key, value in identity(spec).items() if hasattr(card, key)}
    if not _same(spec, record) or any(getattr(card, key) != value for key, value in known.items()):
        raise MaskensError("they are of another recipe, seed or folds")
    epochs, row = spec.recipe.tasks[spec.task].epochs, last_row(folder)
    if row.get("epoch") != epochs:
        raise MaskensError(f"history.csv does not end with epoch {epochs}")
    sha256 = job_checksums(spec.run, spec.task, spec.fold)
    return JobStatus(
        *(spec.task, spec.fold, "done", epochs, epochs),
        loss=row["loss"],
        f1=row["f1"],
        best=card.f1,
        photos_per_s=row["photos_per_s"],
        seconds=row["seconds"],
        record=record,
        sha256=sha256,
    )


def unfinished(specs: Sequence[JobSpec]) -> list[JobSpec]:
    """The jobs that have something left to do."""
    return [s for s in specs if not is_done(s)]


def begun(specs: Sequence[JobSpec]) -> set[str]:
    """The tasks all of whose jobs have a whole epoch to go on from."""
    fresh = {s.task for s in specs if not (s.run.job_folder(s.task, s.fold) / "last.pt").exists()}
    return {s.task for s in specs} - fresh
