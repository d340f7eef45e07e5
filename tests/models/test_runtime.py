"""The process that runs a model."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import cv2
import pytest
import torch

from ensemble.models import runtime
from ensemble.models.runtime import SignalStack, configure_process, signal_stack_kept

FAULTS = """
import os, resource, torch
from ensemble.models.runtime import configure_process
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(10_000_000)  # more than what malloc keeps by itself at most, 32 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for settled in (False, True):
    if os.fork() == 0:  # torch is imported once
        if settled:
            configure_process(1)
        faults()
        faults()
        print(faults(), flush=True)
        os._exit(0)
    os.wait()
"""


def test_threads_are_as_asked_and_opencv_keeps_to_one() -> None:
    before = torch.get_num_threads()
    try:
        configure_process(2)
        assert torch.get_num_threads() == 2
        configure_process(1)
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (1, 1)
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not hasattr(__import__("ctypes").CDLL(None), "mallopt"), reason="the C library has no mallopt")
def test_large_blocks_stay_in_the_process() -> None:
    """Else every layer's output costs a page fault for each 4 KiB."""
    plain, settled = map(int, subprocess.check_output([sys.executable, "-c", FAULTS], text=True).split())
    assert settled < plain / 10


def test_a_c_library_without_mallopt_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.ctypes, "CDLL", lambda name: object())
    before = torch.get_num_threads()
    configure_process(before)
    assert torch.get_num_threads() == before


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
