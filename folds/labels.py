"""The coding of the 18 classes, both ways. Nothing else in the project knows the numbers.

class = mask * 6 + gender * 3 + age
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from folds.table import whole_number

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
AnyFloatArray = npt.NDArray[np.floating]  # of any width

MASKS = ("wear", "incorrect", "not wear")
GENDERS = ("male", "female")
AGES = ("<30", "30-59", ">=60")
AGE_CUTS = (30, 60)  # the scoring cuts; a recipe may train on others, never score on them
FORMULA = "class = mask*6 + gender*3 + age"
OLDEST = 120  # years
FIELDS: dict[str, tuple[str, ...]] = {"gender": GENDERS, "age": AGES, "mask": MASKS}  # the three labels and their words
UNKNOWN = -1  # in place of a label that a photo lacks, and of its class; an age known as a band alone is `of_band`
SHAPE = (len(MASKS), len(GENDERS), len(AGES))
CLASS_NAMES = tuple(f"{m}, {g}, {a}" for m in MASKS for g in GENDERS for a in AGES)
CLASSES = len(CLASS_NAMES)
SHOTS = ("mask1", "mask2", "mask3", "mask4", "mask5", "incorrect_mask", "normal")
SHOT_MASK = dict.fromkeys(SHOTS, 0) | {"incorrect_mask": 1, "normal": 2}  # file stem of a photo -> its mask label


def encode(mask: npt.ArrayLike, gender: npt.ArrayLike, age: npt.ArrayLike) -> IntArray:
    """Class of each photo, int64, 0..17, from its labels, int of one shape: mask 0..2, gender 0..1, age band 0..2.
    Raises ValueError: a label is out of range."""
    parts = tuple(np.asarray(part, dtype=np.int64) for part in (mask, gender, age))
    return np.asarray(np.ravel_multi_index(parts, SHAPE), dtype=np.int64)


def decode(classes: npt.ArrayLike) -> tuple[IntArray, IntArray, IntArray]:
    """The inverse of `encode`: (mask, gender, age), each int64. Raises ValueError: a class is outside 0..17."""
    mask, gender, age = np.unravel_index(np.asarray(classes, dtype=np.int64), SHAPE)
    return mask, gender, age


def of_band(band: npt.ArrayLike) -> IntArray:
    """What stands for the years of an age of which only the band is known: -2, -3 or -4."""
    return np.asarray(UNKNOWN - 1 - np.asarray(band), dtype=np.int64)


def age_band(years: npt.ArrayLike, cuts: Sequence[int] = AGE_CUTS) -> IntArray:
    """Band of each age in whole years: the number of cuts that it has reached (30 is already in band 1). UNKNOWN for an
    unknown age, and for one of `of_band` that these cuts divide."""
    years = np.asarray(years)
    found = np.where(years < 0, UNKNOWN, np.searchsorted(np.asarray(cuts), years, side="right"))
    for band, (youngest, next_band) in enumerate(pairwise((0, *AGE_CUTS, OLDEST + 1))):
        first, last = np.searchsorted(np.asarray(cuts), (youngest, next_band - 1), side="right")
        if first == last:
            found = np.where(years == of_band(band), first, found)
    return found.astype(np.int64)


def label_text(field: str, value: int) -> str:
    """A label as a word, an age as its years or its band; "" for UNKNOWN."""
    if field == "age":
        return str(value) if value >= 0 else "" if value == UNKNOWN else AGES[int(of_band(value))]
    return FIELDS[field][value] if value >= 0 else ""


def parse_label(field: str, text: str) -> int | None:
    """The inverse of `label_text` of a label that is known, in any case; None for text that is none."""
    if field == "age" and text not in AGES:
        return years if 0 <= (years := whole_number(text)) <= OLDEST else None
    words = FIELDS[field]
    if text.lower() not in words:
        return None
    number = words.index(text.lower())
    return int(of_band(number)) if field == "age" else number
