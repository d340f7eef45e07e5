"""How the process that runs a model uses cores and memory."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import sys
import warnings
from collections.abc import Iterator

import cv2
import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h

NEVER = 2**31 - 1


def configure_process(threads: int) -> None:
    """Make this process ready for a model's arithmetic.

    OpenCV is kept to one thread, because it would use all cores in each of several jobs. glibc's malloc is kept from
    giving large blocks back to the system after each layer, which costs a page fault for every 4 KiB when the next
    layer asks for them again (mallopt(3); PyTorch's performance tuning guide names allocators for the same reason).
    Other C libraries lack mallopt and stay as they are.

    Args:
        threads: for torch's arithmetic.
    """
    torch.set_num_threads(threads)
    cv2.setNumThreads(0)
    with contextlib.suppress(AttributeError, OSError, TypeError):  # TypeError: Windows has no library of that name
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, NEVER)


def give_back_memory() -> None:
    """Give freed memory, which malloc keeps after `configure_process`, back to the system."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what a library warns of, which is its own ways and not the user's."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


class _SignalStack(ctypes.Structure):
    """stack_t of Linux's signal.h."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextlib.contextmanager
def signal_stack_kept() -> Iterator[None]:
    """The stack on which this thread handles signals is the same afterwards (sigaltstack(2)).

    OpenVINO gives a thread one with room for the processor's registers and nothing else, where the processor has AMX.
    Python's handler of the next Ctrl-C does not fit onto it, and the process would end by SIGSEGV.
    """
    if sys.platform != "linux":
        yield
        return
    swap, before = ctypes.CDLL(None).sigaltstack, _SignalStack()
    swap(None, ctypes.byref(before))
    try:
        yield
    finally:
        swap(ctypes.byref(before), None)
