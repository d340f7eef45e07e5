"""Items that arrive at nearly the same time, answered together by one thread."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class QueueFull(Exception):
    """There is no room for the items; none of them was taken."""


class Batcher(Generic[Item, Answer]):
    """A bounded queue that is emptied a batch at a time; for one event loop.

    A batch starts when its first item has waited for `wait` seconds, or earlier if it is full. Items that came while
    the batch before was answered have waited already, so that under load nobody waits for the clock.

    Args:
        answer: called in `thread`; what it raises is raised for each item of that batch.
        thread: runs one call at a time.
        batch: items at most that are answered together.
        wait: seconds.
        room: items at most that wait.
    """

    def __init__(
        self,
        answer: Callable[[list[Item]], Sequence[Answer]],
        thread: Executor,
        batch: int,
        wait: float,
        room: int,
    ) -> None:
        self._answer, self._thread = answer, thread
        self._batch, self._wait, self._room = batch, wait, room
        self._queue: deque[tuple[Item, asyncio.Future[Answer], float]] = deque()  # the time that it waits since
        self._full = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Items that wait."""
        return len(self._queue)

    async def answers(self, items: Sequence[Item]) -> list[Answer]:
        """Queue items, all or none, and wait for their answers. Raises QueueFull: there is no room for all of them."""
        if len(self._queue) + len(items) > self._room:
            raise QueueFull
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Answer]] = [loop.create_future() for _ in items]
        self._queue.extend((item, future, loop.time()) for item, future in zip(items, futures, strict=True))
        if len(self._queue) >= self._batch:
            self._full.set()
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._answer_all())
        return await asyncio.gather(*futures)

    async def _answer_all(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue:
            left = self._queue[0][2] + self._wait - loop.time()
            if left > 0 and len(self._queue) < self._batch:
                self._full.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._full.wait(), left)
            taken = [self._queue.popleft() for _ in range(min(self._batch, len(self._queue)))]
            batch = [(item, future) for item, future, _ in taken if not future.done()]  # else it was cancelled
            if not batch:
                continue
            try:
                answers = await loop.run_in_executor(self._thread, self._answer, [item for item, _ in batch])
                for (_, future), answer in zip(batch, answers, strict=True):
                    if not future.done():
                        future.set_result(answer)
            except Exception as error:  # the next batch is still answered
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
