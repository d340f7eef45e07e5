"""Contact sheets: small pictures in a grid, with captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from folds.errors import MaskensError
from folds.files import replacing
from folds.photos import Pixels, Progress, in_threads, read_photo

BOX = (132, 176)  # width, height of a picture on a sheet, in pixels
GAP = 12
LINE = 17

PAPER, INK, FAINT, EMPTY = "#ffffff", "#1d2430", "#5b6472", "#e4e7ec"

UNREADABLE = "can't be read"
JPEG_QUALITY = 50  # 3 kB a photo
ROWS = 200  # of a file: a JPEG has at most 65,535 lines

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Cell:
    """A picture and the words below it."""

    picture: Pixels | None  # uint8 (h, w, 3), RGB; None if it can't be read
    caption: str  # may have several lines
    alt: str = ""


@dataclass(frozen=True)
class Sheet:
    """Cells in reading order."""

    name: str  # of the file, without its end
    title: str
    cells: tuple[Cell, ...]
    columns: int = 8
    group: int = 1  # so many neighbours belong together
    heads: tuple[str, ...] = ()  # one a column, or none; may have several lines
    titles: tuple[str, ...] = ()  # one a row, or none

    @property
    def rows(self) -> list[tuple[Cell, ...]]:
        """The cells, `columns` at a time; the last row may be short."""
        return [self.cells[i : i + self.columns] for i in range(0, len(self.cells), self.columns)]


def thumbnail(photo: Pixels, box: tuple[int, int] = BOX) -> Pixels:
    """The photo, shrunk so that it fits; never enlarged.

    Args:
        photo: uint8 (h, w, 3).
        box: (width, height) in pixels.
    """
    height, width = photo.shape[:2]
    scale = min(box[0] / width, box[1] / height)
    if scale >= 1:
        return photo
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(photo, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def thumbnails(files: Sequence[Path], workers: int, on_progress: Progress | None = None) -> list[Pixels | None]:
    """Small pictures, each uint8 (h, w, 3), from `workers` threads; None for a photo that can't be read."""

    def one(file: Path) -> Pixels | None:
        try:
            return thumbnail(read_photo(file))
        except MaskensError:
            return None

    return list(in_threads(one, files, workers, on_progress))


def save(folder: Path, sheet: Sheet) -> None:
    """Write the sheet as NAME.jpg, its rows after the first ROWS as NAME-2.jpg and so on.

    Raises:
        MaskensError: if the system refuses to write.
    """
    for number, start in enumerate(range(0, max(1, len(sheet.rows)), ROWS), start=1):
        cells = sheet.cells[start * sheet.columns : (start + ROWS) * sheet.columns]
        part = replace(sheet, cells=cells, titles=sheet.titles[start : start + ROWS])
        with replacing(folder / f"{sheet.name}{f'-{number}' if number > 1 else ''}.jpg") as handle:
            draw(part).save(handle, "JPEG", quality=JPEG_QUALITY, optimize=True)


def draw(sheet: Sheet) -> Image.Image:
    """The sheet as one RGB picture; every cell's picture is as large as BOX allows."""
    width, height = BOX[0], max((_fitted(c.picture)[1] for c in sheet.cells), default=0)
    columns = max(1, min(sheet.columns, len(sheet.cells)))
    lines = max((c.caption.count("\n") + 1 for c in sheet.cells), default=0)
    top = GAP + 2 * LINE + LINE * max((h.count("\n") + 1 for h in sheet.heads), default=0)
    above = LINE if sheet.titles else 0
    step = above + height + LINE * lines + GAP
    left = [GAP + c * (width + GAP) + c // sheet.group * GAP * (sheet.group > 1) for c in range(columns)]
    small, large = ImageFont.load_default(12), ImageFont.load_default(17)
    words = (large.getlength(sheet.title), *(small.getlength(t) for t in sheet.titles))
    right = max(left[-1] + width, GAP + int(max(words)))
    page = Image.new("RGB", (right + GAP, top + step * len(sheet.rows) + GAP), PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((GAP, GAP), sheet.title, INK, large)
    for x, head in zip(left, sheet.heads, strict=False):
        _words(pen, (x, GAP + 2 * LINE - 4), head, INK, small)
    for number, row in enumerate(sheet.rows):
        y = top + number * step + above
        if sheet.titles:
            pen.text((GAP, y - above), sheet.titles[number], INK, small)
        for x, cell in zip(left, row, strict=False):
            _put(page, pen, cell.picture, (x, y), height, small)
            _words(pen, (x, y + height + 2), cell.caption, FAINT, small)
    return page


def _fitted(picture: Pixels | None) -> tuple[int, int]:
    """(width, height) at which a picture fills the box."""
    if picture is None:
        return BOX
    scale = min(BOX[0] / picture.shape[1], BOX[1] / picture.shape[0])
    return max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))


def _put(
    page: Image.Image, pen: ImageDraw.ImageDraw, picture: Pixels | None, place: tuple[int, int], height: int, font: Font
) -> None:
    x, y = place
    if picture is None:
        pen.rectangle((x, y, x + BOX[0] - 1, y + height - 1), EMPTY)
        pen.text((x + BOX[0] / 2, y + height / 2), UNREADABLE, FAINT, font, anchor="mm")
        return
    fitted = Image.fromarray(picture).resize(_fitted(picture), Image.Resampling.BICUBIC)
    page.paste(fitted, (x + (BOX[0] - fitted.width) // 2, y + (height - fitted.height) // 2))


def _words(pen: ImageDraw.ImageDraw, place: tuple[int, int], text: str, colour: str, font: Font) -> None:
    for number, line in enumerate(text.split("\n")):
        pen.text((place[0], place[1] + number * LINE), _cut(line, font), colour, font)


def _cut(line: str, font: Font) -> str:
    """The line, its middle left out if it is wider than a picture: both ends of a path tell who it is."""
    keep = len(line)
    cut = line
    while font.getlength(cut) > BOX[0] and keep > 1:
        keep -= 1
        cut = f"{line[: keep // 2]}…{line[len(line) - (keep - keep // 2) :]}"
    return cut
