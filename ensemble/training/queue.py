"""Jobs: one, which ends done, stopped or failed with a reason; many on a backend, with a display of them."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
import threading
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from ensemble.backends.backend import Call, WorkerLost, WorkerStopped, call_with_retries, run_in_threads
from ensemble.backends.choose import open_backend
from ensemble.data.cache import decode_photos, no_face_note, open_photos
from ensemble.data.drawn_masks import undetected_note
from ensemble.jobs.finished import is_done, job_epochs
from ensemble.jobs.hardware import Hardware
from ensemble.jobs.job import JobStatus, State, write_status
from ensemble.jobs.locks import TakenOver, lock_folder, lock_job_process, lock_jobs
from ensemble.jobs.spec import JobSpec
from ensemble.training.deadline import Timetable
from ensemble.training.fit_fold import JobRun, OutOfTime
from folds.errors import MaskensError, Stopped
from folds.files import write_text
from folds.labels import IntArray
from folds.people import TrainData
from folds.photos import Progress
from folds.ranges import FULL
from folds.run_folder import has_run

POLL = 0.25  # seconds between two looks at the jobs' states


@dataclass(frozen=True)
class Failure:
    """Why a job failed."""

    message: str
    crashed: bool  # not the user's to mend; error.txt in the job's folder has the traceback


def run_job(spec: JobSpec, data: TrainData, folds: IntArray) -> Failure | None:
    """Train one job to its end, resume it, or do nothing if it is done; on failure its status has the reason, too.

    A job whose end passes in its first epoch is stopped, which is no failure. A crash of one job does not take the
    others with it. Ctrl-C passes through, after the status is `stopped`. `folds` is int64 (people,)."""
    try:
        with lock_job_process(spec) as claim:
            if not is_done(spec):  # by a process whose worker was lost before it could report
                with _warnings_in(spec.job.log) as log:
                    JobRun(spec, data, folds, claim).run()
                if log.first:
                    status = spec.job.status()
                    notes = (status.note, f"libraries warn: {log.first} (all in {log.baseFilename})")
                    write_status(spec.run, dataclasses.replace(status, note="; ".join(filter(None, notes))))
        return None
    except OutOfTime:
        finish(spec, "stopped")
        return None
    except TakenOver as error:  # the job's status is the other process's to write
        return Failure(str(error), crashed=False)
    except MaskensError as error:
        failure = Failure(str(error), crashed=False)
    except torch.OutOfMemoryError:
        advice = f"choose a smaller model or resize for '{spec.task}', or lower --jobs"
        why = f"out of memory, also with one photo at a time: {advice} (traceback in {spec.job.error})"
        failure = Failure(why, crashed=False)
        write_text(spec.job.error, traceback.format_exc())
    except Exception as error:
        path = spec.job.error
        hint = "; shared memory may be full: use --workers 0" if "Bus error" in str(error) else ""
        failure = Failure(f"{type(error).__name__}: {error} (traceback in {path}){hint}", crashed=True)
        write_text(path, traceback.format_exc())
    except BaseException:
        finish(spec, "stopped")
        raise
    finish(spec, "failed", failure.message)
    return failure


class _Log(logging.FileHandler):
    """A file of warnings that remembers the first one."""

    first = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.first = self.first or record.getMessage().rpartition("Warning: ")[2].partition("\n")[0]
        super().emit(record)


@contextlib.contextmanager
def _warnings_in(path: Path) -> Iterator[_Log]:
    """Write libraries' warnings, by `warnings` or `logging`, to a file: on the terminal they would break the table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    log = _Log(path, delay=True, encoding="utf-8")
    log.setLevel(logging.WARNING)
    log.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    logging.captureWarnings(True)
    logging.getLogger().addHandler(log)
    try:
        yield log
    finally:
        logging.getLogger().removeHandler(log)
        logging.captureWarnings(False)
        log.close()


def finish(spec: JobSpec, state: State, error: str = "") -> None:
    """Write a job's last state, unless it is done or its run is gone."""
    if not has_run(spec.run.folder):
        return
    status = spec.job.status()
    if status.state != "done":  # what came after that, such as tidying up, takes nothing away from it
        write_status(spec.run, dataclasses.replace(status, state=state, error=error, seconds_left=None))


class JobsDisplay(Protocol):
    """Shows the jobs' states; called a few times a second from one thread."""

    def update(self, statuses: Sequence[JobStatus]) -> None: ...


def fill_cache(
    specs: Sequence[JobSpec], data: TrainData, hardware: Hardware, on_progress: Progress | None
) -> list[str]:
    """Decode the photos, once for all jobs; without a cache just to refuse unreadable ones here. Returns notes of faces
    that were not found."""
    cache, threads = specs[0].cache, hardware.decoding_threads
    tasks = {s.task_recipe.hash: s.task_recipe for s in specs}
    wanted = list(dict.fromkeys(task.preprocessing for task in tasks.values()))
    faces = decode_photos(data.photos, wanted, cache, threads, on_progress)
    if pseudo := specs[0].pseudo:
        decode_photos(pseudo.photos, wanted if cache else [], cache, threads)
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
    timetable: Timetable | None = None,
) -> dict[int, Failure]:
    """Run the jobs, `hardware.jobs` at a time, while a thread polls their status files for the display.

    Args:
        specs: of runs with the same data and folds; those of FULL come last.
        folds: int64 (people,).
        shown: the jobs in the display, those already done among them.
        restart: first delete what these jobs have saved.
        retries: how many times to resume a job whose worker crashed or whose node is lost.
        timetable: of these jobs; those for which it has no time are not begun.

    Returns:
        place in `specs` -> why, of each job that failed.

    Raises:
        MaskensError: another process is at one of the jobs.
        Stopped: by Ctrl-C or SIGTERM, once the jobs under way have saved their work.
    """

    failed: set[str] = set()  # tasks of folds

    def run_in_time(spec: JobSpec) -> Failure | None:
        if timetable is None:
            return run(spec)
        if (planned := timetable.begin(spec)) is None:
            return None
        try:
            return run(planned)
        finally:
            timetable.end(spec)

    def run(spec: JobSpec) -> Failure | None:
        if spec.fold == FULL and spec.task in failed:
            message = f"waits for the folds of {spec.task}, of which one failed"
            finish(spec, "failed", message)
            return Failure(message, crashed=False)
        args, needs = (spec, data, folds), (spec.run.folder, data.photos.root, *data.photos.places.values())
        call = partial(Call, str(spec.job), run_job, args, spec.job.log, lock_folder(spec.run.folder), needs)

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
            epochs = job_epochs(spec)
            reset: dict[str, Any] = {"state": "waiting", "epochs": epochs, "error": "", "seconds_left": None}
            write_status(spec.run, dataclasses.replace(spec.job.status(), **reset))
        try:
            with _polling(shown, display), open_backend(hardware) as backend:
                first = [spec for spec in specs if spec.fold != FULL]  # the others take their epochs from these
                failures = run_in_threads(run_in_time, first, backend.slots)
                failed |= {spec.task for spec, failure in zip(first, failures, strict=True) if failure}
                failures += run_in_threads(run_in_time, [spec for spec in specs if spec.fold == FULL], backend.slots)
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
            found.append(f"{name}: {status.epoch} of {status.epochs} epochs and {status.batches} batches")
    found += [f"{done} of the {len(specs)} remaining jobs are done"] if done else []
    return "; ".join(found) or "no job had saved anything yet"


@contextlib.contextmanager
def _polling(shown: Sequence[JobSpec], display: JobsDisplay) -> Iterator[None]:
    """Keep the display up to date from the jobs' files, as any backend leaves them."""
    stop = threading.Event()

    def look() -> None:
        display.update([s.job.status() for s in shown])

    def poll() -> None:
        with contextlib.suppress(OSError):  # the terminal is gone: the jobs run on
            while not stop.wait(POLL):
                look()

    look()  # else a job that is done before the first turn would change no state
    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        look()
