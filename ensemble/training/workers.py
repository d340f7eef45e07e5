"""Processes that jobs run in beside each other, so that what happens to one of them happens to no other."""

from __future__ import annotations

import dataclasses
import os
import queue
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, wait
from types import TracebackType
from typing import Any

import joblib
from joblib.externals.loky import BrokenProcessPool, ProcessPoolExecutor

from ensemble.jobs.hardware import Hardware
from ensemble.jobs.spec import JobSpec
from ensemble.training.job import Failure, finish, run_job
from folds.data.labels import IntArray
from folds.data.people import TrainData

SAVING = 60.0  # seconds that a job which is to stop has for its batch and for saving


class Workers:
    """One process for each job at a time, each with a device of its own: the next job takes the one that is free.

    A context: at its end the processes end. If that is an interruption, the jobs first save what they have learned; a
    second one waits for nothing.
    """

    def __init__(self, hardware: Hardware) -> None:
        self._all = [Worker(hardware.device_of(n), hardware.job_threads) for n in range(hardware.jobs)]
        self._free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self._all:
            self._free.put(worker)

    def run(self, specs: Sequence[JobSpec], data: TrainData, folds: IntArray) -> list[Failure | None]:
        """What became of each job, in the order of `specs`."""
        parallel = joblib.Parallel(n_jobs=len(self._all), backend="threading")
        return list(parallel(joblib.delayed(self._run_one)(spec, data, folds) for spec in specs))

    def _run_one(self, spec: JobSpec, data: TrainData, folds: IntArray) -> Failure | None:
        worker = self._free.get()
        try:
            return worker.run(dataclasses.replace(spec, device=worker.device), data, folds)
        finally:
            self._free.put(worker)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        try:
            if kind and issubclass(kind, KeyboardInterrupt):
                wait([job for worker in self._all if (job := worker.stop())], SAVING)
        finally:
            for worker in self._all:
                worker.close()


class Worker:
    """A process, started with its first job and again after one that it did not survive."""

    def __init__(self, device: str, threads: int) -> None:
        self.device, self.threads = device, threads
        self._executor: ProcessPoolExecutor | None = None
        self._pid = 0
        self._job: Future[Any] | None = None

    def run(self, spec: JobSpec, data: TrainData, folds: IntArray) -> Failure | None:
        """Run a job; a process that dies is the job's failure."""
        try:
            if self._executor is None:
                self._start()
            assert self._executor is not None
            self._job = self._executor.submit(_run_job, os.getpid(), spec, data, folds)
            result: Failure | None = self._job.result()
            return result
        except BrokenProcessPool as error:
            self.close()
            failure = Failure(_cause(error), crashed=False)
        except KeyboardInterrupt:  # the process alone was asked to stop
            failure = Failure("its process was asked to stop; what it had learned is saved", crashed=False)
        finish(spec, "failed", failure.message)
        return failure

    def stop(self) -> Future[Any] | None:
        """Ask the job to save and stop; returns it, None if there is none."""
        if self._job is None or self._job.done():
            return None
        os.kill(self._pid, signal.SIGTERM)
        return self._job

    def close(self) -> None:
        """End the process, whatever it is doing."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True, kill_workers=True)

    def _start(self) -> None:
        threads = {name: str(self.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        self._executor = ProcessPoolExecutor(1, initializer=_begin, initargs=(os.getpid(),), env=threads)
        self._pid = self._executor.submit(os.getpid).result()


def _begin(parent: int) -> None:
    """In the process, first of all: SIGTERM interrupts as Ctrl-C does, and without a parent there is no more work."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        main = threading.main_thread().ident
        assert main
        signal.pthread_kill(main, signal.SIGTERM)  # if it waits for work, only a signal of its own wakes it

    if hasattr(signal, "pthread_kill"):  # Windows has no such thing
        threading.Thread(target=follow, daemon=True).start()


def _run_job(parent: int, spec: JobSpec, data: TrainData, folds: IntArray) -> Failure | None:
    """In the process. Once stopped for want of a parent it ends, as nobody is left to tell it."""
    try:
        return run_job(spec, data, folds)
    except KeyboardInterrupt:
        if os.getppid() != parent:
            os._exit(1)
        raise


def _cause(error: BrokenProcessPool) -> str:
    saved = "What it had saved is kept; the same command goes on from there"
    if "SIGKILL" in str(error):
        return (
            f"the system killed its process, most likely for want of memory. {saved}, best with fewer --jobs, fewer "
            "--workers or a smaller batch_size."
        )
    codes = str(error).rsplit("exit codes of the workers are", 1)[-1].strip(" {}.")
    return f"its process ended without a word ({codes}). {saved}."
