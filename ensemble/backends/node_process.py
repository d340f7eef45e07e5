"""A call on a cluster's node, in a process beside the scheduler's worker, and paths that are others there."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

from ensemble.backends.backend import STOPPING, Call, WorkerLost, WorkerStopped
from ensemble.backends.work_process import STOPPED, Outcome, Worker, portable
from ensemble.jobs.stopping import stop_file
from folds.errors import MaskensError
from folds.run_folder import library_versions

VARIABLE = "MASKENS_PATHS"  # of a node's environment: PAIR, several with os.pathsep between
PAIR = "/path/of/the/command=/path/on/this/node"
LATE = 5.0  # seconds after which a file is to be seen on other nodes
LOOK = 0.5  # seconds between two looks at whether it is to stop


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, PurePath):
            return node_path, (os.path.abspath(value),)
        return NotImplemented


def pack(value: Any) -> bytes:
    """Pickle for another node: paths travel as absolute ones and become those of the node that reads them."""
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


def node_path(path: str) -> Path:
    """Where a path of the machine that started a call is on this node. Raises MaskensError: malformed MASKENS_PATHS."""
    pairs = []
    for item in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        there, equals, here = item.partition("=")
        if not (equals and os.path.isabs(there) and os.path.isabs(here)):
            raise _refusal(f"{VARIABLE} holds {item!r}, expected {PAIR} (several separated by {os.pathsep}).")
        pairs.append((Path(there), Path(here)))
    for source, target in sorted(pairs, key=lambda pair: -len(pair[0].parts)):  # the most exact one first
        if Path(path).is_relative_to(source):
            return target / Path(path).relative_to(source)
    return Path(path)


def _refusal(reason: str) -> MaskensError:
    return MaskensError(f"node {socket.gethostname()}: {reason}")


@contextlib.contextmanager
def packed_call(call: Call, threads: int) -> Iterator[bytes]:
    """A call, packed for `run_on_node`. Within the block a file in its folder of notes lets a node recognise it.
    Raises MaskensError: the file can't be written."""
    work = pack((call.function, call.args))  # packed by itself, as the scheduler's worker need not import what it needs
    mark = marking_file(call.notes, call.token)
    try:
        mark.touch()
    except OSError as error:
        raise MaskensError(f"can't write {mark}: {error.strerror}") from error
    about = (call.name, call.log, call.notes, call.needs, call.token)
    try:
        yield pack((library_versions()["maskens"], about, threads, work))
    finally:
        mark.unlink(missing_ok=True)


def marking_file(notes: Path, token: str) -> Path:
    """There for as long as a call is handed out."""
    return notes / f"{token}.call"


def started_file(notes: Path, token: str) -> Path:
    """There from the start of a call's process to its end."""
    return notes / f"{token}.started"


def stop_all(calls: Sequence[Call]) -> None:
    """Have the processes of calls, wherever they are, save their work and end; waits for STOPPING seconds at most."""
    with contextlib.suppress(OSError):
        for call in calls:
            stop_file(call.notes, call.token).touch()
    until = time.monotonic() + STOPPING
    while time.monotonic() < until and any(started_file(call.notes, call.token).exists() for call in calls):
        time.sleep(0.1)
    for call in calls:  # of those that never started, too
        stop_file(call.notes, call.token).unlink(missing_ok=True)


def cant_run(error: Exception) -> MaskensError:
    """The error where `run_on_node`, which raises nothing itself, could not even begin."""
    last = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
    return MaskensError(f"a node can't run maskens ({last}). Install the same maskens and Python there")


def run_on_node(packed: bytes) -> Outcome:
    """Run a packed call in a process of its own on this node, to its end. Raises nothing."""
    try:
        version, (name, log, notes, needs, token), threads, work = pickle.loads(packed)
        _check(version, notes, needs, token)
        started = started_file(notes, token)
        try:
            started.open("x").close()
        except FileExistsError:  # schedulers give tasks of lost workers to others by themselves
            started.unlink(missing_ok=True)
            return Outcome(error=WorkerLost("the worker that had it is gone"))
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("a") as file:
                file.write(f"{time.ctime()}: {name} on {socket.gethostname()}\n")
            return _run_process(log, stop_file(notes, token), token, threads, work)
        finally:
            started.unlink(missing_ok=True)
            stop_file(notes, token).unlink(missing_ok=True)
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return Outcome(error=_refusal(reason))
    except Exception as error:
        return Outcome(error=portable(error))


def _check(version: str, notes: Path, needs: Sequence[Path], token: str) -> None:
    """Refuse a node with another maskens, or without the command's folders."""
    here = library_versions()["maskens"]
    if here != version:
        raise _refusal(f"it has maskens {here}, the command that started the job {version}. Install the same there.")
    if missing := [str(folder) for folder in needs if not folder.is_dir()]:
        known = os.environ.get(VARIABLE)
        raise _refusal(
            f"missing folders: {', '.join(missing)}{f' (with {VARIABLE}={known})' if known else ''}. Mount them, or "
            f"start the node's worker with {VARIABLE}={PAIR}."
        )
    until = time.monotonic() + LATE
    while not marking_file(notes, token).exists():
        if time.monotonic() > until:
            raise _refusal(f"{notes} is not the command's folder of that name. Use a disk that both share.")
        time.sleep(0.1)


def _run_process(log: Path, stop: Path, token: str, threads: int, work: bytes) -> Outcome:
    worker, asked = Worker.take(threads), False
    try:
        worker.connection.send((str(log), token, work))
        while not worker.connection.poll(LOOK):
            if not asked and stop.exists():
                worker.process.terminate()
                asked = True
        outcome: Outcome = worker.connection.recv()
        worker.give_back()
        return outcome
    except (EOFError, ConnectionError):
        code = worker.end()
    if code == STOPPED:
        return Outcome(error=WorkerStopped())
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return Outcome(error=WorkerLost(f"worker crashed ({how}) on {socket.gethostname()}, see {log}"))
