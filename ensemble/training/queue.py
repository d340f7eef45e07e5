"""Many jobs on a backend, and a display of them while they run."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from ensemble.backends.backend import Call, WorkerLost, WorkerStopped, call_with_retries, run_in_threads
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


class JobsDisplay(Protocol):
    """Shows the jobs' states; called a few times a second from one thread."""

    def update(self, statuses: Sequence[JobStatus]) -> None: ...


def fill_cache(
    specs: Sequence[JobSpec], data: TrainData, hardware: Hardware, on_progress: Progress | None
) -> list[str]:
    """Decode the photos, once for all jobs; without a cache just to refuse unreadable ones here.

    Returns:
        Notes of faces that were not found.
    """
    cache, threads = specs[0].cache, hardware.decoding_threads
    tasks = {s.recipe.tasks[s.task].hash: s.recipe.tasks[s.task] for s in specs}
    wanted = list(dict.fromkeys(task.preprocessing for task in tasks.values()))
    if cache is None:
        faces = check_readable(data.photos, wanted, threads, on_progress)
    else:
        faces = open_photos(data.photos, wanted, cache, threads, on_progress).faces
    if pseudo := specs[0].pseudo:
        if cache is None:
            check_readable(pseudo.photos, [], threads)
        else:
            open_photos(pseudo.photos, wanted, cache, threads)
    without = int((~faces).sum())
    notes = [no_face_note(without, len(faces))] if without else []
    for task in tasks.values():
        photos = open_photos(data.photos, [task.preprocessing], cache, threads)
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
        restart: first delete what these jobs have saved.
        retries: how many times to resume a job whose worker crashed or whose node is lost.

    Returns:
        place in `specs` -> why, of each job that failed.

    Raises:
        MaskensError: another process is at one of the jobs.
        Stopped: by Ctrl-C or SIGTERM, once the jobs under way have saved their work.
    """

    def run(spec: JobSpec) -> Failure | None:
        args, needs = (spec, data, folds), (spec.run.folder, data.root)

        def call() -> Call:
            return Call(str(spec.job), run_job, args, spec.job.log, lock_folder(spec.run.folder), needs)

        def waiting(note: str) -> None:
            write_status(spec.run, dataclasses.replace(spec.job.status(), state="waiting", note=note))

        try:
            failure: Failure | None = call_with_retries(backend, call, retries, waiting)
            return failure
        except MaskensError as error:  # of the node, not of the job
            message = str(error)
        except WorkerStopped:
            message = "its process was asked to stop; its work is saved"
        except WorkerLost as lost:
            message = (
                f"{lost}. Its saved work is kept; the same command resumes it. If it ran out of memory, lower --jobs, "
                "--workers or batch_size."
            )
        finish(spec, "failed", message)
        return Failure(message, crashed=False)

    with lock_jobs(specs):
        for spec in specs:
            if restart:
                shutil.rmtree(spec.job.folder, ignore_errors=True)
            epochs = spec.recipe.tasks[spec.task].epochs
            reset: dict[str, Any] = {"state": "waiting", "epochs": epochs, "error": "", "seconds_left": None}
            write_status(spec.run, dataclasses.replace(spec.job.status(), **reset))
        try:
            with _polling(shown, display), open_backend(hardware) as backend:
                failures = run_in_threads(run, specs, backend.slots)
        except KeyboardInterrupt:
            raise Stopped(_saved(specs)) from None
    return {place: failure for place, failure in enumerate(failures) if failure}


def _saved(specs: Sequence[JobSpec]) -> str:
    """What stopped jobs have saved."""
    found, done = [], 0
    several = len({spec.run.folder for spec in specs}) > 1
    for spec in specs:
        status, name = spec.job.status(), f"{spec.run.folder.name} {spec.job}" if several else str(spec.job)
        done += status.state == "done"
        if status.state != "done" and (status.epoch or status.batches):
            batches = f" and {status.batches} batches" if status.batches else ""
            found.append(f"{name}: {status.epoch} of {status.epochs} epochs{batches}")
    found += [f"{done} of the {len(specs)} remaining jobs are done"] if done else []
    return "; ".join(found) or "no job had saved anything yet"


@contextlib.contextmanager
def _polling(shown: Sequence[JobSpec], display: JobsDisplay, every: float = 0.25) -> Iterator[None]:
    """Keep the display up to date from the jobs' files, as any backend leaves them."""
    stop = threading.Event()

    def look() -> None:
        display.update([s.job.status() for s in shown])

    def poll() -> None:
        with contextlib.suppress(OSError):  # the terminal is gone: the jobs run on
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
