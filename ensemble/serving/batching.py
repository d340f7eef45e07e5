"""Items that arrive at nearly the same time, answered together by one thread."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class QueueFull(Exception):
    """There is no room for the items; none of them was taken."""


@dataclass(frozen=True)
class _Waiting(Generic[Item, Answer]):
    item: Item
    future: Future[Answer]
    since: float  # time.monotonic()


class Batcher(Generic[Item, Answer]):
    """A bounded queue and the one thread that empties it, a batch at a time.

    A batch is begun when its first item has waited for `wait` seconds, or earlier if it is full. Items that came while
    the batch before was answered have waited already, so that under load nobody waits for the clock.
    """

    def __init__(
        self,
        answer: Callable[[list[Item]], Sequence[Answer]],
        batch: int,
        wait: float,
        room: int,
        on_batch: Callable[[int], None] = lambda size: None,
    ) -> None:
        """
        Args:
            answer: called by the thread alone; what it raises is raised by the future of each item of that batch.
            batch: items at most that are answered together.
            wait: seconds.
            room: items at most that wait.
            on_batch: called with the size of each batch before it is answered.
        """
        self._answer, self._batch, self._wait, self._room, self._on_batch = answer, batch, wait, room, on_batch
        self._queue: deque[_Waiting[Item, Answer]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)

    def __len__(self) -> int:
        """Items that wait."""
        return len(self._queue)

    @property
    def alive(self) -> bool:
        """Whether it answers."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def submit(self, items: Sequence[Item]) -> list[Future[Answer]]:
        """Queue items, all or none.

        Raises:
            QueueFull: there is no room for all of them.
        """
        now = time.monotonic()
        waiting = [_Waiting[Item, Answer](item, Future(), now) for item in items]
        with self._changed:
            if len(self._queue) + len(waiting) > self._room:
                raise QueueFull
            self._queue.extend(waiting)
            self._changed.notify()
        return [w.future for w in waiting]

    def close(self) -> None:
        """Answer what waits, then end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next_batch():
            wanted = [w for w in batch if w.future.set_running_or_notify_cancel()]
            if not wanted:
                continue
            self._on_batch(len(wanted))
            try:
                answers = self._answer([w.item for w in wanted])
                for waiting, found in zip(wanted, answers, strict=True):
                    waiting.future.set_result(found)
            except Exception as error:  # the thread must outlive it
                for waiting in wanted:
                    waiting.future.set_exception(error)

    def _next_batch(self) -> list[_Waiting[Item, Answer]]:
        """Waits for it; empty at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            if self._queue:
                left = self._queue[0].since + self._wait - time.monotonic()
                self._changed.wait_for(lambda: len(self._queue) >= self._batch or self._closing, max(0.0, left))
            return [self._queue.popleft() for _ in range(min(self._batch, len(self._queue)))]
