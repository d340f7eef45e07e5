"""Running one job, whatever its outcome: done, stopped, or failed with a reason."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ensemble.jobs.finished import is_done
from ensemble.jobs.job import State, write_status
from ensemble.jobs.locks import TakenOver, lock_job_process
from ensemble.jobs.spec import JobSpec
from ensemble.training.fit_fold import JobRun
from folds.errors import MaskensError
from folds.files import write_text
from folds.labels import IntArray
from folds.people import TrainData
from folds.run_folder import has_run


@dataclass(frozen=True)
class Failure:
    """Why a job failed."""

    message: str
    crashed: bool  # not the user's to mend; error.txt in the job's folder has the traceback


def run_job(spec: JobSpec, data: TrainData, folds: IntArray) -> Failure | None:
    """Train one job to its end, resume it, or do nothing if it is done; on failure its status has the reason, too.

    A crash of one job does not take the others with it. Ctrl-C passes through, after the status is `stopped`.

    Args:
        folds: int64 (people,).
    """
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
    except TakenOver as error:  # the job's status is the other process's to write
        return Failure(str(error), crashed=False)
    except MaskensError as error:
        failure = Failure(str(error), crashed=False)
    except torch.OutOfMemoryError:
        failure = Failure(f"out of GPU memory: lower batch_size of '{spec.task}'", crashed=False)
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
