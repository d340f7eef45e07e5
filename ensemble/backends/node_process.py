"""A call on a cluster's node: in a process of its own, so that nothing of a scheduler's worker gets in its way.

A worker may run several tasks as threads, which share torch's random streams; it may be daemonic, and then has no
children of its own; and a crash would take it along.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ensemble.backends.backend import Call, WorkerLost, WorkerStopped
from ensemble.backends.child import end_with_parent, thread_environment
from ensemble.backends.paths import pack, refuse_missing
from ensemble.jobs.stopping import CALL_VARIABLE, stop_file
from folds.errors import MaskensError
from folds.versions import library_versions

LOOK = 0.5  # seconds between two looks at whether it is to stop
STOPPED = 143  # exit code: by SIGTERM


@dataclass(frozen=True)
class Outcome:
    """What became of a call on a node."""

    state: Literal["returned", "raised", "lost", "stopped"]
    value: Any = None  # what it returned or raised; how its process was lost

    def result(self, stopping: bool = False) -> Any:
        """The call's result.

        Args:
            stopping: the command itself has asked all calls to stop.

        Raises:
            WorkerLost, WorkerStopped, Exception: as of `Backend.call`.
        """
        if self.state == "returned":
            return self.value
        if self.state == "raised":
            raise self.value
        if stopping:
            raise KeyboardInterrupt
        raise WorkerLost(self.value) if self.state == "lost" else WorkerStopped


@dataclass(frozen=True)
class NodeCall:
    """A call on its way to a node; small for the scheduler's worker, which need not know what it is about."""

    name: str
    log: Path
    notes: Path
    needs: tuple[Path, ...]
    token: str
    threads: int
    version: str  # of maskens
    work: bytes  # function and arguments


def pack_call(call: Call, threads: int) -> bytes:
    """A call as `run_on_node` takes it.

    Args:
        threads: of its arithmetic.
    """
    work, version = pack((call.function, call.args)), library_versions()["maskens"]
    return pack(NodeCall(call.name, call.log, call.notes, call.needs, call.token, threads, version, work))


def stop_all(calls: Sequence[Call], seconds: float) -> None:
    """Have the processes of calls, wherever they are, save their work and end; waits for that, but not for longer."""
    with contextlib.suppress(OSError):
        for call in calls:
            stop_file(call.notes, call.token).touch()
    until = time.monotonic() + seconds
    while time.monotonic() < until and any(started_file(call.notes, call.token).exists() for call in calls):
        time.sleep(0.1)
    for call in calls:  # of those that never started, too
        stop_file(call.notes, call.token).unlink(missing_ok=True)


def started_file(notes: Path, token: str) -> Path:
    """There from the start of a call's process to its end."""
    return notes / f"{token}.started"


def run_on_node(packed: bytes) -> Outcome:
    """Run a packed call in a process of its own on this node, to its end. Raises nothing."""
    try:
        call: NodeCall = pickle.loads(packed)
        _check(call)
        started = started_file(call.notes, call.token)
        try:
            started.open("x").close()
        except FileExistsError:  # schedulers give tasks of lost workers to others by themselves
            started.unlink(missing_ok=True)
            return Outcome("lost", "the worker that had it is gone")
        try:
            return _run_process(call)
        finally:
            started.unlink(missing_ok=True)
            stop_file(call.notes, call.token).unlink(missing_ok=True)
    except Exception as error:
        return Outcome("raised", _portable(error))


def _check(call: NodeCall) -> None:
    here = library_versions()["maskens"]
    if here != call.version:
        raise MaskensError(
            f"node {socket.gethostname()} has maskens {here}, the command that started the job {call.version}: "
            "install the same there."
        )
    refuse_missing(call.needs)


def _run_process(call: NodeCall) -> Outcome:
    call.log.parent.mkdir(parents=True, exist_ok=True)
    paths = os.pathsep.join(filter(None, sys.path))
    environment = os.environ | thread_environment(call.threads) | {"PYTHONPATH": paths, CALL_VARIABLE: call.token}
    with tempfile.TemporaryDirectory(prefix="maskens-") as folder, call.log.open("ab") as log:
        log.write(f"{time.ctime()}: {call.name} on {socket.gethostname()}\n".encode())
        log.flush()
        answer = Path(folder) / "outcome"
        process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import main; main()", str(answer)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C on a terminal is for the command, which asks to stop
        )
        assert process.stdin
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(call.work)
        asked = False
        while process.poll() is None:
            if not asked and stop_file(call.notes, call.token).exists():
                process.terminate()
                asked = True
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LOOK)
        if answer.exists():
            outcome: Outcome = pickle.loads(answer.read_bytes())
            return outcome
    code = process.returncode
    if code == STOPPED:
        return Outcome("stopped")
    words = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return Outcome("lost", f"its process on {socket.gethostname()} {words}; see {call.log}")


def _portable(error: Exception) -> Exception:
    """The error, if it can be pickled; else another with its text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def main() -> None:
    """In the process."""
    end_with_parent(os.getppid())
    faulthandler.enable()  # where a library crashes goes into the log
    try:
        function, args = pickle.load(sys.stdin.buffer)
        outcome = Outcome("returned", function(*args))
    except KeyboardInterrupt:
        sys.exit(STOPPED)
    except MaskensError as error:
        outcome = Outcome("raised", error)
    except Exception as error:
        traceback.print_exc()
        outcome = Outcome("raised", _portable(error))
    Path(sys.argv[1]).write_bytes(pickle.dumps(outcome))
