"""SIGTERM stops a command as Ctrl-C does, and ends the processes that it has forked."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest
from run_command import maskens

import cli

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and forks")


def test_a_command_leaves_the_callers_handler_as_it_was() -> None:
    before = signal.getsignal(signal.SIGTERM)
    maskens("recipes")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_forked_process_ends_at_once_and_the_command_itself_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []

    def fork_and_stop(**_: object) -> None:
        child = os.fork()
        if child == 0:
            try:
                time.sleep(60)
            except BaseException:  # a loader process that goes on after an exception
                time.sleep(60)
            os._exit(0)
        time.sleep(0.2)
        os.kill(child, signal.SIGTERM)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    def interrupted(**options: object) -> int:
        with pytest.raises(KeyboardInterrupt):
            fork_and_stop()
        return 130

    monkeypatch.setattr(cli, "app", interrupted)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert (codes, stopped.value.code) == ([128 + signal.SIGTERM], 128 + signal.SIGTERM)
