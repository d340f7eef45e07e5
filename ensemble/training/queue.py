"""Many jobs: which are to be done, in what order, and a display of them while they run."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import threading
from collections.abc import Iterator, Sequence
from typing import Protocol

from ensemble.backends.backend import Backend, Call, WorkerLost, WorkerStopped, call_with_retries, run_in_threads
from ensemble.backends.choose import open_backend
from ensemble.data.cache import check_readable, no_face_note, open_photos
from ensemble.data.masks import undetected_note
from ensemble.jobs.hardware import Hardware
from ensemble.jobs.job import JobStatus, write_status
from ensemble.jobs.locks import lock_folder, lock_jobs
from ensemble.jobs.spec import JobSpec
from ensemble.training.runner import Failure, finish, run_job
from folds.errors import MaskensError, Stopped
from folds.labels import IntArray
from folds.people import TrainData
from folds.photos import Progress

GOES_ON = (
    "What it had saved is kept; the same command goes on from there, best with fewer --jobs, fewer --workers or a "
    "smaller batch_size if it was for want of memory."
)


class JobsDisplay(Protocol):
    """Shows the jobs' states; called a few times a second from one thread."""

    def update(self, statuses: Sequence[JobStatus]) -> None: ...


def fill_cache(
    specs: Sequence[JobSpec], data: TrainData, hardware: Hardware, on_progress: Progress | None
) -> list[str]:
    """Decode the photos, once for all jobs; without a cache just to refuse unreadable ones here.

    Returns:
        What to say of faces that were to be found and were not.
    """
    if not specs:
        return []
    tasks = {s.recipe.tasks[s.task].hash: s.recipe.tasks[s.task] for s in specs}
    wanted, threads = list(dict.fromkeys(task.preprocessing for task in tasks.values())), hardware.decoding_threads
    if specs[0].cache is None:
        faces = check_readable(data.photos, wanted, threads, on_progress)
    else:
        faces = open_photos(data.photos, wanted, specs[0].cache, threads, on_progress).faces
    if pseudo := specs[0].pseudo:
        if specs[0].cache is None:
            check_readable(pseudo.photos, [], threads)
        else:
            open_photos(pseudo.photos, wanted, specs[0].cache, threads)
    without = int((~faces).sum())
    notes = [no_face_note(without, len(faces))] if without else []
    for task in tasks.values():
        photos = open_photos(data.photos, [task.preprocessing], specs[0].cache, threads)
        notes.append(undetected_note(task, photos, data.labels[0]))
    return list(dict.fromkeys(filter(None, notes)))


def train(
    specs: Sequence[JobSpec],
    data: TrainData,
    folds: IntArray,
    shown: Sequence[JobSpec],
    hardware: Hardware,
    display: JobsDisplay,
    restart: bool = False,
    retries: int = 0,
) -> dict[int, Failure]:
    """Run the jobs, `hardware.jobs` at a time, while a thread polls their status files for the display.

    Args:
        specs: of one run, or of several with the same data and folds.
        folds: int64 (people,).
        shown: the jobs in the display, those already done among them.
        restart: first forget what these jobs have done.
        retries: how often a job whose process or node is lost goes on, from what it had saved.

    Returns:
        place in `specs` -> why, of each job that failed.

    Raises:
        MaskensError: another process is at one of the jobs.
        Stopped: by Ctrl-C or SIGTERM, once the jobs under way have saved what they have learned.
    """
    with lock_jobs(specs):
        for spec in specs:
            if restart:
                shutil.rmtree(spec.job.folder, ignore_errors=True)
            before = spec.job.status()
            epochs = spec.recipe.tasks[spec.task].epochs
            write_status(
                spec.run, dataclasses.replace(before, state="waiting", epochs=epochs, error="", seconds_left=None)
            )
        try:
            with _polling(shown, display), open_backend(hardware) as backend:
                failures = run_in_threads(
                    lambda spec: run_with_retries(backend, spec, data, folds, retries), specs, backend.slots
                )
        except KeyboardInterrupt:
            raise Stopped(_saved(specs)) from None
    return {place: failure for place, failure in enumerate(failures) if failure}


def run_with_retries(backend: Backend, spec: JobSpec, data: TrainData, folds: IntArray, retries: int) -> Failure | None:
    """Run one job on a backend. Its process may be lost so many times, as there is nothing wrong with the job then.

    Args:
        folds: int64 (people,).
    """
    name, log = str(spec.job), spec.job.log
    notes = lock_folder(spec.run.folder)

    def waiting(words: str) -> None:
        status = spec.job.status()
        write_status(spec.run, dataclasses.replace(status, state="waiting", note=words))

    def call() -> Call:
        return Call(name, run_job, (spec, data, folds), log, notes, needs=(spec.run.folder, data.root))

    try:
        failure: Failure | None = call_with_retries(backend, call, retries, waiting)
        return failure
    except MaskensError as error:  # of the node, not of the job
        message = str(error)
    except WorkerStopped:
        message = "its process was asked to stop; what it had learned is saved"
    except WorkerLost as lost:
        message = f"{lost}. {GOES_ON}"
    finish(spec, "failed", message)
    return Failure(message, crashed=False)


def _saved(specs: Sequence[JobSpec]) -> str:
    """What jobs that were stopped have saved, in words."""
    statuses = [s.job.status() for s in specs]
    done = sum(s.state == "done" for s in statuses)
    several = len({s.run.folder for s in specs}) > 1
    names = [f"{s.run.folder.name} {s.job}" if several else str(s.job) for s in specs]
    named = zip(names, statuses, strict=True)
    lines = [f"{name}: {_so_far(s)}" for name, s in named if s.state != "done" and (s.epoch or s.batches)]
    lines += [f"{done} of the {len(statuses)} jobs that were left are done"] if done else []
    return "; ".join(lines) or "no job had learned anything yet"


def _so_far(status: JobStatus) -> str:
    whole = f"{status.epoch} of {status.epochs} epochs"
    return f"{whole} and {status.batches} batches" if status.batches else whole


@contextlib.contextmanager
def _polling(shown: Sequence[JobSpec], display: JobsDisplay, every: float = 0.25) -> Iterator[None]:
    """Keep the view up to date from the jobs' files, as any backend leaves them."""
    stop = threading.Event()

    def look() -> None:
        display.update([s.job.status() for s in shown])

    def poll() -> None:
        with contextlib.suppress(OSError):  # nobody reads any more what is shown: the jobs go on
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
