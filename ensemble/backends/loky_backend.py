"""Processes of this machine, so that what happens to one call happens to no other."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import warnings
from concurrent.futures import Future, wait
from typing import Any, Self

from joblib.externals.loky import BrokenProcessPool, ProcessPoolExecutor

from ensemble.backends.backend import STOPPING, Backend, Call, WorkerLost, WorkerStopped
from ensemble.backends.work_process import (
    SAFE_PATH,
    child_environment,
    end_with_parent,
    interruption,
    interruptions_not_for_children,
)
from ensemble.jobs.hardware import Hardware, visible_gpus

# loky renews a process whose memory has grown, and warns of that
warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given to the executor")


class LokyBackend(Backend):
    """One process for each call at a time, each with a GPU of its own: the next call takes the one that is free."""

    def __init__(self, hardware: Hardware) -> None:
        self.slots, self._safe_path = hardware.jobs, os.environ.get(SAFE_PATH)
        gpus = visible_gpus() if hardware.device == "cuda" else []
        own = [gpus[n % len(gpus)] if len(gpus) > 1 else None for n in range(hardware.jobs)]
        self._all = [_Worker(gpu, hardware.job_threads) for gpu in own]
        self._free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._all:
            self._free.put(worker)

    def call(self, call: Call) -> Any:
        worker = self._free.get()
        try:
            return worker.call(call)
        finally:
            self._free.put(worker)

    def __enter__(self) -> Self:
        os.environ[SAFE_PATH] = "1"  # loky starts processes of its own beside those of calls
        return self

    def __exit__(self, kind: type[BaseException] | None, *more: object) -> None:
        """A second interruption waits for nothing."""
        try:
            if kind and issubclass(kind, KeyboardInterrupt):
                wait([job for worker in self._all if (job := worker.stop())], STOPPING)
        finally:
            for worker in self._all:
                worker.close()
            os.environ.pop(SAFE_PATH, None)
            os.environ |= {} if self._safe_path is None else {SAFE_PATH: self._safe_path}


class _Worker:
    """A process, started with its first call and again after one that it did not survive."""

    def __init__(self, gpu: str | None, threads: int) -> None:
        self.environment = child_environment(threads) | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})
        self._executor: ProcessPoolExecutor | None = None
        self._job: Future[Any] | None = None
        self._stopping = False

    def call(self, call: Call) -> Any:
        try:
            self._executor = self._executor or ProcessPoolExecutor(
                1, initializer=end_with_parent, initargs=(os.getpid(),), env=self.environment
            )
            with interruptions_not_for_children():
                self._job = self._executor.submit(_run, os.getpid(), call)
            return self._job.result()
        except BrokenProcessPool as error:
            self.close()
            if self._stopping:
                raise KeyboardInterrupt from None
            if "SIGKILL" in str(error):
                raise WorkerLost("worker crashed (SIGKILL, probably out of memory)") from error
            codes = str(error).rsplit("exit codes of the workers are", 1)[-1].strip(" {}.")
            raise WorkerLost(f"worker crashed ({codes})") from error
        except KeyboardInterrupt:
            if self._stopping or self._job is None or not self._job.done():
                raise  # it is this process that is interrupted, not the one of the call
            raise WorkerStopped from None

    def stop(self) -> Future[Any] | None:
        """Ask the call under way, if there is one, to save its work and stop."""
        self._stopping = True
        if self._job is None or self._job.done():
            return None
        for process in list(self._executor._processes) if self._executor else []:  # loky has no other way
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)
        return self._job

    def close(self) -> None:
        """End the process, whatever it is doing."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True, kill_workers=True)


def _run(parent: int, call: Call) -> Any:
    """In the process. Once stopped because its parent is gone it ends, as nobody waits for its answer."""
    try:
        return call.function(*call.args)
    except KeyboardInterrupt:
        if os.getppid() != parent:
            os._exit(1)
        raise
    finally:
        interruption.settle()
