"""The process that runs a model."""

from __future__ import annotations

import ctypes
import sys

import cv2
import pytest
import torch
from run_command import python

from ensemble.models import runtime
from ensemble.models.runtime import SignalStack, configure_process, signal_stack_kept


def test_threads_are_as_asked_and_opencv_keeps_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        configure_process(2)
        assert torch.get_num_threads() == 2
        monkeypatch.setattr(runtime.ctypes, "CDLL", lambda name: object())  # no mallopt
        configure_process(1)
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (1, 1)
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
def test_large_blocks_stay_in_the_process() -> None:
    """Else every layer's output costs a page fault for each 4 KiB."""
    code = """
import resource, numpy as np
from ensemble.models.runtime import configure_process
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.ones(5_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
plain = faults()
configure_process(1)
faults()
print(plain, faults())
"""
    plain, settled = map(int, python("-c", code).stdout.split())
    assert settled < plain / 10


@pytest.mark.skipif(sys.platform != "linux", reason="sigaltstack")
def test_a_library_that_moves_the_stack_for_signals_does_not_move_it_for_good() -> None:
    """On one that is too small, the next Ctrl-C would end the process by SIGSEGV."""
    swap = ctypes.CDLL(None).sigaltstack

    def now() -> tuple[int | None, int, int]:
        found = SignalStack()
        swap(None, ctypes.byref(found))
        return found.start, found.flags, found.size

    before, room = now(), ctypes.create_string_buffer(1 << 16)
    with signal_stack_kept():
        moved = SignalStack(ctypes.cast(room, ctypes.c_void_p), 0, 1 << 16)
        assert swap(ctypes.byref(moved), None) == 0
        assert now()[0] == ctypes.addressof(room)
    assert now() == before
