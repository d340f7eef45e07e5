"""The process that runs a model."""

from __future__ import annotations

import subprocess
import sys

import cv2
import pytest
import torch

from ensemble.models import process
from ensemble.models.process import configure_process

FAULTS = """
import resource, sys, torch
from ensemble.models.process import configure_process
if sys.argv[1] == "settled":
    configure_process(1)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(20_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
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
    plain, settled = (
        int(subprocess.check_output([sys.executable, "-c", FAULTS, way], text=True)) for way in ("plain", "settled")
    )
    assert settled < plain / 10


def test_a_c_library_without_mallopt_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process.ctypes, "CDLL", lambda name: object())
    before = torch.get_num_threads()
    configure_process(before)
    assert torch.get_num_threads() == before
