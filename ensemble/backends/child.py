"""What every process that works for another has to do: end when it is told to, and when its parent is gone."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import ensemble
from ensemble.jobs.stopping import SIGNALS, Interruption

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
