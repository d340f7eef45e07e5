"""Ctrl-C, SIGTERM and SIGHUP, which interrupt at once or when work is saved; and stop files, which ask for the same."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AGAIN = 0.1  # seconds after which an interruption that had to wait, or was swallowed, is raised again
CALL_VARIABLE = "MASKENS_CALL"  # of the environment of a process on a cluster's node: what its stop file is named after


def stop_file(folder: Path, call: str) -> Path:
    """The file that asks the process of a call on a cluster's node to save its work and end."""
    return folder / f"{call}.stop"


class Interruption:
    """Signals that raise KeyboardInterrupt in the main thread.

    Python swallows errors raised within `__del__` or a weak reference's callback, and an interrupted import may end in
    any error. So a signal waits for imports to end, and is raised again until the stack is being unwound.
    """

    def __init__(self) -> None:
        self.number = 0  # of the first signal
        self._owner = 0
        self._passed_on: object = None
        self._before: dict[int, Any] = {}
        self._hook = sys.unraisablehook
        self._top: object = None  # code of the function that calls all that is interrupted

    def install(self, numbers: Sequence[int] = SIGNALS) -> None:
        """Heed these signals; those that the process ignores stay ignored. In the main thread only."""
        self.number, self._owner, self._hook = 0, os.getpid(), sys.unraisablehook
        self._top = sys._getframe(1).f_code
        self._before = _heed(numbers, self.handle)
        self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._again)
        sys.unraisablehook = self._unraisable

    def restore(self) -> None:
        """Undo `install`."""
        self.settle()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        sys.unraisablehook = self._hook

    def settle(self) -> int:
        """Raise the interruption no more. Returns the number of its signal, 0 for none."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        number, self.number = self.number, 0
        return number

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The handler. Forked loader processes inherit it and must just end: after an exception they might live on."""
        if os.getpid() != self._owner:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            os._exit(128 + number)
        first, self.number, self._passed_on = not self.number, self.number or number, self.handle
        if first:
            signal.setitimer(signal.ITIMER_REAL, AGAIN, AGAIN)
            if self._importing(frame):
                return
        raise KeyboardInterrupt

    def _again(self, number: int, frame: FrameType | None) -> None:
        handler = signal.getsignal(self.number) if self.number else None
        if handler == self.handle:
            if not _unwinding() and not self._importing(frame):
                raise KeyboardInterrupt
        elif callable(handler) and handler != self._passed_on:  # `stop_requests` within
            self._passed_on = handler
            handler(self.number, frame)

    def _importing(self, frame: FrameType | None) -> bool:
        while frame and frame.f_code is not self._top:
            if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
                return True
            frame = frame.f_back
        return False

    def _unraisable(self, unraisable: sys.UnraisableHookArgs) -> None:
        if not (self.number and isinstance(unraisable.exc_value, KeyboardInterrupt)):
            self._hook(unraisable)


def _heed(numbers: Sequence[int], handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Handle these signals, except those that the process ignores. Returns their handlers before."""
    return {n: signal.signal(n, handler) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}


def _unwinding() -> bool:
    """Whether an interruption is on its way up, or what came of it."""
    error = sys.exception()
    while error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            return True
        error = error.__context__
    return False


class StopRequest:
    """Whether a signal has asked to stop."""

    number = 0  # of the signal

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
    """Within the block signals are noted and interrupt at its end, so that it can end where its work is whole.

    In another thread than the main one, where Python takes no handlers, they interrupt at once. Those that the process
    ignores stay ignored.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = _heed(SIGNALS, request.note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if request.made:
            signal.raise_signal(request.number)
