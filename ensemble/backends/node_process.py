"""A call on a cluster's node, in a process beside the scheduler's worker, and paths that are others there."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import signal
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from ensemble.backends.backend import Call
from ensemble.backends.work_process import STOPPED, Outcome, Worker, WorkerPool, portable
from ensemble.jobs.stopping import stop_file
from folds.errors import MaskensError
from folds.run_folder import library_versions

VARIABLE = "MASKENS_PATHS"  # of a node's environment: PAIR, several with os.pathsep between
PAIR = "/path/of/the/command=/path/on/this/node"


class _Pickler(pickle.Pickler):
    """Paths travel as absolute ones and become what they are on the node that reads them."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, PurePath):
            return node_path, (os.path.abspath(value),)
        return NotImplemented


def pack(value: Any) -> bytes:
    """Pickle for another node; `pickle.loads` there."""
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


def node_path(path: str) -> Path:
    """Where a path of the machine that started a call is on this node, as MASKENS_PATHS says; the same without it.

    Raises:
        MaskensError: the variable is malformed.
    """
    pairs = []
    for item in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        there, equals, here = item.partition("=")
        if not (equals and os.path.isabs(there) and os.path.isabs(here)):
            raise MaskensError(
                f"node {socket.gethostname()}: {VARIABLE} holds {item!r}, which is not {PAIR} (several are "
                f"separated by {os.pathsep})."
            )
        pairs.append((Path(there), Path(here)))
    for source, target in sorted(pairs, key=lambda pair: -len(pair[0].parts)):  # the most exact one first
        if Path(path).is_relative_to(source):
            return target / Path(path).relative_to(source)
    return Path(path)


def refuse_missing(folders: tuple[Path, ...]) -> None:
    """Refuse a node on which folders are not there.

    Raises:
        MaskensError: naming node and folders.
    """
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        known = os.environ.get(VARIABLE)
        raise MaskensError(
            f"node {socket.gethostname()}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not there"
            f"{f' (with {VARIABLE}={known})' if known else ''}. Mount it, or start the node's worker with "
            f"{VARIABLE}={PAIR}, where the node has it elsewhere."
        )


LATE = 5.0  # seconds after which a file is to be seen on other nodes
LOOK = 0.5  # seconds between two looks at whether it is to stop


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


@contextlib.contextmanager
def packed_call(call: Call, threads: int) -> Iterator[bytes]:
    """A call as `run_on_node` takes it. A file marks its folder of notes meanwhile, by which a node knows it.

    Args:
        threads: of its arithmetic.

    Raises:
        MaskensError: the disk does not take it.
    """
    work, version = pack((call.function, call.args)), library_versions()["maskens"]
    mark = marking_file(call.notes, call.token)
    try:
        mark.touch()
    except OSError as error:
        raise MaskensError(f"can't write {mark}: {error.strerror}") from error
    try:
        yield pack(NodeCall(call.name, call.log, call.notes, call.needs, call.token, threads, version, work))
    finally:
        mark.unlink(missing_ok=True)


def marking_file(notes: Path, token: str) -> Path:
    """There for as long as a call is handed out."""
    return notes / f"{token}.call"


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


def cant_run(error: Exception) -> MaskensError:
    """What to say of a node where `run_on_node`, which raises nothing itself, could not even begin."""
    last = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
    return MaskensError(f"a node can't run maskens ({last}). Install the same maskens and Python there")


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
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return Outcome("raised", MaskensError(f"node {socket.gethostname()}: {reason}"))
    except Exception as error:
        return Outcome("raised", portable(error))


def _check(call: NodeCall) -> None:
    here = library_versions()["maskens"]
    if here != call.version:
        raise MaskensError(
            f"node {socket.gethostname()} has maskens {here}, the command that started the job {call.version}: "
            "install the same there."
        )
    refuse_missing(call.needs)
    mark, until = marking_file(call.notes, call.token), time.monotonic() + LATE
    while not mark.exists():
        if time.monotonic() > until:
            raise MaskensError(
                f"node {socket.gethostname()}: {call.notes} is there, but it is not the folder of that name that the "
                "command has: both have to be on a disk that they share."
            )
        time.sleep(0.1)


def _run_process(call: NodeCall) -> Outcome:
    call.log.parent.mkdir(parents=True, exist_ok=True)
    with call.log.open("a") as log:
        log.write(f"{time.ctime()}: {call.name} on {socket.gethostname()}\n")
    with tempfile.TemporaryDirectory(prefix="maskens-") as folder:
        answer = Path(folder) / "outcome"
        child = WorkerPool.take(call.threads)
        if not child.send(str(call.log), call.token, str(answer), call.work):  # it has ended for want of work
            child.end()
            child = Worker(call.threads)
            child.send(str(call.log), call.token, str(answer), call.work)
        asked = False
        while not child.has_answered(LOOK):
            if not asked and stop_file(call.notes, call.token).exists():
                child.process.terminate()
                asked = True
        if answer.exists():
            WorkerPool.give_back(child)
            outcome: Outcome = pickle.loads(answer.read_bytes())
            return outcome
    code = child.end()
    if code == STOPPED:
        return Outcome("stopped")
    words = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return Outcome("lost", f"its process on {socket.gethostname()} {words}; see {call.log}")
