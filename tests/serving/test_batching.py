"""The queue that answers together what arrives together."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ensemble.serving.batching import Batcher, QueueFull


class Gate:
    """Answers by dividing 12, once it is open."""

    def __init__(self) -> None:
        self.open, self.entered = threading.Event(), threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, items: list[int]) -> list[int]:
        self.entered.set()
        assert self.open.wait(10)
        self.batches.append(items)
        return [12 // i for i in items]


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture
def gate() -> Gate:
    return Gate()


def test_a_full_queue_takes_all_of_a_request_or_nothing(gate: Gate, thread: ThreadPoolExecutor) -> None:
    async def ask() -> None:
        batcher = Batcher[int, int](gate, thread, batch=2, wait=0, room=4)
        first = asyncio.create_task(batcher.answers([1]))
        while not gate.entered.is_set():
            await asyncio.sleep(0.001)
        waiting = asyncio.create_task(batcher.answers([2, 3, 4]))
        dropped = asyncio.create_task(batcher.answers([6]))
        await asyncio.sleep(0)
        assert len(batcher) == 4
        with pytest.raises(QueueFull):
            await batcher.answers([3, 4])
        dropped.cancel()
        await asyncio.sleep(0)
        gate.open.set()
        assert await asyncio.wait_for(asyncio.gather(first, waiting), 10) == [[12], [6, 4, 3]]

    asyncio.run(ask())
    assert gate.batches == [[1], [2, 3], [4]], "what came meanwhile is the next batch, without the cancelled one"
