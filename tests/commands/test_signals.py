"""SIGTERM stops a command as Ctrl-C does, and ends the processes that it has forked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from run_command import maskens

import cli

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and forks")

FORK_AND_STOP = """
import os, signal, time
import cli

def fork_and_stop(**_):
    child = os.fork()
    if child == 0:
        try:
            time.sleep(60)
        except BaseException:  # a loader process that goes on after an exception
            time.sleep(60)
        os._exit(0)
    time.sleep(0.2)
    os.kill(child, signal.SIGTERM)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)

def interrupted(**options):
    try:
        fork_and_stop()
    except KeyboardInterrupt:
        return 130
    return 0

cli.app = interrupted
cli.main()
"""


def test_a_command_leaves_the_callers_handler_as_it_was() -> None:
    before = signal.getsignal(signal.SIGTERM)
    maskens("recipes")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_forked_process_ends_at_once_and_the_command_itself_is_interrupted() -> None:
    """In a process of its own, as some libraries that other tests load do not outlive a fork."""
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parent)}
    ended = subprocess.run(
        [sys.executable, "-c", FORK_AND_STOP], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.stdout.split() == [str(128 + signal.SIGTERM)], ended.stderr
    assert ended.returncode == 128 + signal.SIGTERM
