"""The coding of the 18 classes, both ways. Nothing else in the project knows the numbers.

class = mask * 6 + gender * 3 + age
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
AnyFloatArray = npt.NDArray[np.floating]  # of any width

MASKS = ("wear", "incorrect", "not wear")
GENDERS = ("male", "female")
AGES = ("<30", "30-59", ">=60")
AGE_CUTS = (30, 60)  # the scoring cuts; a recipe may train on others, never score on them
FORMULA = "class = mask*6 + gender*3 + age"
CLASSES = len(MASKS) * len(GENDERS) * len(AGES)
CLASS_NAMES = tuple(f"{m}, {g}, {a}" for m in MASKS for g in GENDERS for a in AGES)
SHOTS = ("mask1", "mask2", "mask3", "mask4", "mask5", "incorrect_mask", "normal")
SHOT_MASK = dict.fromkeys(SHOTS, 0) | {"incorrect_mask": 1, "normal": 2}  # file stem of a photo -> its mask label


def encode(mask: npt.ArrayLike, gender: npt.ArrayLike, age: npt.ArrayLike) -> IntArray:
    """Class of each photo, int64, 0..17, from its labels, int of one shape: mask 0..2, gender 0..1, age band 0..2.
    Raises ValueError: a label is out of range."""
    parts = [np.asarray(p, dtype=np.int64) for p in (mask, gender, age)]
    for name, part, width in zip(("mask", "gender", "age"), parts, (3, 2, 3), strict=True):
        if part.size and (part.min() < 0 or part.max() >= width):
            raise ValueError(f"{name} label out of range 0..{width - 1}")
    return np.asarray(parts[0] * 6 + parts[1] * 3 + parts[2], dtype=np.int64)


def decode(classes: npt.ArrayLike) -> tuple[IntArray, IntArray, IntArray]:
    """The inverse of `encode`: (mask, gender, age), each int64. Raises ValueError: a class is outside 0..17."""
    c = np.asarray(classes, dtype=np.int64)
    if c.size and (c.min() < 0 or c.max() >= CLASSES):
        raise ValueError(f"class out of range 0..{CLASSES - 1}")
    return c // 6, c // 3 % 2, c % 3


def age_band(years: npt.ArrayLike, cuts: Sequence[int] = AGE_CUTS) -> IntArray:
    """Band of each age in whole years: the number of cuts that it has reached (30 is already in band 1)."""
    return np.searchsorted(np.asarray(cuts), np.asarray(years), side="right").astype(np.int64)
