"""Tasks: which part of the label a model predicts, from whom it learns, and what its logits mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from folds.labels import IntArray
from folds.layout import TrainData

Part = Literal["mask", "gender", "age", "class"]
Predicts = Literal["mask", "gender", "male-age", "female-age", "age", "heads", "class18"]

WIDTHS: dict[Part, int] = {"mask": 3, "gender": 2, "age": 3, "class": 18}
PARTS: dict[Predicts, tuple[Part, ...]] = {
    "mask": ("mask",),
    "gender": ("gender",),
    "male-age": ("age",),
    "female-age": ("age",),
    "age": ("age",),
    "heads": ("mask", "gender", "age"),
    "class18": ("class",),
}
ONLY_GENDER: dict[Predicts, int] = {"male-age": 0, "female-age": 1}
KINDS: tuple[Predicts, ...] = get_args(Predicts)


@dataclass(frozen=True)
class Head:
    """A part of the label and where its logits lie among the model's outputs."""

    part: Part
    columns: slice


def heads(predicts: Predicts) -> tuple[Head, ...]:
    """The heads of a task, in the order of its logits."""
    found, start = [], 0
    for part in PARTS[predicts]:
        found.append(Head(part, slice(start, start + WIDTHS[part])))
        start += WIDTHS[part]
    return tuple(found)


def width(predicts: Predicts) -> int:
    """Number of logits of a task's model: 3, 2, 8 (heads) or 18."""
    return sum(WIDTHS[p] for p in PARTS[predicts])


def targets(predicts: Predicts, data: TrainData) -> IntArray:
    """True label of each photo for each head.

    Returns:
        int64 (photos, heads).
    """
    mask, gender, age = data.labels
    columns: dict[Part, IntArray] = {"mask": mask, "gender": gender, "age": age, "class": data.classes}
    return np.stack([columns[p] for p in PARTS[predicts]], axis=1)


def learns_from(predicts: Predicts, data: TrainData) -> npt.NDArray[np.bool_]:
    """bool (photos,): the photos a task learns from and is validated on: one gender's for its age task.

    Out-of-fold logits are made for all photos all the same: the joint decision weighs both age models.
    """
    only = ONLY_GENDER.get(predicts)
    gender = data.labels[1]
    return np.ones(len(gender), dtype=np.bool_) if only is None else gender == only


def undetermined(kinds: list[Predicts]) -> list[str]:
    """What a set of tasks leaves open of the 18 classes, in words; empty if nothing."""
    have = set(kinds)
    if have & {"heads", "class18"}:
        return []
    open_parts = [p for p in ("mask", "gender") if p not in have]
    if "age" not in have:
        missing = [t for t in ("male-age", "female-age") if t not in have]
        open_parts += ["age"] if len(missing) == 2 else missing
    return open_parts
