"""One request from its body to its records: limits, uploads, photos, predictions."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from ensemble.data.cache import decoded_sizes, in_preprocessings, resized_whole
from ensemble.models.runtime import give_back_memory
from ensemble.prediction.photo_classifier import PhotoClassifier, photo_records
from ensemble.serving.batching import Batcher, QueueFull
from ensemble.serving.limits import Limits, Refused
from folds.errors import MaskensError
from folds.photo_files import is_distorted
from folds.photos import Pixels, decode_photo, scaled

UNNAMED = "photo"
LONGEST_NAME = 255  # characters
FIELDS = 32  # of a form beside its photos
FIELD_BYTES = 4096
FORMATS = ("JPEG", "PNG", "WEBP")  # what cameras and browsers send; some of Pillow's others start programs
LARGE = 4_000_000  # pixels from which on the memory of decoding is given back
PICTURE = 240  # pixels of the longer side of a photo shown on a page

log = logging.getLogger(__name__)
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # the sender of a bad form gets the reason
MultiPartParser.spool_max_size = 2**62  # bytes of a photo in memory; beyond, it would go to a temporary file

Record = dict[str, Any]
Upload = tuple[str, bytes]  # name and content of a photo as it was sent


async def read_uploads(request: Request, limits: Limits) -> list[Upload]:
    """The photos of a request: the files of a form, or the body itself if that is no multipart form. Raises Refused:
    too many bytes or photos, too slow, no photo, or a form that can't be read."""
    left = limits.megabytes * 1e6

    async def receive() -> Message:
        nonlocal left
        message = await request.receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise Refused(413, f"the request is too large: the limit is {limits.megabytes:g} MB for all its photos")
        return message

    limited = Request(request.scope, receive)
    try:
        async with asyncio.timeout(limits.upload_seconds):
            if parse_options_header(request.headers.get("content-type", ""))[0] == b"multipart/form-data":
                photos = await _read_form(limited, limits)
            else:
                content = await limited.body()
                photos = [(UNNAMED, content)] if content else []
    except TimeoutError:
        raise Refused(408, "the upload took too long") from None
    except ClientDisconnect:
        raise Refused(400, "the sender disconnected") from None
    if not photos:
        raise Refused(422, "the request holds no photo: send files of a form, or one photo as the body")
    return photos


async def _read_form(request: Request, limits: Limits) -> list[Upload]:
    try:
        async with request.form(max_files=limits.photos, max_fields=FIELDS, max_part_size=FIELD_BYTES) as form:
            files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            return [((f.filename or UNNAMED)[:LONGEST_NAME], await f.read()) for f in files if f.filename or f.size]
    except (HTTPException, MultiPartException, FormParserError) as error:
        why = str(getattr(error, "detail", error))
        if why.startswith("Too many files"):
            raise Refused(413, f"too many photos: the limit is {limits.photos} in a request") from error
        raise Refused(400, f"the form can't be read: {why}") from error


@dataclass(frozen=True)
class ReadPhoto:
    """An upload, decoded."""

    sizes: tuple[Pixels, ...]  # in the preprocessings of the models, uint8 (height, width, 3) each
    distorted: bool
    picture: Pixels | None  # uint8 (h, w, 3), for a page


class ServedModels:
    """Reads uploads, in any number of threads, and predicts them in one.

    The models live in a thread of their own from the start. OpenMP keeps a pool of threads for every thread that has
    run torch, and where a second pool is left over, if only from loading, a batch took two to three times as long on
    two cores.

    Args:
        load: called once, in that thread; what it raises is raised here.
        aspect: height / width of the photos that the models were trained on.
        megapixels: above which a photo is refused.
    """

    def __init__(self, load: Callable[[], PhotoClassifier], aspect: float, megapixels: float) -> None:
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="models")
        self._aspect, self._most_pixels = aspect, round(megapixels * 1e6)
        self._models = self.thread.submit(load).result()

    @property
    def notes(self) -> list[str]:
        """Of the models."""
        return self._models.notes

    def read(self, name: str, content: bytes, picture: bool) -> ReadPhoto:
        """Decode an upload, with a picture for a page if that is wanted. Raises MaskensError: it can't be read."""
        preprocessings = self._models.preprocessings
        sizes = [*decoded_sizes(preprocessings), *([(PICTURE, PICTURE)] if picture else [])]
        pixels: float = math.inf
        try:
            photo = decode_photo(content, name, sizes, FORMATS, self._most_pixels)
            height, width = photo.whole
            pixels = height * width
            loaded = in_preprocessings(photo.sizes[: len(preprocessings)], preprocessings)
            whole = photo.sizes[-1]
            shown = scaled(whole, min(1.0, PICTURE / max(whole.shape[:2]))) if picture else None
            distorted = resized_whole(loaded, preprocessings) and is_distorted(height, width, self._aspect)
            return ReadPhoto(loaded.sizes, distorted, shown)
        except MaskensError:
            raise
        except Exception as error:  # what decoders raise on bytes that were made to break them is no fixed list
            raise MaskensError(f"{name} can't be read ({type(error).__name__})") from error
        finally:
            if pixels > LARGE:
                give_back_memory()

    def predict(self, photos: Sequence[ReadPhoto]) -> list[Record]:
        """A record a photo, as `photo_records` makes them; `photo` is its place in the batch. To be called in `thread`.
        Raises MaskensError: as `PhotoClassifier.predict`."""
        places = [str(n) for n in range(len(photos))]
        distorted = [place for place, photo in zip(places, photos, strict=True) if photo.distorted]
        return photo_records(places, self._models.predict([p.sizes for p in photos]), distorted)


class RequestAnswerer:
    """Reads requests, decodes their photos in threads and has them predicted in batches."""

    def __init__(
        self, models: ServedModels, batcher: Batcher[ReadPhoto, Record], readers: ThreadPoolExecutor, limits: Limits
    ) -> None:
        self._models, self._batcher, self._readers, self._limits = models, batcher, readers, limits
        self._requests = 0  # whose bodies are in memory

    async def __call__(self, request: Request, pictures: bool) -> list[tuple[Record, ReadPhoto]]:
        """The record of each photo of a request, in order, and the photo, with its picture if a page is to show it.
        Raises Refused: there is no answer, and why."""
        busy = Refused(429, "too many photos are waiting; try again in a second", headers={"Retry-After": "1"})
        if self._requests >= self._limits.requests:  # before anything of the body is read
            raise busy
        self._requests += 1
        run, read = asyncio.get_running_loop().run_in_executor, self._models.read
        photos, bad = [], []
        try:
            uploads = await read_uploads(request, self._limits)
            reading = [run(self._readers, read, *upload, pictures) for upload in uploads]
            for (name, _), found in zip(uploads, await asyncio.gather(*reading, return_exceptions=True), strict=True):
                if isinstance(found, MaskensError):
                    bad.append((name, str(found).removeprefix(f"{name} ")))
                elif isinstance(found, BaseException):
                    raise found
                else:
                    photos.append(found)
            if bad:
                raise Refused(422, f"{len(bad)} of {len(uploads)} photos can't be used", bad)
            records = await self._batcher.answers(photos)
        except QueueFull:
            raise busy from None
        except MaskensError as error:
            log.error("%s", error)
            raise Refused(500, "the models failed; the server's log has the reason") from error
        finally:
            self._requests -= 1
        named = [record | {"photo": name} for record, (name, _) in zip(records, uploads, strict=True)]
        return list(zip(named, photos, strict=True))
