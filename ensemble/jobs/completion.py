"""Which jobs are finished, and which have begun."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ensemble.jobs.card import read_card
from ensemble.jobs.job import JobStatus, write_status
from ensemble.jobs.oof import last_row, read_job_oof
from ensemble.jobs.spec import JobSpec, identity
from folds.errors import MaskensError, first_line, refuse

MAY_DIFFER = {"pseudo", "soft_targets", "skipped"}  # keys of a job's identity that only some jobs have


def is_done(spec: JobSpec) -> bool:
    """Whether a job is finished, with this recipe, seed and folds."""
    status = spec.job.status()
    return status.state == "done" and _same(spec, status.record) and spec.job.complete


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
        job, file = spec.job, spec.job.status_file
        if is_done(spec):
            notes += job.remove_leftovers()
        if not (job.model.exists() or job.trained) or (file.exists() and job.status().state != "unreadable"):
            continue
        if job.resumable and not job.trained:
            continue  # unfinished; what it goes on from says whose it is
        try:
            write_status(spec.run, _confirmed(spec))
            notes.append(f"{file} was damaged or gone; it is made anew from the files beside it, which fit this run")
        except MaskensError as error:
            again = job.restart_command
            problems.append(f"{file}: {first_line(error)}. Put it back, or train the job again: {again}")
    refuse(problems, "finished jobs whose job.json is damaged or gone, and whose other files can't vouch for them")
    return notes


def _confirmed(spec: JobSpec) -> JobStatus:
    """The status of a finished job, from its files.

    Raises:
        MaskensError: one of them is missing, damaged or not of this job.
    """
    card = read_card(spec.job.model)
    _, record = read_job_oof(spec.job.oof)
    known = {key: value for key, value in identity(spec).items() if hasattr(card, key)}
    if not _same(spec, record) or any(getattr(card, key) != value for key, value in known.items()):
        raise MaskensError("they are of another recipe, seed or folds")
    epochs, row = spec.recipe.tasks[spec.task].epochs, last_row(spec.job)
    if row.get("epoch") != epochs:
        raise MaskensError(f"history.csv does not end with epoch {epochs}")
    return JobStatus(
        *(spec.task, spec.fold, "done", epochs, epochs),
        loss=row["loss"],
        f1=row["f1"],
        best=card.f1,
        photos_per_s=row["photos_per_s"],
        seconds=row["seconds"],
        record=record,
        sha256=spec.job.checksums(),
    )


def unfinished(specs: Sequence[JobSpec]) -> list[JobSpec]:
    """The jobs that have something left to do."""
    return [s for s in specs if not is_done(s)]


def begun(specs: Sequence[JobSpec]) -> set[str]:
    """The tasks all of whose jobs have a whole epoch to go on from."""
    return {s.task for s in specs} - {s.task for s in specs if not s.job.resumable}
