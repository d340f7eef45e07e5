"""Taking over finished jobs of another run, where they would come out the same here."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ensemble.job import JobSpec
from ensemble.train import is_done
from folds.errors import MaskensError
from folds.run import Run, load_run


def take_over(specs: Sequence[JobSpec], source: Path) -> int:
    """Copy the jobs that `source` has finished with the same task recipe, folds, data and seed.

    A job's result depends on nothing else (but for the last digits: threads and device). Jobs that this run
    has begun stay its own.

    Returns:
        How many jobs were copied.

    Raises:
        MaskensError: `source` is no run, is this very run, or was dealt other folds.
    """
    other = load_run(source)
    taken = 0
    for run in {spec.run.folder: spec.run for spec in specs}.values():
        _refuse_unlike(run, other)
    for spec in specs:
        run, folder = spec.run, spec.run.job_folder(spec.task, spec.fold)
        begun = folder in run.jobs_on_disk()
        there = JobSpec(other, spec.recipe, spec.task, spec.fold, spec.device, 0, 1, None)
        if begun or not is_done(there):
            continue
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".taking-", dir=folder.parent))
        try:
            shutil.copytree(other.job_folder(spec.task, spec.fold), scratch, dirs_exist_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(scratch, folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        taken += 1
    return taken


def _refuse_unlike(run: Run, other: Run) -> None:
    if other.folder.resolve() == run.folder.resolve():
        raise MaskensError(f"--reuse {other.folder}: that is this run itself; finished jobs are kept anyway.")
    unlike = [
        name
        for name, here, there in (
            ("data", run.fingerprint, other.fingerprint),
            ("folds", run.folds_hash, other.folds_hash),
            ("seed", run.seed, other.seed),
        )
        if here != there
    ]
    if unlike:
        raise MaskensError(f"--reuse {other.folder}: it has other {' and '.join(unlike)} than {run.folder}.")
