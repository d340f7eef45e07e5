"""Models that answer at once, in the place of trained ones, and the application around them."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
from PIL import Image
from starlette.types import ASGIApp

from ensemble.prediction.photo_classifier import PhotoClassifier, PhotoPredictions
from ensemble.recipes.schema import Preprocessing
from ensemble.serving.app import create_app
from ensemble.serving.limits import Limits
from ensemble.serving.requests import ServedModels
from ensemble.serving.server import open_port, server_of
from folds.labels import CLASSES
from folds.photos import Pixels


class StubModels:
    """The class of a photo is its red value."""

    preprocessings = (Preprocessing((32, 24), reduced=True), Preprocessing((16, 12)))

    def __init__(self) -> None:
        self.batches: list[int] = []

    def predict(self, photos: Sequence[Sequence[Pixels]]) -> PhotoPredictions:
        assert all(tuple(size.shape for size in p) == ((32, 24, 3), (16, 12, 3)) for p in photos)
        self.batches.append(len(photos))
        classes = np.array([min(CLASSES - 1, int(np.median(sizes[0][..., 0]))) for sizes in photos])
        probabilities = np.full((len(photos), CLASSES), 0.01)
        probabilities[np.arange(len(photos)), classes] = 0.83
        return PhotoPredictions(classes, probabilities, np.full(len(photos), 2), np.full(len(photos), 0.1), 3)


def stub_app(
    limits: Limits | None = None,
    models: StubModels | None = None,
    batch: int = 32,
    wait: float = 0.0,
    hosts: Sequence[str] = (),
) -> ASGIApp:
    limits = limits or Limits()
    served = ServedModels(lambda: cast(PhotoClassifier, models or StubModels()), 4 / 3, limits.megapixels)
    return create_app(served, "2 models", {"models": 2, "runs": ["run"]}, limits, batch, wait, hosts=hosts)


@contextlib.contextmanager
def serving() -> Iterator[socket.socket]:
    """The port of a server of `stub_app`, in a thread of this process."""
    opened = open_port("127.0.0.1", 0)
    server = server_of(stub_app())
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
    thread.start()
    try:
        yield opened
    finally:
        server.should_exit = True
        thread.join(20)


def photo(number: int, kind: str = "PNG", size: tuple[int, int] = (48, 64)) -> bytes:
    """A photo of this class, of (width, height)."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (number, 100, 100)).save(buffer, kind)
    return buffer.getvalue()
