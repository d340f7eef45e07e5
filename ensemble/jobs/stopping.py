"""Ctrl-C and SIGTERM while work is under way that should be saved first, and files that ask for the same."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
CALL_VARIABLE = "MASKENS_CALL"  # of the environment of a process on a cluster's node: what its stop file is named after


def stop_file(folder: Path, call: str) -> Path:
    """Once it is there, the process of a call on a cluster's node is asked to save its work and to end."""
    return folder / f"{call}.stop"


class StopRequest:
    """Whether a signal has asked to stop."""

    def __init__(self) -> None:
        self.number = 0  # of the signal

    @property
    def made(self) -> bool:
        return self.number != 0

    def note(self, number: int, frame: FrameType | None) -> None:
        """A signal's handler. A second Ctrl-C does not wait any longer."""
        if self.made and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Within the block signals are noted and interrupt nothing, so that it can end where its work is whole.

    At its end they do what they would have done, which is to interrupt. In another thread than the main one, where
    Python takes no handlers, they do so at once. Those that the process ignores stay ignored.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = [signal.signal(number, request.note) for number in heeded]
    try:
        yield request
    finally:
        for number, handler in zip(heeded, before, strict=True):
            signal.signal(number, handler)
        if request.made:
            signal.raise_signal(request.number)
