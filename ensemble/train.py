"""Many jobs: which are to be done, in what order, and a view of them while they run."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import joblib
import numpy as np
import torch
from joblib.externals.loky.process_executor import TerminatedWorkerError

from ensemble.cache import check_photos, open_photos
from ensemble.job import Failure, JobSpec, geometry, identity, learned_rows, run_job
from ensemble.recipe import Recipe
from ensemble.status import JobStatus, read_status, write_status
from ensemble.tasks import Target, training_labels
from folds.decode import Progress
from folds.errors import MaskensError, did_you_mean, refuse
from folds.labels import IntArray
from folds.layout import TrainData
from folds.run import Run

if sys.platform != "win32":
    import fcntl


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
        return int(joblib.cpu_count())  # heeds affinity and container limits

    @property
    def job_workers(self) -> int:
        """None on a CPU, where they would take the model's cores away; for a GPU what the cores give, less one for
        the job itself, up to 8."""
        if self.workers is not None:
            return self.workers
        return 0 if self.device == "cpu" else self._gpu_workers

    @property
    def job_threads(self) -> int:
        """Arithmetic threads of a job: OMP_NUM_THREADS, or the job's share of the cores, which for a GPU is shared
        with loader processes. It does not depend on `workers`, because it moves the last digits of a result."""
        asked = os.environ.get("OMP_NUM_THREADS", "")
        if asked.isdecimal() and int(asked) > 0:
            return int(asked)
        return max(1, self._share - (0 if self.device == "cpu" else self._gpu_workers))

    @property
    def crowding(self) -> str:
        """What to say where jobs and their loader processes want more cores than there are, else ""."""
        wanted = self.jobs * (self.job_threads + self.job_workers)
        least = 2 if self.device == "cuda" else 1  # one of the two waits for the GPU, most of the time
        if wanted <= max(self.cores, least):
            return ""
        return (
            f"{self.job_threads} threads and {self.job_workers} loader processes a job, --jobs {self.jobs}: that is "
            f"{wanted} at work on {self.cores} cores, and they will wait for one another; lower --jobs, --workers or "
            "OMP_NUM_THREADS"
        )

    @property
    def _share(self) -> int:
        return max(1, self.cores // self.jobs)

    @property
    def _gpu_workers(self) -> int:
        return min(8, max(1, self._share - 1))

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
    track: tuple[str, ...] = (),
    compile: bool = False,
) -> list[JobSpec]:
    """One job for each fold and task, fold by fold, so that the first whole fold is ready early."""
    pairs = [(t, f) for f in folds for t in tasks]
    return [
        JobSpec(
            run, recipe, t, f, hardware.device_of(i), hardware.job_workers, hardware.job_threads, cache, track, compile
        )
        for i, (t, f) in enumerate(pairs)
    ]


def refuse_idle(specs: Sequence[JobSpec], data: TrainData, folds: IntArray) -> None:
    """Refuse jobs whose recipe leaves nobody to learn from, or nobody of a label that they are to predict.

    Args:
        folds: int64 (people,).

    Raises:
        MaskensError: naming them.
    """
    idle = []
    for spec in specs:
        rows, target = learned_rows(spec, data, folds), spec.recipe.tasks[spec.task].target
        labels = training_labels(target, data)[rows]
        for head, learned in zip(target.heads, labels.T, strict=True):
            names, merge = Target(target.predicts).names[head.part], np.array(head.merge)
            missing = [names[i] for i in sorted(set(merge) - set(merge[learned]))]
            if missing:
                idle.append(f"{spec.task} fold {spec.fold}: {head.part} {', '.join(missing)}")
    refuse(idle, "these jobs have nobody to learn from", "See ages.leave_out and ages.cuts of these tasks.")


def is_done(spec: JobSpec) -> bool:
    """Whether a job is finished, with this recipe, seed and folds."""
    status = read_status(spec.run, spec.task, spec.fold)
    same = all(status.record.get(k) == v for k, v in identity(spec).items())
    folder = spec.run.job_folder(spec.task, spec.fold)
    return status.state == "done" and same and (folder / "model.safetensors").exists() and (folder / "oof.npz").exists()


def unfinished(specs: Sequence[JobSpec]) -> list[JobSpec]:
    """The jobs that have something left to do."""
    return [s for s in specs if not is_done(s)]


def begun(specs: Sequence[JobSpec]) -> set[str]:
    """The tasks all of whose jobs have a whole epoch to go on from."""
    fresh = {s.task for s in specs if not (s.run.job_folder(s.task, s.fold) / "last.pt").exists()}
    return {s.task for s in specs} - fresh


def fill_cache(specs: Sequence[JobSpec], data: TrainData, hardware: Hardware, on_progress: Progress | None) -> None:
    """Decode the photos, once for all jobs; without a cache just to refuse unreadable ones here."""
    if specs and specs[0].cache is None:
        check_photos(data.root, data.files, hardware.decoders, on_progress)
    elif specs:
        wanted = list(dict.fromkeys(geometry(s.recipe.tasks[s.task]) for s in specs))
        open_photos(
            data.root, data.files, data.photos_fingerprint, wanted, specs[0].cache, hardware.decoders, on_progress
        )


def train(
    specs: Sequence[JobSpec],
    data: TrainData,
    folds: IntArray,
    shown: Sequence[JobSpec],
    hardware: Hardware,
    view: JobsView,
    restart: bool = False,
) -> dict[tuple[str, int], Failure]:
    """Run the jobs, `hardware.jobs` at a time, while a thread polls their status files for the view.

    Args:
        folds: int64 (people,).
        shown: the jobs in the view, those already done among them.
        restart: first forget what these jobs have done.

    Returns:
        (task, fold) -> why, of each job that failed.

    Raises:
        MaskensError: another process is at one of the jobs, or the system killed one.
    """
    specs = [dataclasses.replace(s, device=hardware.device_of(i)) for i, s in enumerate(specs)]
    with claimed(specs):
        for spec in specs:
            if restart:
                shutil.rmtree(spec.run.job_folder(spec.task, spec.fold), ignore_errors=True)
            before = read_status(spec.run, spec.task, spec.fold)
            epochs = spec.recipe.tasks[spec.task].epochs
            write_status(
                spec.run, dataclasses.replace(before, state="waiting", epochs=epochs, error="", seconds_left=None)
            )
        with _polling(shown, view):
            parallel = joblib.Parallel(n_jobs=hardware.jobs, backend="loky" if hardware.jobs > 1 else "sequential")
            try:
                failures = parallel(joblib.delayed(run_job)(spec, data, folds) for spec in specs)
            except TerminatedWorkerError as error:
                raise MaskensError(
                    "the system killed the process of a job, most likely for want of memory. Finished epochs are "
                    "saved; go on with fewer --jobs, fewer --workers or a smaller batch_size."
                ) from error
    return {(s.task, s.fold): f for s, f in zip(specs, failures, strict=True) if f}


@contextlib.contextmanager
def claimed(specs: Sequence[JobSpec]) -> Iterator[None]:
    """Hold a lock on each job, so that two commands at once may share a run but never a job.

    The system lets go of the locks when the process ends, however it ends. Windows has none of this kind.
    """
    if sys.platform == "win32":
        yield
        return
    with contextlib.ExitStack() as stack:
        for spec in specs:
            path = spec.run.folder / ".locks" / f"{spec.task}-fold{spec.fold}"
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = stack.enter_context(path.open("w"))
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise MaskensError(
                    f"another maskens is training {spec.task} fold {spec.fold} in {spec.run.folder}. "
                    "Wait for it, or leave that job out with --fold and --task."
                ) from None
        yield


@contextlib.contextmanager
def _polling(shown: Sequence[JobSpec], view: JobsView, every: float = 0.25) -> Iterator[None]:
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
