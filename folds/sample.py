"""A generated data folder of cartoon people, laid out like the competition's, quirks included.

Hair shape, hair colour with age lines, and the mask carry the labels, so that a model can learn them.
The rest of a face belongs to the person alone, so that folds over photos instead of people leak.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import joblib
import numpy as np
import numpy.typing as npt

from folds.errors import refuse
from folds.files import csv_text, refusing, scratch_beside, sha256, write_text
from folds.labels import AGE_CUTS, AGES, GENDERS, SHOT_MASK, SHOTS, encode
from folds.photos import Pixels

Points = npt.NDArray[np.float64]  # (n, 2): x right of the middle, y from the top
Colour = Sequence[float]  # blue, green, red
Size = tuple[int, int]  # width, height

STATES = [SHOT_MASK[shot] for shot in SHOTS]
STRATA = len(GENDERS) * len(AGES)
YEARS = ((18, 26), (33, 56), (60, 80))  # away from the cuts: a drawing shows the band, not the years
FOLDER_ENDS = {9: ".png", 13: ".jpeg", 17: ".JPG"}  # by row % 19, which meets every stratum in turn
MIXED_ENDS = (".jpg", ".png", ".jpeg", ".JPG", ".jpg", ".jpg", ".jpg")
APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        "  # what macOS leaves on foreign disks
WIDTH, HEIGHT = 384, 512  # of the canvas
CENTRE, BROWS, EYES, NOSE, MOUTH = 250, 206, 232, 286, 324  # y of the landmarks
BLACK, WHITE = (25, 20, 20), (250, 250, 250)
SKIN = (200, 224, 250), (112, 150, 200)  # pairs are ends: a person is somewhere between
HAIR = ((22, 20, 24), (30, 42, 62)), ((52, 78, 108), (72, 98, 130)), ((184, 184, 182), (234, 236, 236))
STRANDS = (58, 64, 76), (160, 164, 166), (150, 152, 152)  # like HAIR, by age
LIPS = (100, 115, 160), (60, 40, 205)  # by gender
MASKS = (245, 245, 245), (225, 190, 130), (45, 42, 42), (190, 165, 240), (165, 200, 120), (190, 90, 50)


@dataclass(frozen=True, slots=True)
class SampleSummary:
    """What was written, and where."""

    folder: Path
    train_people: int  # rows of train.csv
    train_photos: int
    eval_people: int
    eval_photos: int


@dataclass(frozen=True, slots=True)
class SamplePerson:
    """A row of train.csv or a person of the eval photos, with the face that all their photos share."""

    index: int  # seeds the photos
    gender: int
    age: int  # band
    row: tuple[object, ...]  # of train.csv
    files: tuple[str, ...]  # below the data folder, in the order of SHOTS
    colours: tuple[Colour, ...]  # skin, hair, clothes, backdrop above and below
    width: float  # half of the face; lengths in canvas pixels
    height: float
    volume: float  # of the hair beyond the head
    length: float  # where long hair ends


def write_sample(
    folder: Path,
    people: int,
    *,
    size: Size = (WIDTH, HEIGHT),
    seed: int = 42,
    jobs: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> SampleSummary:
    """Draw a data folder; it appears at the end, as a whole, the same for any `jobs`.

    Args:
        folder: it must not exist, or be empty.
        people: rows of train.csv, at least 6; each gender x age stratum gets `people // 6` or one more.
        size: (width, height) of the photos in pixels, at least 32 x 32.
        jobs: threads that draw; -1 for one per core.

    Raises:
        MaskensError: an unusable argument, or a system that refuses to write.
    """
    hidden = max(STRATA, people // 3)  # people on the eval photos
    summary = SampleSummary(folder, people, people * len(SHOTS), hidden, hidden * len(SHOTS))
    with refusing(folder):
        taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
        faults = {
            f"{people} people: at least {STRATA} are needed, one of each gender and age band": people < STRATA,
            f"photos of {size[0]}x{size[1]} pixels: at least 32x32 are needed": min(size) < 32,
            f"seed {seed}: at least 0 is needed": seed < 0,
            "0 jobs: at least 1 is needed, or -1 for one per core": jobs == 0,
            f"{folder} exists and is not an empty folder: a sample never overwrites anything": taken,
        }
        refuse([message for message, wrong in faults.items() if wrong], "can't make this sample")
        target = folder.resolve()  # a link to an empty folder is filled, not replaced
        with scratch_beside(target) as scratch:
            build = scratch / "data"  # inside, because the scratch folder itself is private to the user
            sitters = [_sitter(index, people, seed) for index in range(people + hidden)]
            _write_tables(build, sitters[:people], sitters[people:], seed)
            draw = joblib.Parallel(n_jobs=jobs, backend="threading")
            for first in range(0, len(sitters), 16):  # in rounds: when a write fails, no thread is left at work
                drawn = draw(joblib.delayed(_photos)(s, size, seed) for s in sitters[first : first + 16])
                for done, (file, photo) in enumerate(itertools.chain(*drawn), start=first * len(SHOTS) + 1):
                    (build / file).parent.mkdir(parents=True, exist_ok=True)
                    (build / file).write_bytes(photo)
                    if on_progress is not None:
                        on_progress(done, summary.train_photos + summary.eval_photos)
            (build / sitters[2].files[0]).with_name("._mask1.jpg").write_bytes(APPLE_DOUBLE)
            build.rename(target)
    return summary


def _sitter(index: int, people: int, seed: int) -> SamplePerson:
    """The strata take turns, and the first rows have the oddities of the real data."""
    face, name = index, "000003-1" if index == 3 else f"{index + 1:06d}"  # another person than 000003
    ends = MIXED_ENDS if index == 5 else (FOLDER_ENDS.get(index % 19, ".jpg"),) * len(SHOTS)
    gender, age = divmod(index % STRATA, len(AGES))
    years = int(np.random.default_rng([seed, index, 8]).integers(*YEARS[age], endpoint=True))
    if index < 2:
        # One person on two folders, as the real 003397; across a cut, so that no stratum is one short.
        face, name, years = 0, "000001", AGE_CUTS[0] - 1 + index
    path = f"{name}_{GENDERS[gender]}_Asian_{years}"
    row = name, GENDERS[gender], "Asian", years, path
    files = tuple(f"train/images/{path}/{shot}{end}" for shot, end in zip(SHOTS, ends, strict=True))
    if index >= people:
        files = tuple(f"eval/images/{sha256(f'{seed} {index} {shot}')[:40]}.jpg" for shot in SHOTS)
    rng = np.random.default_rng([seed, face, 7])
    tones = _mix(*SKIN, rng.random()), _mix(*HAIR[age], rng.random()), *rng.uniform(85, 230, (3, 3)).tolist()
    shape = rng.uniform((88, 120, 8, 400), (104, 136, 22, 480)).tolist()
    return SamplePerson(index, gender, age, row, files, tones, *shape)


def _write_tables(root: Path, train: Sequence[SamplePerson], held: Sequence[SamplePerson], seed: int) -> None:
    rows = [train[i].row for i in np.random.default_rng(seed).permutation(len(train))]
    write_text(root / "train/train.csv", csv_text(("id", "gender", "race", "age", "path"), rows))
    truths = (zip(s.files, encode(STATES, s.gender, s.age).tolist(), strict=True) for s in held)
    answers = sorted((Path(file).name, answer) for truth in truths for file, answer in truth)
    write_text(root / "eval/info.csv", csv_text(("ImageID", "ans"), ((name, 0) for name, _ in answers)))
    write_text(root / "eval/answers.csv", csv_text(("ImageID", "ans"), answers))


def _photos(sitter: SamplePerson, size: Size, seed: int) -> list[tuple[str, bytes]]:
    encoded = []
    for number, (mask, file) in enumerate(zip(STATES, sitter.files, strict=True)):
        rng, kind = np.random.default_rng([seed, sitter.index, number]), Path(file).suffix.lower()
        photo = _photograph(_portrait(sitter, mask, rng), size, rng)
        _, data = cv2.imencode(kind, photo, () if kind == ".png" else (cv2.IMWRITE_JPEG_QUALITY, 88))
        encoded.append((file, data.tobytes()))
    return encoded


def _photograph(drawing: Pixels, size: Size, rng: np.random.Generator) -> Pixels:
    """A drawing with a framing, light and noise of its own: uint8 (height, width, 3), BGR."""
    frame = cv2.getRotationMatrix2D((WIDTH / 2, CENTRE), rng.uniform(-6, 6), rng.uniform(0.9, 1.12))
    frame = frame + np.pad(rng.uniform(-20, 20, (2, 1)), ((0, 0), (2, 0)))  # and shifted
    photo = cv2.warpAffine(drawing, frame, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE)
    photo = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
    light = rng.uniform(160, 216, (1, 2, 1)) * rng.uniform(0.94, 1.05, 3)  # left, right; 200 is neutral
    photo = cv2.multiply(photo, cv2.resize(light.astype(np.uint8), size), scale=1 / 200)
    grain = rng.integers(0, 16, (size[1], size[0], 3), dtype=np.uint8)
    return np.asarray(cv2.add(photo, grain), dtype=np.uint8)


def _portrait(sitter: SamplePerson, mask: int, rng: np.random.Generator) -> Pixels:
    """The drawing of a photo, from back to front: uint8 (HEIGHT, WIDTH, 3), BGR."""
    backdrop = np.array(sitter.colours[3:], dtype=np.uint8)[:, None]
    canvas = np.asarray(cv2.resize(backdrop, (WIDTH, HEIGHT)), dtype=np.uint8)
    if sitter.gender:  # long hair
        reach, colour = sitter.width + 24 + sitter.volume, _mix(sitter.colours[1], BLACK, 0.1)
        crown = _arc(CENTRE, (reach, sitter.height + sitter.volume), 180, 360)
        _draw(canvas, colour, [*crown, *_arc(sitter.length - 40, (reach + 4, 40), 0, 180)])

    # body
    neck, clothes = _mix(sitter.colours[0], BLACK, 0.14), sitter.colours[2]
    _draw(canvas, neck, [(-42, 340), (42, 340), (48, 450), (-48, 450)])
    _draw(canvas, clothes, _arc(540, (205, 118)))
    _draw(canvas, neck, _arc(428, (47, 28)))
    _draw(canvas, _mix(clothes, BLACK, 0.35), _arc(428, (48, 29), 5, 175), 8)  # the collar

    # head
    skin, shadow = sitter.colours[0], _mix(sitter.colours[0], BLACK, 0.12)
    _draw(canvas, shadow, _pair(_arc(254, (17, 28), x=sitter.width)))  # ears
    _draw(canvas, skin, _arc(CENTRE, (sitter.width, sitter.height)))
    _draw(canvas, shadow, [(-6, 240), (6, 240), *_arc(NOSE, (20, 10), 0, 180)])
    _draw(canvas, _mix(skin, BLACK, 0.5), _pair(_arc(NOSE + 3, (5, 3), x=9)))

    # lines of age on the forehead, below the eyes and beside the nose: none, faint or deep
    age, crease = sitter.age, _mix(sitter.colours[0], BLACK, 0.14 + 0.18 * sitter.age)
    for number in range((0, 2, 3)[age]):
        _draw(canvas, crease, _arc(194 - 11 * number, (44 - 5 * number, 7), 200, 340), 1 + age)
    if age:
        _draw(canvas, crease, _pair(_arc(EYES + 8, (19, 7 + 4 * age), 25, 155, x=40)), 1 + age)
        _draw(canvas, crease, _pair([(26, NOSE + 4), (46, MOUTH - 2)]), age)

    # eyes
    eye = _arc(EYES, (19, rng.uniform(8, 12)), x=40)
    _draw(canvas, WHITE, _pair(eye))
    _draw(canvas, BLACK, _pair(_arc(EYES, (8, 8), x=40)))
    _draw(canvas, BLACK, _pair(eye[len(eye) // 2 :]), 2 + 2 * sitter.gender)  # the upper lid
    brow = _pair([(20, BROWS + 3), (40, BROWS - 6), (63, BROWS + 2)])
    _draw(canvas, _mix(sitter.colours[1], BLACK, 0.3), brow, 4 if sitter.gender else 9)

    # mouth
    half, smile, lips = rng.uniform(24, 34), rng.uniform(2, 10), LIPS[sitter.gender]
    _draw(canvas, lips, _arc(MOUTH, (half, 7 + 4 * sitter.gender + smile / 4)))
    _draw(canvas, _mix(lips, BLACK, 0.65), _arc(MOUTH - smile, (half - 2, smile), 10, 170), 3)

    if mask < 2:  # over nose and mouth; or, incorrectly, below the nose or on the chin
        colour = MASKS[rng.integers(len(MASKS))]
        edge = _mix(colour, (100, 100, 100), 0.45)
        rise, top = ((22, 272.0), (5, NOSE + 20.0), (3, MOUTH + 20.0))[0 if mask == 0 else rng.integers(1, 3)]
        top += rng.uniform(-4, 4)
        bottom = max(CENTRE + sitter.height + 8, top + 66)
        slope = np.degrees(np.arcsin((top - CENTRE) / (bottom - CENTRE)))
        jaw = _arc(CENTRE, (sitter.width + 5, bottom - CENTRE), slope, 180 - slope)
        outline = [*jaw, *_arc(top, (jaw[0, 0], rise), 180, 360)]
        _draw(canvas, edge, _pair([jaw[0], (sitter.width + 3, CENTRE)]), 4)  # straps
        _draw(canvas, colour, outline)
        _draw(canvas, edge, outline, 2)
        _draw(canvas, edge, _arc(top + 0.4 * (bottom - top), (jaw[0, 0] * 0.7, 7), 0, 180), 2)  # a pleat

    # short hair
    outer = sitter.width + 6 + sitter.volume / 2, sitter.height + sitter.volume
    inner = sitter.width - 5, 80
    _draw(canvas, sitter.colours[1], [*_arc(242, outer, 180, 360), *_arc(242, inner, 360, 180)])
    for share, start, end in ((0.25, 200, 250), (0.45, 255, 325), (0.65, 215, 280), (0.85, 265, 320)):
        _draw(canvas, STRANDS[sitter.age], _arc(242, _mix(inner, outer, share), start, end), 3)
    return canvas


def _arc(y: float, radii: Sequence[float], start: float = 0, end: float = 360, x: float = 0) -> Points:
    """Points on an ellipse around (x, y), from one angle to another: degrees, clockwise from the right."""
    angles = np.radians(np.linspace(start, end, 33))
    return np.stack([x + radii[0] * np.cos(angles), y + radii[1] * np.sin(angles)], axis=1)


def _mix(one: Colour, other: Colour, share: float) -> Colour:
    return [a + share * (b - a) for a, b in zip(one, other, strict=True)]


def _pair(points: npt.ArrayLike) -> Points:
    """The same on the right and, mirrored, on the left: float64 (2, n, 2)."""
    return np.stack([np.multiply(points, side) for side in ((1.0, 1.0), (-1.0, 1.0))])


def _draw(canvas: Pixels, colour: Colour, points: npt.ArrayLike, width: int = 0) -> None:
    """Filled polygons, or with a `width` lines: (n, 2) or (shapes, n, 2)."""
    fixed = np.rint((np.asarray(points) + np.array([WIDTH / 2, 0.0])) * 8).astype(np.int32)
    shapes = list(fixed.reshape(-1, *fixed.shape[-2:]))
    if width:
        cv2.polylines(canvas, shapes, False, colour, width, cv2.LINE_AA, shift=3)
    else:
        cv2.fillPoly(canvas, shapes, colour, cv2.LINE_AA, shift=3)
