"""The next batch made early: the same batches in the same order, and errors when it is their turn."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from ensemble.inference.look_ahead import LookAhead, Upload
from folds.errors import MaskensError


def test_an_item_is_made_once_and_no_more_than_one_ahead() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for n in range(4):
            made.append(n)
            yield n

    ahead, seen = LookAhead(items()), []
    for n in ahead:
        seen.append(n)
        if n != 2:
            ahead.fetch()
            ahead.fetch()
            assert made == list(range(min(n + 2, 4)))
    assert seen == made == [0, 1, 2, 3]


def test_what_goes_wrong_early_does_not_take_the_item_before_it_along() -> None:
    def items() -> Iterator[int]:
        yield 0
        raise MaskensError("a.jpg can't be read")

    ahead = LookAhead(items())
    assert next(ahead) == 0
    ahead.fetch()
    for _ in range(2):
        with pytest.raises(MaskensError, match=r"a\.jpg"):
            next(ahead)


def test_photos_on_a_cpu_stay_where_they_are() -> None:
    photos = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    (found,) = Upload([photos], torch.device("cpu")).arrived()
    assert found is photos
