"""Opening every photo before training: unreadable files, and near-duplicates across people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from folds.corrections import Merge
from folds.errors import MaskensError
from folds.people import TrainData
from folds.photos import Pixels, Progress, in_threads, read_photo

NEAR = 3  # bits of 64 that recompression and rescaling may turn
CHUNK = 2048


@dataclass(frozen=True)
class PhotoCheck:
    """What opening all photos showed."""

    unreadable: tuple[str, ...]  # one message a file
    duplicates: tuple[tuple[str, str, int], ...]  # (file, file of another person, differing bits)


def perceptual_hash(photo: Pixels) -> np.uint64:
    """64 bits that survive rescaling and recompression: signs of the lowest 8 x 8 DCT coefficients of the
    32 x 32 grey photo against their median ("pHash", Zauner 2010).

    Args:
        photo: uint8 (h, w, 3), RGB.
    """
    grey = cv2.resize(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA)
    low = cv2.dct(grey.astype(np.float32))[:8, :8].ravel()
    bits = low > np.median(low[1:])  # the first coefficient is the mean brightness
    return np.uint64(int("".join("1" if b else "0" for b in bits), 2))


def check_photos(data: TrainData, workers: int, on_progress: Progress | None = None) -> PhotoCheck:
    """Decode every photo in `workers` threads.

    Args:
        on_progress: called with (photos done, photos in all).
    """
    files = data.files

    def one(file: str) -> np.uint64 | str:
        try:
            return perceptual_hash(read_photo(data.photos.path(file)))
        except MaskensError as error:
            return str(error)

    hashes = np.zeros(len(files), dtype=np.uint64)
    problems: list[str] = []
    readable = np.ones(len(files), dtype=np.bool_)
    for i, result in enumerate(in_threads(one, files, workers, on_progress)):
        if isinstance(result, str):
            problems.append(result)
            readable[i] = False
        else:
            hashes[i] = result
    people = np.array([data.people[p].group for p in data.photo_person])
    pairs = near_duplicates(hashes[readable], people[readable])
    kept = [f for f, ok in zip(files, readable, strict=True) if ok]
    return PhotoCheck(tuple(problems), tuple((kept[a], kept[b], bits) for a, b, bits in pairs))


def near_duplicates(
    hashes: npt.NDArray[np.uint64], people: npt.NDArray[np.str_], near: int = NEAR
) -> list[tuple[int, int, int]]:
    """Pairs of photos of different people that differ in at most `near` bits.

    All pairs are compared, a block of rows at a time, so that memory grows with n and not with its square.

    Args:
        hashes: uint64 (n,).
        people: (n,), equal for photos of one person.

    Returns:
        (first, second, bits) with first < second, most alike first.
    """
    found: list[tuple[int, int, int]] = []
    for start in range(0, len(hashes), CHUNK):
        block = hashes[start : start + CHUNK]
        bits = np.bitwise_count(block[:, None] ^ hashes[None, start:])
        for a, b in np.argwhere(bits <= near):
            if a < b and people[start + a] != people[start + b]:
                found.append((int(start + a), int(start + b), int(bits[a, b])))
    return sorted(found, key=lambda pair: (pair[2], pair[0], pair[1]))


def same_people(data: TrainData, duplicates: Sequence[tuple[str, str, int]]) -> tuple[Merge, ...]:
    """The ids of the two photos of each pair, as one person."""
    ids = dict(zip(data.files, (data.people[p].id for p in data.photo_person), strict=True))
    return tuple(Merge(ids[a], ids[b], f"{a} ~ {b}") for a, b, _ in duplicates)


def describe(duplicates: Sequence[tuple[str, str, int]], root: Path, shown: int = 10) -> list[str]:
    """One line a pair, for the terminal."""
    lines = [f"{root / a}  ~  {root / b}  ({bits} of 64 bits differ)" for a, b, bits in duplicates[:shown]]
    if len(duplicates) > shown:
        lines.append(f"... and {len(duplicates) - shown} more pairs")
    return lines
