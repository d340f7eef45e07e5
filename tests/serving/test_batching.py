"""The queue that answers together what arrives together."""

from __future__ import annotations

import threading
import time

import pytest

from ensemble.serving.batching import Batcher, QueueFull


class Gate:
    """Answers by doubling, once it is open."""

    def __init__(self) -> None:
        self.open, self.entered = threading.Event(), threading.Event()
        self.batches: list[list[int]] = []
        self.threads: set[str] = set()

    def __call__(self, items: list[int]) -> list[int]:
        self.entered.set()
        assert self.open.wait(10)
        self.batches.append(items)
        self.threads.add(threading.current_thread().name)
        return [2 * i for i in items]


def test_what_arrives_within_the_wait_is_one_batch_in_one_thread() -> None:
    gate, sizes = Gate(), list[int]()
    gate.open.set()
    batcher = Batcher[int, int](gate, batch=8, wait=30, room=100, on_batch=sizes.append)
    batcher.start()
    futures = [f for n in range(4) for f in batcher.submit([2 * n, 2 * n + 1])]  # the eighth fills the batch
    assert [f.result(10) for f in futures] == [0, 2, 4, 6, 8, 10, 12, 14]
    assert (gate.batches, sizes, gate.threads) == ([list(range(8))], [8], {"batcher"})
    batcher.close()
    assert not batcher.alive


def test_a_single_item_waits_no_longer_than_told() -> None:
    gate = Gate()
    gate.open.set()
    batcher = Batcher[int, int](gate, batch=8, wait=0.05, room=100)
    batcher.start()
    started = time.monotonic()
    assert batcher.submit([3])[0].result(10) == 6
    assert time.monotonic() - started >= 0.05
    batcher.close()


def test_what_came_while_a_batch_was_answered_is_the_next_and_does_not_wait_again() -> None:
    gate = Gate()
    batcher = Batcher[int, int](gate, batch=4, wait=0.0, room=100)
    batcher.start()
    first = batcher.submit([0])
    assert gate.entered.wait(10)
    rest = batcher.submit(range(1, 7))
    assert len(batcher) == 6
    gate.open.set()
    assert [f.result(10) for f in [*first, *rest]] == [0, 2, 4, 6, 8, 10, 12]
    assert gate.batches == [[0], [1, 2, 3, 4], [5, 6]]
    batcher.close()


def test_a_full_queue_takes_all_of_a_request_or_nothing_and_closing_answers_what_waits() -> None:
    gate = Gate()
    batcher = Batcher[int, int](gate, batch=1, wait=0.0, room=3)
    batcher.start()
    first = batcher.submit([0])
    assert gate.entered.wait(10)
    waiting = batcher.submit([1, 2])
    with pytest.raises(QueueFull):
        batcher.submit([3, 4])
    assert len(batcher) == 2
    dropped = batcher.submit([5])[0]
    assert dropped.cancel()
    gate.open.set()
    batcher.close()
    assert [f.result(0) for f in [*first, *waiting]] == [0, 2, 4]
    assert gate.batches == [[0], [1], [2]]


def test_what_an_answer_raises_reaches_its_batch_and_the_next_is_answered() -> None:
    def answer(items: list[int]) -> list[int]:
        return [1 // i for i in items]

    batcher = Batcher[int, int](answer, batch=2, wait=30, room=10)
    batcher.start()
    bad = batcher.submit([1, 0])
    for future in bad:
        with pytest.raises(ZeroDivisionError):
            future.result(10)
    assert [f.result(10) for f in batcher.submit([1, 1])] == [1, 1]
    batcher.close()
