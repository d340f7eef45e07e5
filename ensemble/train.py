"""Many jobs: which are to be done, in what order, and a view of them while they run."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import joblib
import torch

from ensemble.cache import Progress, open_photos
from ensemble.job import Failure, JobSpec, geometry, identity, run_job
from ensemble.recipe import Recipe
from ensemble.status import JobStatus, read_status, write_status
from folds.errors import MaskensError, did_you_mean
from folds.labels import IntArray
from folds.layout import TrainData
from folds.run import Run


class JobsView(Protocol):
    """Shows the jobs' states; called a few times a second from one thread."""

    def update(self, statuses: Sequence[JobStatus]) -> None: ...


@dataclass(frozen=True)
class Hardware:
    """Where and how wide jobs run."""

    device: str  # cpu, cuda
    workers: int | None  # loader processes a job; None lets maskens choose
    jobs: int = 1  # jobs at a time

    @property
    def cores(self) -> int:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    @property
    def job_workers(self) -> int:
        """None on a CPU, where they would take the model's cores away; for a GPU what the cores give, up to 8."""
        if self.workers is not None:
            return self.workers
        return 0 if self.device == "cpu" else min(8, max(1, self.cores // self.jobs))

    @property
    def job_threads(self) -> int:
        """Arithmetic threads of a job: OMP_NUM_THREADS, or the job's share of the cores."""
        asked = os.environ.get("OMP_NUM_THREADS", "")
        return int(asked) if asked.isdecimal() and int(asked) > 0 else max(1, self.cores // self.jobs)

    @property
    def decoders(self) -> int:
        """Threads that decode photos for the cache."""
        return self.workers or self.cores

    def device_of(self, number: int) -> str:
        """GPUs are dealt in turn, one a job."""
        if self.device == "cuda" and torch.cuda.device_count() > 1:
            return f"cuda:{number % torch.cuda.device_count()}"
        return self.device


def select_tasks(recipe: Recipe, asked: Sequence[str]) -> list[str]:
    """The tasks named, in the recipe's order; all if none is.

    Raises:
        MaskensError: a task that the recipe has not.
    """
    names = [n for item in asked for n in item.split(",")]
    for name in names:
        if name not in recipe.tasks:
            raise MaskensError(
                f"--task {name}: the recipe '{recipe.name}' has no such task{did_you_mean(name, recipe.tasks)}; "
                f"it has {', '.join(recipe.tasks)}."
            )
    return [t for t in recipe.tasks if not names or t in names]


def plan(
    run: Run,
    recipe: Recipe,
    tasks: Sequence[str],
    folds: Sequence[int],
    hardware: Hardware,
    cache: Path | None,
) -> list[JobSpec]:
    """One job for each fold and task, fold by fold, so that the first whole fold is ready early."""
    pairs = [(t, f) for f in folds for t in tasks]
    return [
        JobSpec(run, recipe, t, f, hardware.device_of(i), hardware.job_workers, hardware.job_threads, cache)
        for i, (t, f) in enumerate(pairs)
    ]


def is_done(spec: JobSpec) -> bool:
    """Whether a job is finished, with this recipe, seed and folds."""
    status = read_status(spec.run, spec.task, spec.fold)
    same = all(status.record.get(k) == v for k, v in identity(spec).items())
    folder = spec.run.job_folder(spec.task, spec.fold)
    return status.state == "done" and same and (folder / "model.safetensors").exists() and (folder / "oof.npz").exists()


def unfinished(specs: Sequence[JobSpec], restart: bool = False) -> list[JobSpec]:
    """The jobs that have something left to do; with `restart` all, from nothing."""
    if restart:
        for spec in specs:
            shutil.rmtree(spec.run.job_folder(spec.task, spec.fold), ignore_errors=True)
        return list(specs)
    return [s for s in specs if not is_done(s)]


def fill_cache(specs: Sequence[JobSpec], data: TrainData, hardware: Hardware, on_progress: Progress | None) -> None:
    """Decode what the jobs' photos need, once for all of them; unreadable photos are refused here."""
    if specs:
        wanted = list(dict.fromkeys(geometry(s.recipe.tasks[s.task]) for s in specs))
        open_photos(data.root, data.files, data.fingerprint, wanted, specs[0].cache, hardware.decoders, on_progress)


def train(
    specs: Sequence[JobSpec],
    data: TrainData,
    folds: IntArray,
    shown: Sequence[JobSpec],
    hardware: Hardware,
    view: JobsView,
) -> dict[tuple[str, int], Failure]:
    """Run the jobs, `hardware.jobs` at a time, while a thread polls their status files for the view.

    Args:
        folds: int64 (people,).
        shown: the jobs in the view, those already done among them.

    Returns:
        (task, fold) -> why, of each job that failed.
    """
    for spec in specs:
        before = read_status(spec.run, spec.task, spec.fold)
        epochs = spec.recipe.tasks[spec.task].epochs
        write_status(spec.run, dataclasses.replace(before, state="waiting", epochs=epochs, error="", seconds_left=None))
    cv2.setNumThreads(0)
    with _polling(shown, view):
        parallel = joblib.Parallel(n_jobs=hardware.jobs, backend="loky" if hardware.jobs > 1 else "sequential")
        failures = parallel(joblib.delayed(run_job)(spec, data, folds) for spec in specs)
    return {(s.task, s.fold): f for s, f in zip(specs, failures, strict=True) if f}


@contextlib.contextmanager
def _polling(shown: Sequence[JobSpec], view: JobsView, every: float = 0.5) -> Iterator[None]:
    """Keep the view up to date from the jobs' files, as any backend leaves them."""
    stop = threading.Event()

    def look() -> None:
        view.update([read_status(s.run, s.task, s.fold) for s in shown])

    def poll() -> None:
        while not stop.wait(every):
            look()

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        look()
