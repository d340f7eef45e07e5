"""Contact sheets: small pictures in a grid, with captions."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from folds.errors import MaskensError
from folds.files import replacing
from folds.photos import Pixels, Progress, in_threads, read_photo, scaled

BOX = (132, 176)  # width, height of a picture on a sheet, in pixels
GAP = 12
LINE = 17
PAPER, INK, FAINT, EMPTY = "#ffffff", "#1d2430", "#5b6472", "#e4e7ec"
JPEG_QUALITY = 50  # 3 kB a photo


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
    heads: tuple[str, ...] = ()  # one a column, or none; may have several lines
    titles: tuple[str, ...] = ()  # one a row, or none
    lengths: tuple[int, ...] = ()  # cells of each row, where they are not `columns`

    @property
    def rows(self) -> list[tuple[Cell, ...]]:
        """The cells row by row; the last row may be short."""
        lengths = self.lengths or (self.columns,) * -(-len(self.cells) // self.columns)
        ends = itertools.accumulate(lengths)
        return [self.cells[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def photo_caption(file: str) -> str:
    """Folder and name of a photo of the training set, a line each."""
    return "/\n".join(file.removeprefix("train/images/").rsplit("/", 1))


def thumbnail(photo: Pixels) -> Pixels:
    """A photo, uint8 (h, w, 3), shrunk to fit into BOX; never enlarged."""
    height, width = photo.shape[:2]
    return scaled(photo, min(1.0, BOX[0] / width, BOX[1] / height))


def thumbnails(files: Sequence[Path], workers: int, on_progress: Progress | None = None) -> list[Pixels | None]:
    """Small pictures, each uint8 (h, w, 3), from `workers` threads; None for a photo that can't be read."""

    def one(file: Path) -> Pixels | None:
        try:
            return thumbnail(read_photo(file))
        except MaskensError:
            return None

    return list(in_threads(one, files, workers, on_progress))


def save_sheets(folder: Path, sheets: Iterable[Sheet], workers: int) -> None:
    """Write each as NAME.jpg, in `workers` threads. Raises MaskensError if the system refuses to write."""

    def save(sheet: Sheet) -> None:
        with replacing(folder / f"{sheet.name}.jpg") as handle:
            draw(sheet).save(handle, "JPEG", quality=JPEG_QUALITY, optimize=True)

    list(in_threads(save, [s for s in sheets if s.cells], workers))


def draw(sheet: Sheet) -> Image.Image:
    """The sheet as one RGB picture; every cell's picture is as large as BOX allows."""
    small, large = ImageFont.load_default(12), ImageFont.load_default(17)
    pictures = [None if c.picture is None else ImageOps.contain(Image.fromarray(c.picture), BOX) for c in sheet.cells]
    width, height = BOX[0], max((p.height if p else BOX[1] for p in pictures), default=0)
    columns = max((len(row) for row in sheet.rows), default=1)
    lines = max((c.caption.count("\n") + 1 for c in sheet.cells), default=0)
    top = GAP + 2 * LINE + LINE * max((h.count("\n") + 1 for h in sheet.heads), default=0)
    above = LINE if sheet.titles else 0
    step = above + height + LINE * lines + GAP
    words = (large.getlength(sheet.title), *(small.getlength(t) for t in sheet.titles))
    right = max(columns * (width + GAP), GAP + int(max(words)))
    page = Image.new("RGB", (right + GAP, top + step * len(sheet.rows) + GAP), PAPER)
    pen = ImageDraw.Draw(page)

    def write(x: int, y: int, text: str, colour: str) -> None:
        for number, line in enumerate(text.split("\n")):
            pen.text((x, y + number * LINE), _cut(line, small), colour, small)

    pen.text((GAP, GAP), sheet.title, INK, large)
    for column, head in enumerate(sheet.heads):
        write(GAP + column * (width + GAP), GAP + 2 * LINE - 4, head, INK)
    for row, title in enumerate(sheet.titles):
        pen.text((GAP, top + row * step), title, INK, small)
    places = [(row, column) for row, cells in enumerate(sheet.rows) for column in range(len(cells))]
    for (row, column), cell, picture in zip(places, sheet.cells, pictures, strict=True):
        x, y = GAP + column * (width + GAP), top + row * step + above
        if picture:
            page.paste(picture, (x + (width - picture.width) // 2, y + (height - picture.height) // 2))
        else:
            pen.rectangle((x, y, x + width - 1, y + height - 1), EMPTY)
            pen.text((x + width / 2, y + height / 2), "can't be read", FAINT, small, anchor="mm")
        write(x, y + height + 2, cell.caption, FAINT)
    return page


def _cut(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The line without its middle if it is wider than a picture: both ends of a path name a person."""
    cut, keep = line, len(line)
    while font.getlength(cut) > BOX[0] and keep > 1:
        keep -= 1
        cut = f"{line[: keep // 2]}…{line[keep // 2 - keep :]}"
    return cut
