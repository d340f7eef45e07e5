"""The photos of a request, kept in memory as they come in: nothing of them is written to the disk.

The form is parsed here and not by the web framework, whose own way writes larger files to a temporary folder.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from ensemble.serving.limits import Limits, Refused

UNNAMED = "photo"
LONGEST_NAME = 255  # characters

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # of a bad form its sender is told


@dataclass(frozen=True)
class Upload:
    """A photo as it was sent."""

    name: str
    content: bytes


async def read_uploads(content_type: str, chunks: AsyncIterator[bytes], limits: Limits) -> list[Upload]:
    """The photos of a request: the files of a form, or the body itself.

    Args:
        content_type: header of the request; what is no multipart form is one photo.
        chunks: the body as it comes in.

    Raises:
        Refused: too many bytes or photos, no photo, or a form that can't be read.
    """
    kind, parameters = parse_options_header(content_type)
    if kind == b"multipart/form-data":
        photos = await _read_form(parameters.get(b"boundary", b""), chunks, limits)
    else:
        body = b"".join([chunk async for chunk in _limited(chunks, limits, lambda: UNNAMED)])
        photos = [Upload(UNNAMED, body)] if body else []
    if not photos:
        raise Refused(422, "the request holds no photo: send files of a form, or one photo as the body")
    return photos


async def _read_form(boundary: bytes, chunks: AsyncIterator[bytes], limits: Limits) -> list[Upload]:
    form = _Form(limits)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": form.part_begins,
                "on_header_field": form.header_name,
                "on_header_value": form.header_value,
                "on_header_end": form.header_ends,
                "on_part_data": form.part_data,
                "on_part_end": form.part_ends,
                "on_end": form.ends,
            },
        )
        async for chunk in _limited(chunks, limits, lambda: form.name or UNNAMED):
            parser.write(chunk)
    except FormParserError as error:
        raise Refused(400, f"the form can't be read: {error}") from error
    if not form.whole:
        raise Refused(400, "the form can't be read: it is cut off")
    return form.photos


async def _limited(chunks: AsyncIterator[bytes], limits: Limits, name: Callable[[], str]) -> AsyncIterator[bytes]:
    left = limits.megabytes * 1e6
    async for chunk in chunks:
        left -= len(chunk)
        if left < 0:
            yield chunk[: int(left)]  # so that it is known which photo goes beyond
            raise Refused(
                413, f"{name()} is too large: a request may hold {limits.megabytes:g} MB, all its photos together"
            )
        yield chunk


class _Form:
    """What the parser calls as it comes along."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.photos: list[Upload] = []
        self.whole = False
        self.part_begins()

    def part_begins(self) -> None:
        self.name: str | None = None  # None: a field that is no file
        self._content: list[bytes] = []
        self._header, self._value = b"", b""

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_ends(self) -> None:
        if self._header.lower() == b"content-disposition":
            name = parse_options_header(self._value.decode("latin-1"))[1].get(b"filename")
            self.name = None if name is None else name.decode("utf-8", "replace")[:LONGEST_NAME]
        self._header, self._value = b"", b""

    def part_data(self, data: bytes, start: int, end: int) -> None:
        if self.name is not None:
            self._content.append(data[start:end])

    def part_ends(self) -> None:
        if not self.name and not self._content:  # no file, or none chosen: browsers send that without a name
            return
        name, most = self.name or UNNAMED, self.limits.photos
        if len(self.photos) == most:
            raise Refused(413, f"{name} is one too many: a request may hold {most} photos")
        self.photos.append(Upload(name, b"".join(self._content)))

    def ends(self) -> None:
        self.whole = True
