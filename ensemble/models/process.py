"""How the process that runs a model uses cores and memory."""

from __future__ import annotations

import contextlib
import ctypes
import logging
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
    layer asks for them again (mallopt(3); PyTorch's performance tuning guide names allocators for the same reason;
    benchmarks/allocator.py compares). Other C libraries lack mallopt and stay as they are.

    Args:
        threads: for torch's arithmetic.
    """
    torch.set_num_threads(threads)
    cv2.setNumThreads(0)
    with contextlib.suppress(AttributeError, OSError, TypeError):  # TypeError: Windows has no library of that name
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, NEVER)


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
