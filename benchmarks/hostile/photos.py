"""Photos of any format and colour mode, whole or spoiled, huge or tiny, and files that are no photos."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from random import Random
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from ensemble.data.cache import load_photo
from ensemble.recipes.schema import Preprocessing
from folds.photos import read_photo
from hostile.judge import Verdict, command, judge, judge_call
from hostile.mutations import spoiled_bytes
from hostile.workplace import Workplace

Pixels = npt.NDArray[np.uint8]

SIZES = ((40, 30), (40, 30), (256, 192), (1, 1), (1, 50), (20_000, 10), (10, 20_000), (40_000, 2))  # (width, height)
FORMATS = ("JPEG", "JPEG", "PNG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
    "GIF": ("P", "L"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("RGB", "L", "P", "1"),
    "TIFF": ("RGB", "L", "CMYK", "I;16", "P"),
}
NEAR = 1.0  # levels of 255 by which pixels may differ from those of Pillow alone
NEAR_REDUCED = 6.0  # on average, where a large JPEG is decoded at a part of its size
TURNS = ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")
ORIENTED: dict[Any, Image.Transpose] = {2 + n: Image.Transpose[turn] for n, turn in enumerate(TURNS)}  # of EXIF
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n(x) run\nshowpage\n%%EOF\n"
NO_PHOTOS = (
    *(b"", b"\0" * 1000, b"hello\n" * 50, b"id,gender\n1,male\n", b"<svg width='8' height='8'/>", POSTSCRIPT),
    *(b"P1\n2 2\n0 1\n1 0\n", b"#define x_width 8\n#define x_height 1\nstatic char x_bits[] = { 0xff };\n"),
    *(b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"RIFF\0\0\0\0WEBP", b"II*\0", b"%PDF-1.4\n"),
)


def whole_photo(rng: Random, place: Workplace) -> Verdict:
    """A photo in order has the pixels that Pillow alone gives, in whole and in the sizes that models want."""
    damaged_exif = rng.random() < 0.2
    content, expected = _photo(rng, damaged_exif)
    return _judged(rng, place, content, expected, whole=not damaged_exif)


def spoiled_photo(rng: Random, place: Workplace) -> Verdict:
    """A spoiled photo is refused, or has the pixels that Pillow alone gives."""
    content = spoiled_bytes(rng, _photo(rng)[0])
    return _judged(rng, place, content, _by_pillow(content), whole=False)


def bomb(rng: Random, place: Workplace) -> Verdict:
    """A small file that declares a huge photo is refused."""
    side = rng.choice((13_500, 20_000, 50_000, 65_500))
    content = rng.choice((_png_bomb, _jpeg_bomb))(side)
    return _judged(rng, place, content, None, whole=False)


def no_photo(rng: Random, place: Workplace) -> Verdict:
    """A file that is no photo, whatever it is called, is refused, and no program is started to look at it."""
    content = rng.choice(NO_PHOTOS) + (b"" if rng.random() < 0.7 else rng.randbytes(rng.randrange(1, 500)))
    with mock.patch("subprocess.Popen", side_effect=AssertionError("a program was started")):
        return _judged(rng, place, content, None, whole=False)


def photo_to_predict(rng: Random, place: Workplace) -> Verdict:
    """A spoiled photo among others: `maskens infer` refuses it, or says of the others what it said before."""
    name = rng.choice(place.ids)
    out = place.scratch("s.csv")
    content = rng.choice((lambda: _photo(rng)[0], lambda: spoiled_bytes(rng, _photo(rng)[0])))()
    with place.spoiled({place.data / "eval" / "images" / name: content}):
        ended = command(
            *("infer", "--run", place.run, "--out", out, "--workers", 0, "--device", "cpu", "--cache", "none"),
        )

    def fault() -> str:
        lines = [
            [line for line in text.decode().splitlines() if not line.startswith(f"{name},")]
            for text in (out.read_bytes(), place.submission)
        ]
        return "" if lines[0] == lines[1] else "other classes of other photos"

    return judge(ended, fault)


def _judged(rng: Random, place: Workplace, content: bytes, expected: Pixels | None, whole: bool) -> Verdict:
    file = place.scratch(f"photo{rng.choice(('.jpg', '.jpg', '.png', '.JPEG'))}")
    file.write_bytes(content)
    verdict = judge_call(lambda: read_photo(file), lambda found: _fault(found, expected))
    if whole and verdict.result == "refused":
        return Verdict("wrong", f"a photo in order was refused: {verdict.detail}")
    if verdict.result in ("traceback", "wrong"):
        return verdict
    size = rng.choice(((32, 24), (24, 32), (128, 96)))
    preprocessing = Preprocessing(size, rng.choice((None, (16, 16))), reduced=rng.random() < 0.7)
    plain = Preprocessing(preprocessing.resize, preprocessing.crop)

    def fault(found: Any) -> str:
        if verdict.result == "refused":
            return "read in a size, and refused in whole"
        (pixels,), (reference,) = found.sizes, load_photo(file, [plain]).sizes
        if pixels.shape != preprocessing.shape:
            return f"it comes as {pixels.shape}"
        far = np.abs(pixels.astype(float) - reference).mean()
        return f"{far:.1f} levels from what it is in whole" if far > NEAR_REDUCED else ""

    sized = judge_call(lambda: load_photo(file, [preprocessing]), fault)
    return sized if sized.result in ("traceback", "wrong") else verdict


def _fault(found: Pixels, expected: Pixels | None) -> str:
    if expected is None:
        return f"what is no photo gives pixels {found.shape}"
    if found.shape != expected.shape:
        return f"a photo of {expected.shape[:2]} comes as {found.shape[:2]}"
    far = np.abs(found.astype(float) - expected).max()
    return f"a pixel is {far:.0f} levels from Pillow's" if far > NEAR else ""


def _photo(rng: Random, damaged_exif: bool = False) -> tuple[bytes, Pixels]:
    """(a file, its pixels by Pillow alone)."""
    kind, (width, height) = rng.choice(FORMATS), rng.choice(SIZES)
    if kind == "WEBP":
        width, height = min(width, 16_000), min(height, 16_000)
    image = _smooth(rng, width, height, rng.choice(MODES[kind]))
    options: dict[str, Any] = {"quality": rng.choice((30, 75, 95))} if kind in ("JPEG", "WEBP") else {}
    if kind == "JPEG":
        options |= {"progressive": rng.random() < 0.3, "subsampling": rng.randrange(3)}
    if kind in ("GIF", "PNG", "WEBP") and rng.random() < 0.3 and width * height < 100_000 and image.mode != "I;16":
        more = [_smooth(rng, width, height, image.mode) for _ in range(2)]
        options |= {"save_all": True, "append_images": more, "duration": 100}
    if kind in ("JPEG", "PNG", "WEBP") and (damaged_exif or rng.random() < 0.6):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = rng.choice((*range(10), 255, 65_535))
        exif[ExifTags.Base.Make] = "x" * rng.randrange(50)
        options["exif"] = exif.tobytes()
        if damaged_exif:
            options["exif"] = b"Exif\0\0" + spoiled_bytes(rng, exif.tobytes()[6:])[:60_000]
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    content = buffer.getvalue()
    pixels = _by_pillow(content)
    assert pixels is not None
    return content, pixels


def _smooth(rng: Random, width: int, height: int, mode: str) -> Image.Image:
    """Colours that change slowly, as those of photos do."""
    across, down = np.linspace(0, 1, width)[None], np.linspace(0, 1, height)[:, None]
    waves = [np.sin(rng.uniform(1, 6) * across + rng.uniform(1, 6) * down + rng.uniform(0, 6)) for _ in range(3)]
    if mode == "I;16":
        return Image.fromarray(((waves[0] + 1) * 32_767).astype(np.uint16))
    rgb = Image.fromarray(((np.stack(waves, axis=-1) + 1) * 127).astype(np.uint8))
    return rgb.convert(mode)


def _by_pillow(content: bytes) -> Pixels | None:
    """The pixels of the first frame by Pillow alone, turned upright; None where it gives none."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            if image.mode.startswith("I"):
                grey = np.clip(np.asarray(image).astype(np.float64) / 257, 0, 255).round().astype(np.uint8)
                plain = Image.fromarray(np.stack([grey] * 3, axis=-1))
            else:
                plain = image.convert("RGB")
            with contextlib.suppress(Exception):  # damaged EXIF says nothing
                turn = ORIENTED.get(image.getexif().get(ExifTags.Base.Orientation))
                plain = plain if turn is None else plain.transpose(turn)
            return np.asarray(plain)
    except Exception:
        return None


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png_bomb(side: int) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", zlib.compress(bytes(10_000))) + _chunk(b"IEND", b"")


def _jpeg_bomb(side: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG")
    content = bytearray(buffer.getvalue())
    place = content.index(b"\xff\xc0")
    content[place + 5 : place + 9] = struct.pack(">HH", side, side)
    return bytes(content)
