"""Processes that run one call after the other for a parent, and end with it."""

from __future__ import annotations

import contextlib
import faulthandler
import itertools
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import ensemble
from ensemble.backends.backend import WorkerLost, WorkerStopped
from ensemble.jobs.stopping import CALL_VARIABLE, SIGNALS, Interruption
from folds.errors import MaskensError

interruption = Interruption()  # of this process's work, to be settled when that has ended
SAFE_PATH = "PYTHONSAFEPATH"  # keeps the working folder out of the modules' path, as python -P
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def child_environment(threads: int) -> dict[str, str]:
    """What keeps a process to so many threads, whichever library does its arithmetic, and to our modules: else a file
    `random.py` or `ensemble.py` in the working folder would be imported in place of the module of that name."""
    return dict.fromkeys(THREAD_VARIABLES, str(threads)) | {SAFE_PATH: "1"}


@contextlib.contextmanager
def safe_path() -> Iterator[None]:
    """Processes started meanwhile, those of libraries too, import nothing from the working folder."""
    before = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SAFE_PATH]
        else:
            os.environ[SAFE_PATH] = before


def import_path() -> str:
    """Where this process finds modules, for PYTHONPATH of one that is to find the same ones, wherever it starts."""
    ours = str(Path(ensemble.__file__).resolve().parents[1])
    return os.pathsep.join(dict.fromkeys([*filter(None, sys.path), ours]))


@contextlib.contextmanager
def interruptions_not_for_children() -> Iterator[None]:
    """Processes started within, and by threads started within, get no Ctrl-C of the terminal: it is for the command,
    which asks them to stop."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows has no such thing
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent(parent: int) -> None:
    """In the process, first of all: SIGTERM interrupts as Ctrl-C does, and without its parent it gets one. What
    the terminal sends, Ctrl-C and its end, is for its command alone.

    Args:
        parent: process id.
    """
    for number in set(SIGNALS) - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    interruption.install([signal.SIGTERM])

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        main = threading.main_thread().ident
        assert main
        signal.pthread_kill(main, signal.SIGTERM)  # if it waits for work, only a signal of its own wakes it

    if hasattr(signal, "pthread_kill"):
        threading.Thread(target=follow, daemon=True).start()


IDLE = 60.0  # seconds after which a process without work ends
STOPPED = 143  # exit code: by SIGTERM


@dataclass(frozen=True)
class Outcome:
    """What became of a call on a node."""

    state: Literal["returned", "raised", "lost", "stopped"]
    value: Any = None  # what it returned or raised; how its process was lost

    def result(self, stopping: bool = False) -> Any:
        """The call's result.

        Args:
            stopping: the command itself has asked all calls to stop.

        Raises:
            WorkerLost, WorkerStopped, Exception: as of `Backend.call`.
        """
        if self.state == "returned":
            return self.value
        if self.state == "raised":
            raise self.value
        if stopping:
            raise KeyboardInterrupt
        raise WorkerLost(self.value) if self.state == "lost" else WorkerStopped


class WorkerPool:
    """Processes of this scheduler's worker, kept for a while after a call: importing torch anew takes seconds."""

    _idle: ClassVar[dict[int, list[Worker]]] = {}  # by their number of threads
    _lock = threading.Lock()

    @classmethod
    def take(cls, threads: int) -> Worker:
        """One that waits for work, or a new one."""
        with cls._lock:
            waiting = cls._idle.get(threads)
            return waiting.pop() if waiting else Worker(threads)

    @classmethod
    def give_back(cls, child: Worker) -> None:
        with cls._lock:
            cls._idle.setdefault(child.threads, []).append(child)

    @classmethod
    def end(cls) -> None:
        """End those that wait."""
        with cls._lock:
            for child in itertools.chain.from_iterable(cls._idle.values()):
                child.end()
            cls._idle.clear()


class Worker:
    """A process that runs one call after the other."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"from {__name__} import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | child_environment(threads) | {"PYTHONPATH": import_path()},
            start_new_session=True,  # Ctrl-C on a terminal is for the command, which asks to stop
        )

    def send(self, *message: object) -> bool:
        """Hand a call over; False if the process is gone."""
        assert self.process.stdin
        if self.process.poll() is not None:
            return False
        try:
            self.process.stdin.write(pickle.dumps(message))
            self.process.stdin.flush()
        except BrokenPipeError:
            return False
        return True

    def has_answered(self, seconds: float) -> bool:
        """Whether the call is over, or the process, within so many seconds."""
        assert self.process.stdout
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        if ready:
            self.process.stdout.read(1)  # what `main` writes; nothing at its end
        return bool(ready)

    def end(self) -> int:
        """Its exit code, once it has ended for want of more work, or by itself."""
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        return self.process.wait()


def main() -> None:
    """In the process: run what is handed over, one call after the other, until nothing comes any more."""
    end_with_parent(os.getppid())
    faulthandler.enable()  # where a library crashes goes into the log
    answers = os.dup(1)
    try:
        while select.select([sys.stdin], [], [], IDLE)[0]:
            log, token, answer, work = pickle.load(sys.stdin.buffer)
            with Path(log).open("ab") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            os.environ[CALL_VARIABLE] = token
            Path(answer).write_bytes(pickle.dumps(_outcome(work)))
            sys.stdout.flush()
            os.write(answers, b".")
    except EOFError:  # the worker needs it no more
        return
    except KeyboardInterrupt:
        interruption.settle()
        sys.exit(STOPPED)


def _outcome(work: bytes) -> Outcome:
    try:
        function, args = pickle.loads(work)
        return Outcome("returned", function(*args))
    except MaskensError as error:
        return Outcome("raised", error)
    except Exception as error:
        traceback.print_exc()
        return Outcome("raised", portable(error))


def portable(error: Exception) -> Exception:
    """The error, if it can be pickled; else another with its text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
