"""What every backend does: call a function somewhere, and report when its process or node is gone."""

from __future__ import annotations

import abc
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import joblib

Item = TypeVar("Item")
STOPPING = 60.0  # seconds that a call which is to stop has for saving its work


class ClusterCapacity(NamedTuple):
    """How many calls a cluster takes at a time, and what each of them has."""

    slots: int
    gpus: int  # of all nodes
    cores: int  # of a node, for each call
    largest: int | None = None  # cores of the largest node, where calls that need more would wait for ever


class WorkerLost(Exception):
    """The process or the node of a call is gone; nothing is wrong with the call itself. The message says what is known,
    and ends without a full stop."""


class WorkerStopped(Exception):
    """The process of a call was asked to stop, by somebody else than its command."""


@dataclass(frozen=True)
class Call:
    """A function of an importable module and its arguments, all of which can be pickled."""

    name: str  # for people: `mask fold 0`
    function: Callable[..., Any]
    args: tuple[Any, ...]
    log: Path  # what a process on another node prints, its traceback above all
    notes: Path  # folder for files between command and nodes; log and notes lie on storage that all nodes share
    needs: tuple[Path, ...] = ()  # folders that must be there on the node
    token: str = field(default_factory=lambda: uuid.uuid4().hex)  # of this one attempt


class Backend(abc.ABC):
    """A context in which calls run. At its end the processes end; if that is an interruption, the calls under way are
    first asked to save their work."""

    slots = 1  # calls at a time

    @abc.abstractmethod
    def call(self, call: Call) -> Any:
        """Run a call and return its result; from as many threads at a time as there are slots.

        Raises:
            WorkerLost: its process is gone.
            WorkerStopped: its process was asked to stop by another.
            KeyboardInterrupt: the command itself is interrupted.
            Exception: what the function raises.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *more: object) -> None:
        return None


class SequentialBackend(Backend):
    """One call after the other, in this process."""

    def call(self, call: Call) -> Any:
        return call.function(*call.args)


def call_with_retries(
    backend: Backend, make: Callable[[], Call], retries: int, on_retry: Callable[[str], object] = lambda note: None
) -> Any:
    """Call until the call ends, or raise WorkerLost when its process is lost more than `retries` times.

    Args:
        make: a call, anew for each attempt.
        on_retry: called with the reason for another attempt.
    """
    for attempt in range(2, retries + 2):
        try:
            return backend.call(make())
        except WorkerLost as lost:
            on_retry(f"{lost}; attempt {attempt} of {1 + retries}")
    return backend.call(make())


def run_in_threads(work: Callable[[Item], Any], items: Sequence[Item], slots: int) -> list[Any]:
    """The results of `work` for each item: in this thread if there is one slot, else in so many threads."""
    if slots == 1:
        return [work(item) for item in items]
    return list(joblib.Parallel(n_jobs=slots, backend="threading")(joblib.delayed(work)(item) for item in items))
