"""The process that runs models: its threads, malloc, signal stack and libraries' warnings."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import sys
import warnings
from collections.abc import Iterator

import cv2

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


def configure_process(threads: int) -> None:
    """Prepare this process for a model's arithmetic, torch's in so many threads if it is loaded.

    OpenCV gets one thread, because it would use all cores in each of several jobs. glibc's malloc stops returning large
    blocks to the system after each layer, which costs a page fault for every 4 KiB when the next layer asks for them
    (mallopt(3)). Other C libraries lack mallopt and stay as they are."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)
    cv2.setNumThreads(0)
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def give_back_memory() -> None:
    """Return freed memory, which malloc keeps after `configure_process`, to the system."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a GPU's or the CPU's memory is too small for what torch was asked for. oneDNN's message may have other
    causes, too."""
    import torch  # here, because not every process that runs models has it

    on_cpu = ("DefaultCPUAllocator: can't allocate memory", "could not create a primitive")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(text in str(error) for text in on_cpu)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings of libraries about their own internals."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


class SignalStack(ctypes.Structure):
    """stack_t of Linux's signal.h."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextlib.contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Restore this thread's signal stack afterwards (sigaltstack(2)).

    On processors with AMX, OpenVINO sets one that is too small for Python's signal handler: the next Ctrl-C would end
    the process by SIGSEGV.
    """
    if sys.platform != "linux":
        yield
        return
    swap, before = ctypes.CDLL(None).sigaltstack, SignalStack()
    swap(None, ctypes.byref(before))
    try:
        yield
    finally:
        swap(ctypes.byref(before), None)
