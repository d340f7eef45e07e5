"""From a file of any size and colour mode to RGB pixels: the only place where photos are opened."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
import joblib
import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, JpegImagePlugin, UnidentifiedImageError

from folds.errors import MaskensError
from folds.files import lfs_fault

warnings.filterwarnings("ignore", module="PIL")
# Pillow would look for a resolution in EXIF while it opens a JPEG, and refuse the photo for a damaged one.
JpegImagePlugin.JpegImageFile._read_dpi_from_exif = lambda self: None  # type: ignore[method-assign]


Pixels = npt.NDArray[np.uint8]
Progress = Callable[[int, int], None]  # (photos or other units done, in all)
Item = TypeVar("Item")
Result = TypeVar("Result")

TOGETHER = 8  # photos per task of a thread: for small ones the overhead of a task would take as long as they do

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow's names of the formats read. It knows some forty more: it would have Ghostscript run a file of PostScript,
whatever its name, and take lines of text for pixels."""

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")  # of these formats
PNG_END = b"IEND\xaeB`\x82"
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I")  # 16-bit grey: Pillow's own conversion clips it at 255
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a photo of an EXIF orientation upright; 5 to 8 swap height and width."""


def read_photo(path: Path) -> Pixels:
    """Decode a whole photo: uint8 (height, width, 3), RGB, upright. Raises MaskensError: it can't be read."""
    return decode_file(path, [None]).sizes[0]


class DecodedPhoto(NamedTuple):
    """A photo at some sizes."""

    sizes: list[Pixels]  # each uint8 (height, width, 3), RGB
    whole: tuple[int, int]  # (height, width) of the upright photo, not reduced


def decode_file(path: Path, at_least: Sequence[tuple[int, int] | None]) -> DecodedPhoto:
    """`decode_photo` of a file. Raises MaskensError also for one that can't be opened."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MaskensError(f"{path} can't be read: {error.strerror or error}") from error
    return decode_photo(content, str(path), at_least)


def decode_photo(
    content: bytes,
    name: str,
    at_least: Sequence[tuple[int, int] | None],
    formats: tuple[str, ...] = FORMATS,
    most_pixels: int | None = None,
) -> DecodedPhoto:
    """A photo at several sizes: EXIF rotation applied, grey / RGBA / palette / CMYK / 16-bit converted to RGB.

    A JPEG at least twice as large as asked for is decoded at 1/2, 1/4 or 1/8 of its size, which skips most of libjpeg's
    work. The pixels for a size do not depend on the other sizes. Pillow decodes, because OpenCV fills the missing half
    of a truncated file with grey.

    Args:
        name: for errors.
        at_least: (height, width) of the upright photo, below which neither side may fall; None for the whole photo. Not
            empty.
        most_pixels: of the whole photo, above which it is not decoded.

    Raises:
        MaskensError: it is not an image of these formats, cut off or too large.
    """
    try:
        found: dict[tuple[int, int], Pixels] = {}
        sizes = []
        for size in at_least:
            with Image.open(io.BytesIO(content), formats=formats) as image:
                width, height = image.size
                if most_pixels is not None and width * height > most_pixels:
                    limit = f"more than {most_pixels / 1e6:g} million pixels are not read"
                    raise MaskensError(f"{name} is too large: {width} x {height}, and {limit}")
                if size is not None and image.format in ("JPEG", "MPO"):
                    image.draft(None, size if _orientation(image) >= 5 else size[::-1])
                sizes.append(image.size)
                if image.size not in found:
                    image.load()
                    if image.format == "PNG" and PNG_END not in content:  # Pillow may leave the missing rows black
                        raise OSError("image file is truncated")
                    found[image.size] = _upright_rgb(image)
                    whole = (width, height) if _orientation(image) >= 5 else (height, width)
        return DecodedPhoto([found[size] for size in sizes], whole)
    except UnidentifiedImageError:
        if fault := lfs_fault(content):
            raise MaskensError(f"{name} can't be read: {fault}") from None
        raise MaskensError(f"{name} is not a photo that can be read ({', '.join(formats)})") from None
    except MaskensError:
        raise
    except Exception as error:  # whatever a damaged file has a decoder raise
        raise MaskensError(f"{name} can't be read: {getattr(error, 'strerror', None) or error}") from error


def _orientation(image: Image.Image) -> int:
    """1 to 8; 1 where EXIF has none that can be read. Of a PNG that is not decoded yet, this decodes it."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation)
        return int(found) if found in _UPRIGHT else 1
    except Exception:  # whatever damaged EXIF has Pillow raise: the pixels may still be good
        return 1


def _upright_rgb(image: Image.Image) -> Pixels:
    """Pillow's exif_transpose also rewrites the other EXIF fields, which fails for some files."""
    turn = _UPRIGHT.get(_orientation(image))
    upright = image if turn is None else image.transpose(turn)
    if upright.mode in _DEEP:
        grey = np.asarray(upright, dtype=np.float64) / 257
        return np.repeat(np.clip(grey, 0, 255).round().astype(np.uint8)[..., None], 3, axis=2)
    return np.array(upright if upright.mode == "RGB" else upright.convert("RGB"), dtype=np.uint8)


def photo_format(path: Path) -> tuple[str, str]:
    """Pillow's format and colour mode, ("JPEG", "RGB"), from the first bytes. Raises MaskensError if there are none."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.format or "unknown", image.mode
    except Exception as error:  # whatever a damaged file has a decoder raise
        raise MaskensError(f"{path} is not a photo that can be read") from error


def in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, on_progress: Progress | None = None
) -> Iterator[Result]:
    """The results of a function that opens photos, in the order of `items`, from `workers` threads (-1: all cores)."""
    together = max(1, min(TOGETHER, len(items) // 64))
    results = joblib.Parallel(n_jobs=workers, prefer="threads", return_as="generator", batch_size=together)(
        joblib.delayed(function)(item) for item in items
    )
    for done, result in enumerate(results, start=1):
        yield result
        if on_progress:
            on_progress(done, len(items))


def scaled(photo: Pixels, scale: float) -> Pixels:
    """A photo, uint8 (h, w, 3), with its sides times `scale`, each a pixel at least."""
    height, width = photo.shape[:2]
    return resize_and_crop(photo, (max(1, round(scale * height)), max(1, round(scale * width))), None)


def resize_and_crop(photo: Pixels, resize: tuple[int, int], crop: tuple[int, int] | None) -> Pixels:
    """Resize a photo, uint8 (h, w, 3), to (height, width), then cut the centre; contiguous.

    Shrinking averages over areas, enlarging interpolates linearly; the aspect ratio is not kept.
    """
    height, width = resize
    if photo.shape[:2] != resize:
        shrinks = photo.shape[0] >= height and photo.shape[1] >= width
        photo = cv2.resize(  # type: ignore[assignment]
            photo, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        )
    if crop is not None:
        top, left = (height - crop[0]) // 2, (width - crop[1]) // 2
        photo = photo[top : top + crop[0], left : left + crop[1]]
    return np.ascontiguousarray(photo)
