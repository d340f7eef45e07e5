"""Finished jobs: which there are, a lost job.json made anew, and jobs copied from another run."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ensemble.jobs.card import ModelCard, read_card
from ensemble.jobs.job import Job, JobStatus, jobs_of, write_status
from ensemble.jobs.locks import lock_jobs
from ensemble.jobs.oof import read_job_oof
from ensemble.jobs.spec import JobSpec, identity
from folds.errors import MaskensError, first_line, refuse
from folds.files import replacing_folder
from folds.ranges import FULL
from folds.run_folder import Run, differing, library_versions

DECISIVE = ("torch", "timm", "albumentations")  # libraries whose versions decide a result


def job_epochs(spec: JobSpec, restart: bool = False) -> int:
    """Epochs that a job trains: the recipe's; of the model on everybody those of `full_epochs`, before a deadline those
    that it has time for; and once it has begun those that it began with, unless it is to `restart`."""
    if not restart and spec.job.resumable and (begun := spec.job.status().epochs):
        return begun
    planned = spec.epochs or spec.task_recipe.epochs
    return (spec.fold == FULL and full_epochs(spec.run, spec.task)) or planned


def full_epochs(run: Run, task: str) -> int | None:
    """The median of the best epochs of a task's finished folds, rounded up; None without any. Raises MaskensError: a
    damaged checkpoint."""
    best = [card.epoch for card in _fold_cards(run, task)]
    return math.ceil(statistics.median(best)) if best else None


def full_schedule(spec: JobSpec) -> int:
    """Epochs of the learning-rate schedule of the model on everybody: the most of a finished fold, which a deadline may
    have left fewer than the recipe's."""
    whole = spec.task_recipe.epochs
    return max((card.epochs or whole for card in _fold_cards(spec.run, spec.task)), default=whole)


def _fold_cards(run: Run, task: str) -> list[ModelCard]:
    return [read_card(job.model) for job in jobs_of(run, [task]) if job.complete]


def is_done(spec: JobSpec) -> bool:
    """Whether a job is finished, with this recipe, seed and folds."""
    status = spec.job.status()
    return status.state == "done" and _same(spec, status.record) and spec.job.complete


def _same(spec: JobSpec, record: Mapping[str, Any]) -> bool:
    return all(record.get(key) == value for key, value in identity(spec).items())


def unfinished(specs: Sequence[JobSpec]) -> list[JobSpec]:
    """The jobs that have something left to do."""
    return [s for s in specs if not is_done(s)]


def begun(specs: Sequence[JobSpec]) -> set[str]:
    """The tasks all of whose jobs have something saved to resume from."""
    return {s.task for s in specs} - {s.task for s in specs if not s.job.resumable}


def restore(specs: Sequence[JobSpec]) -> list[str]:
    """Write a job.json that is damaged or gone anew where the files beside it are those of the finished job, and remove
    what a crash has left of finished jobs. Returns notes. Raises MaskensError where the other files are of something
    else: training would replace them."""
    notes, problems = [], []
    for spec in specs:
        job, file = spec.job, spec.job.status_file
        if is_done(spec):
            notes += job.remove_leftovers()
        lost = not file.exists() or job.status().state == "unreadable"
        if not lost or not (job.trained or (job.model.exists() and not job.resumable)):
            continue  # an unfinished job resumes from a file that has its identity
        try:
            if spec.fold == FULL:
                raise MaskensError("nothing else records what the model was trained from")
            card, (oof, record) = read_card(job.model), read_job_oof(job.oof)
            known = {key: value for key, value in identity(spec).items() if hasattr(card, key)}
            if not _same(spec, record) or any(getattr(card, key) != value for key, value in known.items()):
                raise MaskensError("the files beside it are of another recipe, seed or folds")
            n, sums = len(oof.logits), job.checksums()
            done = JobStatus(spec.task, spec.fold, "done", n, n, best=card.f1, record=record, checksums=sums)
            write_status(spec.run, done)
            notes.append(f"{file} was damaged or missing and is made anew: the files beside it are of this job")
        except MaskensError as error:
            again = job.restart_command
            problems.append(f"{file}: {first_line(error)}. Put it back, or train the job again: {again}")
    refuse(problems, "finished jobs whose job.json is damaged or missing and can't be made anew")
    return notes


def reuse_jobs(specs: Sequence[JobSpec], source: Run) -> int:
    """Copy the jobs of one run that `source` has finished with the same task recipe, folds, data, seed and libraries;
    returns how many. Threads and device, on which only the last digits depend, may differ. Jobs that this run has begun
    stay its own.

    Raises MaskensError: `source` is this very run, has other data, folds or seed, or a job whose files are not as it
    left them; or another process is at one of the jobs."""
    if not specs:
        return 0
    run = specs[0].run
    if source.folder.resolve() == run.folder.resolve():
        raise MaskensError(f"--reuse {source.folder}: that is this run itself; finished jobs are kept anyway.")
    if unlike := differing(run, source, "data", "folds", "seed", "skipped photos"):
        raise MaskensError(f"--reuse {source.folder}: it has other {unlike} than {run.folder}.")
    on_disk = run.jobs_on_disk()
    with lock_jobs(specs):
        alike = [s for s in specs if s.job.folder not in on_disk and _done_alike(s, source)]
        for spec in alike:
            theirs = Job(source, spec.task, spec.fold).folder
            with replacing_folder(spec.job.folder) as build:
                for path in sorted(theirs.rglob("*")):
                    copy = build / path.relative_to(theirs)
                    if path.is_dir():
                        copy.mkdir()
                    else:  # without its mode, which some file systems refuse to set
                        shutil.copyfile(path, copy)
    return len(alike)


def _done_alike(spec: JobSpec, source: Run) -> bool:
    """Raises MaskensError: the job's files in `source` are not as it left them."""
    there = dataclasses.replace(spec, run=source)
    theirs, ours = there.job.status().record.get("versions", {}), library_versions()
    if not is_done(there) or any(theirs.get(name) != ours[name] for name in DECISIVE):
        return False
    for name in there.job.files:
        there.job.verified_sha256(name)
    if spec.fold == FULL:
        return there.job.status().epoch == job_epochs(there)
    return set(spec.recipe.oof_views) <= set(read_job_oof(there.job.oof)[0].views)


def once_each(specs: Sequence[JobSpec]) -> tuple[list[JobSpec], list[JobSpec]]:
    """Of jobs of several runs (the first of each kind, later ones that come out the same and have not begun)."""
    kinds: set[str] = set()
    first: list[JobSpec] = []
    later: list[JobSpec] = []
    for spec in specs:
        (later if _kind(spec) in kinds and not spec.job.resumable else first).append(spec)
        kinds.add(_kind(spec))
    return first, later


def reuse_among(todo: Sequence[JobSpec], jobs: Sequence[JobSpec]) -> int:
    """Copy jobs of `todo` that another run among those of `jobs` has finished; returns how many. Raises MaskensError:
    another process is at one of the jobs."""
    copied = 0
    for folder in dict.fromkeys(s.run.folder for s in todo):
        mine = [s for s in todo if s.run.folder == folder]
        kinds = set(map(_kind, mine))
        sources = {s.run.folder: s.run for s in jobs if s.run.folder != folder and _kind(s) in kinds and is_done(s)}
        copied += sum(reuse_jobs(mine, source) for source in sources.values())
    return copied


def _kind(spec: JobSpec) -> str:
    return json.dumps([identity(spec), spec.recipe.oof_views])
