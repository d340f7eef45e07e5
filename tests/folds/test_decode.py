"""Photos of any kind of file become RGB pixels; broken ones are refused, never guessed at."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from folds.errors import MaskensError
from folds.photos import Pixels, decode_file, photo_format, read_photo, resize_and_crop

GREY = np.array([[0, 50, 100], [128, 255, 7]], dtype=np.uint8)
ORIENTATION = 0x0112


def as_rgb(grey: np.ndarray) -> Pixels:
    return np.stack([grey, grey, grey], axis=-1)


def noise(height: int = 40, width: int = 30) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


PIXELS = noise(6, 5)
COLOURS = np.array([(255, 0, 0), (0, 128, 0), (10, 20, 30)], dtype=np.uint8)
INDICES = np.array([[0, 1, 2, 0], [2, 2, 1, 0]], dtype=np.uint8)
PALETTE = Image.fromarray(INDICES)
PALETTE.putpalette(COLOURS.tobytes())
DEEP = np.array([[0, 257, 300], [200 * 257, 65535, 50 * 257]], dtype=np.uint16)


@pytest.mark.parametrize(
    ("image", "mode", "options", "expected"),
    [
        (Image.fromarray(PIXELS), "RGB", {}, PIXELS),
        (Image.fromarray(GREY), "L", {}, as_rgb(GREY)),
        (Image.fromarray(np.stack([GREY, 255 - GREY], axis=-1)), "LA", {}, as_rgb(GREY)),
        (Image.fromarray(np.dstack([PIXELS, np.full((6, 5), 128, dtype=np.uint8)])), "RGBA", {}, PIXELS),
        (PALETTE, "P", {}, COLOURS[INDICES]),
        (PALETTE, "P", {"transparency": bytes([0, 128, 255])}, COLOURS[INDICES]),
        (Image.fromarray(DEEP), "I;16", {}, as_rgb(np.array([[0, 1, 1], [200, 255, 50]]))),
        (Image.fromarray(GREY > 60), "1", {}, as_rgb(np.where(GREY > 60, 255, 0))),
    ],
    ids=["RGB", "L", "LA", "RGBA", "P", "transparent P", "16 bit", "1 bit"],
)
def test_every_colour_mode_becomes_rgb(
    tmp_path: Path, image: Image.Image, mode: str, options: dict[str, Any], expected: np.ndarray
) -> None:
    image.save(tmp_path / "a.png", **options)
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.mode == mode
    photo = read_photo(tmp_path / "a.png")
    assert photo.dtype == np.uint8
    assert photo.flags.c_contiguous
    np.testing.assert_array_equal(photo, expected)


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [(1, lambda p: p), (2, np.fliplr), (3, lambda p: np.rot90(p, 2)), (6, lambda p: np.rot90(p, -1)), (8, np.rot90)],
)
def test_every_pixel_goes_where_the_orientation_puts_it(tmp_path: Path, orientation: int, upright: Any) -> None:
    pixels = noise(6, 4)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_photo(tmp_path / "a.png"), upright(pixels))


@pytest.mark.parametrize(
    "field",
    [
        struct.pack("<HHIf", 0x9204, 11, 1, float("nan")),
        struct.pack("<HHIi", 0x0128, 9, 1, -5),
        struct.pack("<HHII", 0x011A, 5, 0, 0),  # a resolution without a value
        struct.pack("<HHII", 0x8769, 4, 1, 0xFFFFFFFF),  # more fields, beyond the end
        struct.pack("<HHII", 0x9999, 77, 1 << 31, 1 << 31),
    ],
    ids=["NaN", "signed", "no value", "pointer", "unknown type"],
)
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_an_odd_exif_field_does_not_hide_the_orientation(tmp_path: Path, field: bytes, name: str) -> None:
    fields = struct.pack("<HHII", ORIENTATION, 3, 1, 6) + field
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + fields + bytes(4)
    Image.fromarray(smooth(24, 40)).save(tmp_path / name, exif=exif)
    photo = read_photo(tmp_path / name)
    assert np.abs(photo - np.rot90(smooth(24, 40).astype(int), -1)).mean() < 4


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"Exif\0\0nothing of the kind", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_a_photo_whose_exif_can_not_be_read_is_taken_as_it_lies(tmp_path: Path, exif: bytes) -> None:
    Image.fromarray(smooth(24, 40)).save(tmp_path / "a.jpg", exif=exif)
    assert read_photo(tmp_path / "a.jpg").shape == (24, 40, 3)


@pytest.mark.parametrize("interlaced", [False, True])
def test_a_png_that_ends_early_is_refused_wherever_it_ends(tmp_path: Path, interlaced: bool) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    path, width, height = tmp_path / "a.png", 11, 7
    passes = [(2, 1), (1, 1), (3, 1), (3, 2), (6, 2), (5, 4), (11, 3)] if interlaced else [(width, height)]
    rows = b"".join((b"\0" + bytes([9]) * columns) * count for columns, count in passes)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, interlaced))
    whole = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(whole + b"what a camera adds")
    np.testing.assert_array_equal(read_photo(path), np.full((height, width, 3), 9))
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(MaskensError, match=r"a\.png"):
            read_photo(path)


def smooth(height: int, width: int) -> Pixels:
    """A scene whose smaller versions look alike whatever the way of shrinking."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    return np.stack([200 * y, 200 * x, 100 + 50 * np.sin(6 * (x + y))], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("least", [(60, 25), (30, 50), (25, 60), (1, 1), (300, 10)])
def test_a_reduced_photo_is_upright_and_large_enough(tmp_path: Path, orientation: int, least: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / "a.jpg"
    Image.fromarray(smooth(240, 100)).save(path, exif=exif, quality=95)
    whole, (found,) = read_photo(path), decode_file(path, [least]).sizes
    assert all(side >= min(asked, full) for side, asked, full in zip(found.shape, least, whole.shape, strict=False))
    scale = next(s for s in (8, 4, 2, 1) if s == 1 or all(w >= s * n for w, n in zip(whole.shape, least, strict=False)))
    assert found.shape == (*(-(-side // scale) for side in whole.shape[:2]), 3)
    plain = resize_and_crop(whole, found.shape[:2], None)
    assert np.abs(found.astype(int) - plain).mean() < 2


def test_what_comes_for_a_size_does_not_depend_on_the_other_sizes(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(noise(300, 200)).save(path)
    sizes = [(30, 20), None, (100, 60), (60, 20), (300, 200)]
    together = decode_file(path, sizes).sizes
    assert [p.shape[0] for p in together] == [38, 300, 150, 75, 300]
    for size, photo in zip(sizes, together, strict=True):
        np.testing.assert_array_equal(photo, decode_file(path, [size]).sizes[0])
    np.testing.assert_array_equal(together[1], read_photo(path))


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_of_any_kind_come_reduced_and_look_alike(tmp_path: Path, mode: str, progressive: bool) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(smooth(240, 160)).convert(mode).save(path, quality=95, progressive=progressive)
    (found,) = decode_file(path, [(50, 30)]).sizes
    assert found.shape == (60, 40, 3)
    assert np.abs(found.astype(int) - resize_and_crop(read_photo(path), (60, 40), None)).mean() < 2


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.gif"])
def test_other_formats_come_whole(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    Image.fromarray(noise(240, 160)).save(path)
    np.testing.assert_array_equal(decode_file(path, [(20, 20)]).sizes[0], read_photo(path))


@pytest.mark.parametrize("tenths", [1, 5, 9])
@pytest.mark.parametrize(("progressive", "least"), [(False, None), (False, (30, 20)), (True, (30, 20))])
def test_a_jpeg_that_is_cut_off_is_refused_reduced_too(
    tmp_path: Path, progressive: bool, least: tuple[int, int] | None, tenths: int
) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(noise(240, 160)).save(path, progressive=progressive)
    decode_file(path, [least])
    path.write_bytes(path.read_bytes()[: path.stat().st_size * tenths // 10])
    with pytest.raises(MaskensError, match=f"^{re.escape(str(path))} can't be read: (?i:.*truncated)"):
        decode_file(path, [least])


@pytest.mark.parametrize(
    "content",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n",
        b"P1\n2 2\n0 1\n1 0\n",
        b"just some text\n",
        b"",
    ],
    ids=["PostScript", "text that Pillow takes for pixels", "text", "empty"],
)
def test_other_formats_are_not_even_opened(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*args: object, **options: object) -> None:
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr("subprocess.Popen", started)
    path = tmp_path / "mask1.jpg"
    path.write_bytes(content)
    for read in (read_photo, photo_format):
        with pytest.raises(MaskensError, match=f"^{re.escape(str(path))} is not a photo that can be read"):
            read(path)


def test_whatever_a_decoder_raises_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(image: Image.Image) -> Image.Image:
        raise struct.error("what it met")

    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", damaged)
    with pytest.raises(MaskensError, match=r"a\.png can't be read: .*what it met"):
        read_photo(tmp_path / "a.png")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MaskensError, match=r"gone\.jpg can't be read: No such file or directory$"):
        read_photo(tmp_path / "gone.jpg")
    with pytest.raises(MaskensError, match=f"^{re.escape(str(tmp_path))} can't be read: Is a directory$"):
        read_photo(tmp_path)


@pytest.mark.parametrize("shape", [(7, 9), (8, 8), (1, 1)])
@pytest.mark.parametrize("crop", [None, (1, 1), (4, 3), (7, 8)])
def test_the_crop_is_the_centre(shape: tuple[int, int], crop: tuple[int, int] | None) -> None:
    height, width = crop = (min(crop[0], shape[0]), min(crop[1], shape[1])) if crop else shape
    photo = noise(*shape)
    fitted = resize_and_crop(photo, shape, crop)
    top, left = (shape[0] - height) // 2, (shape[1] - width) // 2
    np.testing.assert_array_equal(fitted, photo[top : top + height, left : left + width])
    assert fitted.flags.c_contiguous
    assert resize_and_crop(photo, (9, 12), crop).shape == (*crop, 3)


def test_shrinking_averages_over_areas() -> None:
    means = np.array([[0, 100], [80, 40]])
    board = as_rgb((np.kron(means, [[1, 3], [3, 1]]) // 2).astype(np.uint8))
    np.testing.assert_array_equal(resize_and_crop(board, (2, 2), None), as_rgb(means))


def test_enlarging_runs_smoothly_between_pixels() -> None:
    steps = as_rgb(np.array([[0, 100, 200]], dtype=np.uint8))
    wide = resize_and_crop(steps, (1, 12), None)[0, :, 0].astype(int)
    assert (wide[0], wide[-1]) == (0, 200)
    assert 0 < np.diff(wide)[2:-2].min() <= np.diff(wide).max() <= 26  # 100 over 4 pixels
