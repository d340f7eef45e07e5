"""Taking over finished jobs of another run, where they would come out the same here."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence

from ensemble.jobs.completion import is_done
from ensemble.jobs.job import JOB_FILES, Job
from ensemble.jobs.locks import lock_jobs
from ensemble.jobs.oof import kept_views
from ensemble.jobs.spec import JobSpec, identity
from folds.errors import MaskensError
from folds.files import replacing_folder
from folds.run_folder import Run, differing, library_versions

DECISIVE = ("torch", "timm", "albumentations")  # libraries whose versions decide a result


def reuse_jobs(specs: Sequence[JobSpec], source: Run) -> int:
    """Copy the jobs that `source` has finished with the same task recipe, folds, data, seed and libraries.

    A job's result depends on nothing else (but for the last digits: threads and device). Jobs that this run
    has begun stay its own.

    Args:
        specs: jobs of one run.

    Returns:
        How many jobs were copied.

    Raises:
        MaskensError: `source` is this very run, has other data, folds or seed, or a job whose files are not as
            it left them; or another process is at one of the jobs.
    """
    if not specs:
        return 0
    run = specs[0].run
    _refuse_unlike(run, source)
    begun, versions = run.jobs_on_disk(), library_versions()
    with lock_jobs(specs):
        alike = [s for s in specs if s.job.folder not in begun and _done_alike(s, source, versions)]
        for spec in alike:
            for name in JOB_FILES:
                Job(source, spec.task, spec.fold).verified_sha256(name)
        for spec in alike:
            _copy(spec, source)
    return len(alike)


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
    """Copy jobs that another run among those of `jobs` has finished; as `reuse_jobs`, for jobs of several runs."""
    copied = 0
    for folder in dict.fromkeys(s.run.folder for s in todo):
        mine = [s for s in todo if s.run.folder == folder]
        kinds = set(map(_kind, mine))
        sources = {s.run.folder: s.run for s in jobs if s.run.folder != folder and _kind(s) in kinds and is_done(s)}
        copied += sum(reuse_jobs(mine, source) for source in sources.values())
    return copied


def _kind(spec: JobSpec) -> str:
    return json.dumps([identity(spec), spec.recipe.oof_views])


def _done_alike(spec: JobSpec, source: Run, versions: Mapping[str, str]) -> bool:
    there = dataclasses.replace(spec, run=source)
    theirs = there.job.status().record.get("versions", {})
    same = all(theirs.get(name) == versions[name] for name in DECISIVE)
    return is_done(there) and same and set(spec.recipe.oof_views) <= set(kept_views(there.job.oof))


def _copy(spec: JobSpec, source: Run) -> None:
    theirs = Job(source, spec.task, spec.fold).folder
    with replacing_folder(spec.job.folder) as build:
        for path in sorted(theirs.rglob("*")):
            copy = build / path.relative_to(theirs)
            if path.is_dir():
                copy.mkdir()
            else:  # without its mode, which some file systems refuse to set
                shutil.copyfile(path, copy)


def _refuse_unlike(run: Run, source: Run) -> None:
    if source.folder.resolve() == run.folder.resolve():
        raise MaskensError(f"--reuse {source.folder}: that is this run itself; finished jobs are kept anyway.")
    unlike = differing(run, source, "data", "folds", "seed", "skipped photos")
    if unlike:
        raise MaskensError(f"--reuse {source.folder}: it has other {unlike} than {run.folder}.")
