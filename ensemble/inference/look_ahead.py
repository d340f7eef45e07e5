"""The next batch read and on its way to the GPU while that works on the one before."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class LookAhead(Generic[T]):
    """Items in their order, each made when it is its turn or, by `fetch`, one earlier.

    What goes wrong while an item is made early is raised when it is that item's turn, so that all before it are done.
    """

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items
        self._next: list[T] = []
        self._error: Exception | None = None
        self._ended = False

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        self.fetch()
        if self._error is not None:
            raise self._error
        if self._ended:
            raise StopIteration
        return self._next.pop()

    def fetch(self) -> None:
        """Make the next item now, unless that is done."""
        if self._next or self._ended or self._error is not None:
            return
        try:
            self._next.append(next(self._items))
        except StopIteration:
            self._ended = True
        except Exception as error:
            self._error = error


class Upload:
    """Photos copied to a device: to a GPU beside what it computes, if they come from pinned memory."""

    def __init__(self, photos: Sequence[Tensor], device: torch.device) -> None:
        self._device = device
        self._stream = _copy_stream(device) if device.type == "cuda" else None
        with torch.cuda.stream(self._stream) if self._stream else contextlib.nullcontext():
            self._photos = [p.to(device, non_blocking=True) for p in photos]
        self._copied = self._stream.record_event() if self._stream else None

    def arrived(self) -> list[Tensor]:
        """The photos, for work that is queued from now on: the GPU waits for the copy, the caller does not."""
        if self._copied is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(self._copied)
            for photos in self._photos:
                photos.record_stream(current)  # their memory is not given away before that work is done
        return self._photos


@functools.cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
