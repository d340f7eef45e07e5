"""The photos of a request, kept in memory as they come in: nothing of them is written to the disk."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.types import Message

from ensemble.serving.limits import Limits, Refused

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
