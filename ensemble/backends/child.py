"""What every process that works for another has to do: end when it is told to, and when its parent is gone."""

from __future__ import annotations

import os
import signal
import threading
import time

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def thread_environment(threads: int) -> dict[str, str]:
    """What keeps a process to so many threads, whichever library does its arithmetic."""
    return dict.fromkeys(THREAD_VARIABLES, str(threads))


def end_with_parent(parent: int) -> None:
    """In the process, first of all: SIGTERM interrupts as Ctrl-C does, and without its parent it gets one.

    Args:
        parent: process id.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        main = threading.main_thread().ident
        assert main
        signal.pthread_kill(main, signal.SIGTERM)  # if it waits for work, only a signal of its own wakes it

    if hasattr(signal, "pthread_kill"):  # Windows has no such thing
        threading.Thread(target=follow, daemon=True).start()
