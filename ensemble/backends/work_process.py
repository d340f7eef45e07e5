"""Processes that run one call after the other for a parent, and end with it."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar

import ensemble
from ensemble.backends.backend import WorkerLost, WorkerStopped
from ensemble.jobs.stopping import CALL_VARIABLE, SIGNALS, Interruption
from folds.errors import MaskensError

interruption = Interruption()  # of this process's work, to be settled when that has ended
SAFE_PATH = "PYTHONSAFEPATH"  # keeps the working folder out of the modules' path, as python -P
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
IDLE = 60.0  # seconds after which a process without work ends
STOPPED = 143  # exit code: by SIGTERM


def child_environment(threads: int) -> dict[str, str]:
    """What keeps a process to so many threads, and to our modules: a file `random.py` in the working folder is not
    imported."""
    return dict.fromkeys(THREAD_VARIABLES, str(threads)) | {SAFE_PATH: "1"}


@contextlib.contextmanager
def interruptions_not_for_children() -> Iterator[None]:
    """Processes started within get no Ctrl-C of the terminal: it is for the command, which asks them to stop."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent(parent: int) -> None:
    """In the process, first of all: SIGTERM interrupts as Ctrl-C does, and the process gets one when its parent (a
    process id) is gone. What the terminal sends is for its command alone."""
    for number in set(SIGNALS) - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    interruption.install([signal.SIGTERM])
    main = threading.main_thread().ident
    assert main

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        signal.pthread_kill(main, signal.SIGTERM)  # if it waits for work, only a signal of its own wakes it

    threading.Thread(target=follow, daemon=True).start()


@dataclass(frozen=True)
class Outcome:
    """What became of a call on a node."""

    value: Any = None  # what it returned
    error: Exception | None = None  # what it raised; WorkerLost or WorkerStopped if its process did not finish it

    def result(self, stopping: bool = False) -> Any:
        """The value, or raises the error; KeyboardInterrupt if the command is `stopping` all calls."""
        if self.error is None:
            return self.value
        if stopping and isinstance(self.error, WorkerLost | WorkerStopped):
            raise KeyboardInterrupt
        raise self.error


class Worker:
    """A process that runs one call after the other, and is kept for a while, as importing torch takes seconds."""

    _idle: ClassVar[list[Worker]] = []
    _lock = threading.Lock()

    def __init__(self, threads: int) -> None:
        self.threads = threads
        ours = str(Path(ensemble.__file__).resolve().parents[1])
        path = os.pathsep.join(dict.fromkeys([*filter(None, sys.path), ours]))  # so that it finds the same modules
        self.connection, there = Pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"from {__name__} import main; main({there.fileno()})"],
            pass_fds=[there.fileno()],
            env=os.environ | child_environment(threads) | {"PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C on a terminal is for the command, which asks to stop
        )
        there.close()

    @classmethod
    def take(cls, threads: int) -> Worker:
        """One that waits for work, or a new one."""
        with cls._lock:
            for worker in cls._idle:
                if worker.threads == threads and worker.process.poll() is None:
                    cls._idle.remove(worker)
                    return worker
        return cls(threads)

    def give_back(self) -> None:
        with self._lock:
            self._idle.append(self)

    def end(self) -> int:
        """Its exit code, once it has ended for lack of work, or by itself."""
        self.connection.close()
        return self.process.wait()

    @classmethod
    def end_idle(cls) -> None:
        with cls._lock:
            for worker in cls._idle:
                worker.end()
            cls._idle.clear()


def main(descriptor: int) -> None:
    """In the process: run what is handed over, one call after the other, until nothing comes any more. On the
    connection of this `descriptor` (log, token, pickled (function, args)) come and each `Outcome` goes."""
    end_with_parent(os.getppid())
    faulthandler.enable()  # where a library crashes goes into the log
    work = Connection(descriptor)
    try:
        while work.poll(IDLE):
            log, token, packed = work.recv()
            with Path(log).open("ab") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            os.environ[CALL_VARIABLE] = token
            try:
                function, args = pickle.loads(packed)
                outcome = Outcome(function(*args))
            except Exception as error:
                if not isinstance(error, MaskensError):
                    traceback.print_exc()
                outcome = Outcome(error=portable(error))
            sys.stdout.flush()
            work.send(outcome)
    except EOFError:  # the worker needs it no more
        return
    except KeyboardInterrupt:
        interruption.settle()
        sys.exit(STOPPED)


def portable(error: Exception) -> Exception:
    """The error, if it can be pickled; else another with its text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
