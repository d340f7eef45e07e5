"""Which jobs are finished, and which have begun."""

from __future__ import annotations

from collections.abc import Sequence

from ensemble.jobs.spec import JobSpec, identity
from ensemble.jobs.status import read_status


def is_done(spec: JobSpec) -> bool:
    """Whether a job is finished, with this recipe, seed and folds."""
    status = read_status(spec.run, spec.task, spec.fold)
    known = identity(spec)
    same = all(status.record.get(k) == known.get(k) for k in {*known, "pseudo", "soft_targets", "skipped"})
    folder = spec.run.job_folder(spec.task, spec.fold)
    return status.state == "done" and same and (folder / "model.safetensors").exists() and (folder / "oof.npz").exists()


def unfinished(specs: Sequence[JobSpec]) -> list[JobSpec]:
    """The jobs that have something left to do."""
    return [s for s in specs if not is_done(s)]


def begun(specs: Sequence[JobSpec]) -> set[str]:
    """The tasks all of whose jobs have a whole epoch to go on from."""
    fresh = {s.task for s in specs if not (s.run.job_folder(s.task, s.fold) / "last.pt").exists()}
    return {s.task for s in specs} - fresh
