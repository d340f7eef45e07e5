"""One request from its body to its records: limits, uploads, photos, predictions."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from ensemble.data.cache import decoded_sizes, in_preprocessings
from ensemble.models.runtime import give_back_memory
from ensemble.prediction.predictions import ResidentEnsemble, prediction_records
from ensemble.serving.batching import Batcher, QueueFull
from ensemble.serving.limits import Limits, Refused, busy
from folds.errors import MaskensError
from folds.photo_files import is_distorted
from folds.photos import Pixels, decode_photo, resize_and_crop

UNNAMED = "photo"
LONGEST_NAME = 255  # characters
FIELDS = 32  # of a form beside its photos
FIELD_BYTES = 4096

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # the sender of a bad form gets the reason
MultiPartParser.spool_max_size = 2**62  # bytes of a photo in memory; beyond, it would go to a temporary file


@dataclass(frozen=True)
class Upload:
    """A photo as it was sent."""

    name: str
    content: bytes


async def read_uploads(request: Request, limits: Limits) -> list[Upload]:
    """The photos of a request: the files of a form, or the body itself if that is no multipart form.

    Raises:
        Refused: too many bytes or photos, no photo, or a form that can't be read.
    """
    kind, parameters = parse_options_header(request.headers.get("content-type", ""))
    body = _Body(request, limits)
    if kind == b"multipart/form-data":
        photos = await _read_form(body, parameters.get(b"boundary", b""), limits)
    else:
        content = await body.request.body()
        photos = [Upload(UNNAMED, content)] if content else []
    if not photos:
        raise Refused(422, "the request holds no photo: send files of a form, or one photo as the body")
    return photos


class _Body:
    """The body of a request up to the limit, as a request of its own."""

    def __init__(self, request: Request, limits: Limits) -> None:
        self.end = b""  # of what was read
        self._receive, self._limits, self._left = request.receive, limits, limits.megabytes * 1e6
        self.request = Request(request.scope, self._limited)

    async def _limited(self) -> Message:
        message = await self._receive()
        chunk: bytes = message.get("body", b"")
        self._left -= len(chunk)
        if self._left < 0:
            most = f"{self._limits.megabytes:g} MB, all its photos together"
            raise Refused(413, f"the request is too large: it may hold {most}")
        self.end = (self.end + chunk)[-1024:]
        return message


async def _read_form(body: _Body, boundary: bytes, limits: Limits) -> list[Upload]:
    try:
        async with body.request.form(max_files=limits.photos, max_fields=FIELDS, max_part_size=FIELD_BYTES) as form:
            files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            photos = [
                Upload((f.filename or UNNAMED)[:LONGEST_NAME], await f.read()) for f in files if f.filename or f.size
            ]
    except (HTTPException, MultiPartException, FormParserError) as error:
        why = str(getattr(error, "detail", error))
        if why.startswith("Too many files"):
            raise Refused(413, f"too many photos: a request may hold {limits.photos}") from error
        raise Refused(400, f"the form can't be read: {why}") from error
    if b"--" + boundary + b"--" not in body.end:  # the parser takes a form without its end
        raise Refused(400, "the form can't be read: it is cut off")
    return photos


FORMATS = ("JPEG", "PNG", "WEBP")  # what cameras and browsers send; some of Pillow's others start programs
LARGE = 4_000_000  # pixels from which on the memory of decoding is given back
PICTURE = 240  # pixels of the longer side of a photo shown on a page

Record = dict[str, Any]


@dataclass(frozen=True)
class ReadPhoto:
    """An upload, decoded."""

    sizes: tuple[Pixels, ...]  # in the preprocessings of the models, uint8 (height, width, 3) each
    distorted: bool
    picture: Pixels | None  # uint8 (h, w, 3), for a page


class PhotoAnswers:
    """Reads uploads, in any number of threads, and answers them.

    The models live in a thread of their own from the start. OpenMP keeps a pool of threads for every thread that has
    run torch, and where a second pool is left over, if only from loading, a batch took two to three times as long on
    two cores.
    """

    def __init__(self, load: Callable[[], ResidentEnsemble], aspect: float, megapixels: float) -> None:
        """
        Args:
            load: called once, in that thread; what it raises is raised here.
            aspect: height / width of the photos that the models were trained on.
            megapixels: above which a photo is refused.
        """
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="models")
        self._aspect, self._most_pixels = aspect, round(megapixels * 1e6)
        self._models = self._thread.submit(load).result()

    @property
    def notes(self) -> list[str]:
        """Of the models."""
        return self._models.notes

    def read(self, upload: Upload, picture: bool) -> ReadPhoto:
        """Decode an upload.

        Args:
            picture: whether a page is to show it.

        Raises:
            MaskensError: it can't be read.
        """
        large = True
        try:
            photo, pixels = self._decoded(upload, picture)
            large = pixels > LARGE
            return photo
        except MaskensError:
            raise
        except Exception as error:  # what decoders raise on bytes that were made to break them is no fixed list
            raise MaskensError(f"{upload.name} can't be read ({type(error).__name__})") from error
        finally:
            if large:
                give_back_memory()

    def _decoded(self, upload: Upload, picture: bool) -> tuple[ReadPhoto, int]:
        """The photo, and how many pixels it has whole."""
        wanted = decoded_sizes(self._models.preprocessings)
        extra = [(PICTURE, PICTURE)] if picture else []
        photo = decode_photo(upload.content, upload.name, [*wanted, *extra], FORMATS, self._most_pixels)
        loaded = in_preprocessings(photo.sizes[: len(wanted)], self._models.preprocessings)
        shown = _shrunk(photo.sizes[-1]) if picture else None
        height, width = photo.whole
        return ReadPhoto(loaded.sizes, is_distorted(height, width, self._aspect), shown), height * width

    def answer(self, photos: Sequence[ReadPhoto]) -> list[Record]:
        """A record a photo, as `prediction_records` makes them; `photo` is its place in the batch.

        Raises:
            MaskensError: as `ResidentEnsemble.predict`.
        """
        places = [str(n) for n in range(len(photos))]
        distorted = [place for place, photo in zip(places, photos, strict=True) if photo.distorted]
        found = self._thread.submit(self._models.predict, [p.sizes for p in photos]).result()
        return prediction_records(places, found, distorted)


def _shrunk(photo: Pixels) -> Pixels:
    height, width = photo.shape[:2]
    scale = min(1.0, PICTURE / max(height, width))
    return resize_and_crop(photo, (max(1, round(scale * height)), max(1, round(scale * width))), None)


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
