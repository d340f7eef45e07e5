"""One request from its body to its records."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from starlette.requests import ClientDisconnect, Request

from ensemble.serving.batching import Batcher, QueueFull
from ensemble.serving.limits import Limits, Refused, busy
from ensemble.serving.photos import ReadPhoto, Record
from ensemble.serving.uploads import Upload, read_uploads
from folds.errors import MaskensError

log = logging.getLogger(__name__)


class Answers(Protocol):
    """`photos.PhotoAnswers`."""

    def read(self, upload: Upload, picture: bool) -> ReadPhoto: ...

    def answer(self, photos: Sequence[ReadPhoto]) -> Sequence[Record]: ...


class Predicting:
    """Reads requests, decodes their photos in threads and has them answered in batches."""

    def __init__(
        self, answers: Answers, batcher: Batcher[ReadPhoto, Record], readers: ThreadPoolExecutor, limits: Limits
    ) -> None:
        self._answers, self._batcher, self._readers, self._limits = answers, batcher, readers, limits
        self._requests = 0

    async def __call__(self, request: Request, pictures: bool) -> list[tuple[Record, ReadPhoto]]:
        """The record of each photo of a request, in order, and the photo.

        Args:
            pictures: whether a page is to show the photos.

        Raises:
            Refused: there is no answer, and why.
        """
        with self._place():
            uploads = await self._upload(request)
            photos = await self._decode(uploads, pictures)
            records = await self._answer(photos)
        named = [record | {"photo": upload.name} for record, upload in zip(records, uploads, strict=True)]
        return list(zip(named, photos, strict=True))

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        """Among those whose bodies are in memory; asked for before anything of a body is read."""
        if self._requests >= self._limits.requests:
            raise busy()
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1

    async def _upload(self, request: Request) -> list[Upload]:
        try:
            async with asyncio.timeout(self._limits.upload_seconds):
                return await read_uploads(request, self._limits)
        except TimeoutError:
            raise Refused(408, "the photos took too long to come in") from None
        except ClientDisconnect:
            raise Refused(400, "the sender went away") from None

    async def _decode(self, uploads: Sequence[Upload], pictures: bool) -> list[ReadPhoto]:
        loop = asyncio.get_running_loop()
        reading = [loop.run_in_executor(self._readers, self._answers.read, upload, pictures) for upload in uploads]
        found = await asyncio.gather(*reading, return_exceptions=True)
        photos = [photo for photo in found if isinstance(photo, ReadPhoto)]
        if len(photos) == len(uploads):
            return photos
        bad = []
        for upload, error in zip(uploads, found, strict=True):
            if isinstance(error, MaskensError):
                bad.append((upload.name, str(error).removeprefix(f"{upload.name} ")))
            elif isinstance(error, BaseException):
                raise error
        raise Refused(422, f"{len(bad)} of {len(uploads)} photos can't be used", bad)

    async def _answer(self, photos: Sequence[ReadPhoto]) -> list[Record]:
        try:
            waiting = self._batcher.submit(photos)
        except QueueFull:
            raise busy() from None
        try:
            return await asyncio.gather(*map(asyncio.wrap_future, waiting))
        except MaskensError as error:
            log.error("%s", error)
            raise Refused(500, "the models gave no answer; the server's log says why") from error
