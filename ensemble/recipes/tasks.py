"""Tasks: which part of the label a model predicts, on which photos it is trained and scored, and its heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from folds.labels import AGE_CUTS, AGES, GENDERS, MASKS, OLDEST, UNKNOWN, IntArray, age_band, decode
from folds.people import TrainData

Part = Literal["mask", "gender", "age", "class"]
Predicts = Literal["mask", "gender", "male-age", "female-age", "age", "heads", "class18"]
AgeHead = Literal["softmax", "ordinal", "regression"]

WIDTHS: dict[Part, int] = {"mask": 3, "gender": 2, "age": 3, "class": 18}
PREDICTED_PARTS: dict[Predicts, tuple[Part, ...]] = {
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
    """A part of the label, with the places of its logits among the model's outputs and of its bins among the targets.

    Bins are the classes that are trained: those of the label, unless ages are trained in finer ones. The logits of each
    kind are described in `ensemble.metrics.heads`.
    """

    part: Part
    columns: slice
    bins: slice
    bin_labels: tuple[int, ...]  # label that each bin counts for: 0, 1, 2, ... unless ages are trained in finer bins
    kind: AgeHead = "softmax"
    cuts: tuple[int, ...] = ()  # of the ages, in whole years; only of a head of ages

    @property
    def width(self) -> int:
        """Number of logits."""
        return int(self.columns.stop - self.columns.start)


@dataclass(frozen=True)
class OutputSpec:
    """What a task's model predicts. Ages may be *trained* in other bins than they are scored in.

    `cuts` are whole years; bin b holds the ages from cuts[b-1] to cuts[b] - 1, and counts as band bands[b].
    """

    predicts: Predicts
    cuts: tuple[int, ...] = AGE_CUTS
    bands: tuple[int, ...] = (0, 1, 2)
    age_head: AgeHead = "softmax"

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads, in the order of the logits."""
        bin_labels: dict[Part, tuple[int, ...]] = {
            "mask": tuple(range(WIDTHS["mask"])),
            "gender": tuple(range(WIDTHS["gender"])),
            "age": self.bands,
            "class": tuple(c * len(AGES) + b for c in range(len(MASKS) * len(GENDERS)) for b in self.bands),
        }
        found, column, first = [], 0, 0
        for part in PREDICTED_PARTS[self.predicts]:
            labels, is_age = bin_labels[part], part == "age"
            kind: AgeHead = self.age_head if is_age else "softmax"
            width = {"softmax": len(labels), "ordinal": len(labels) - 1, "regression": 2}[kind]
            columns, bins = slice(column, column + width), slice(first, first + len(labels))
            found.append(Head(part, columns, bins, labels, kind, self.cuts if is_age else ()))
            column, first = columns.stop, bins.stop
        return tuple(found)

    @property
    def in_bins(self) -> OutputSpec:
        """The spec of the same model after `heads.bin_logits`, which gives each head a logit a bin."""
        return replace(self, age_head="softmax")

    @property
    def width(self) -> int:
        """Number of logits; at the scoring cuts 3, 2, 8 (heads) or 18."""
        return sum(head.width for head in self.heads)

    @property
    def names(self) -> dict[Part, list[str]]:
        """The classes of each head in the order of its bins."""
        ages = bin_names(self.cuts)
        everything = [f"{m}, {g}, {a}" for m in MASKS for g in GENDERS for a in ages]
        known: dict[Part, list[str]] = {"mask": [*MASKS], "gender": [*GENDERS], "age": ages, "class": everything}
        return {p: known[p] for p in PREDICTED_PARTS[self.predicts]}


def bin_names(cuts: Sequence[int]) -> list[str]:
    """`[30, 60]` -> `<30`, `30-59`, `>=60`."""
    between = [f"{a}" if b == a + 1 else f"{a}-{b - 1}" for a, b in pairwise(cuts)]
    return [f"<{cuts[0]}", *between, f">={cuts[-1]}"]


def bands_of(cuts: Sequence[int]) -> tuple[int, ...]:
    """Default band of each bin: that of its oldest age, so that a last cut of 58 counts all from 58 as `>=60`."""
    return (*(int(b) for b in age_band([c - 1 for c in cuts])), len(AGES) - 1)


def training_labels(output_spec: OutputSpec, data: TrainData, in_years: bool = False) -> IntArray:
    """int64 (photos, heads): labels for training, ages in the output_spec's own bins or in whole years; UNKNOWN where a
    label is unknown or an age is known less finely."""
    mask, gender, _ = data.labels
    if in_years:
        return _columns(output_spec, mask, gender, np.maximum(data.years, UNKNOWN), OLDEST + 1)
    return _columns(output_spec, mask, gender, age_band(data.years, output_spec.cuts), len(output_spec.bands))


def with_mask(output_spec: OutputSpec, labels: IntArray, mask: int, in_years: bool = False) -> IntArray:
    """A copy of the labels of one photo, int64 (heads,), a row of `training_labels` (`in_years` or not), with another
    mask, 0..2."""
    others = len(GENDERS) * (OLDEST + 1 if in_years else len(output_spec.bands))  # labels of a mask state
    changed = labels.copy()
    for column, head in enumerate(output_spec.heads):
        if head.part == "mask":
            changed[column] = mask
        if head.part == "class":
            changed[column] = mask * others + changed[column] % others
    return changed


def true_labels(output_spec: OutputSpec, data: TrainData) -> IntArray:
    """int64 (photos, heads): labels for scoring, whatever bins were trained; UNKNOWN where one is unknown."""
    return _columns(output_spec, *data.labels, len(AGES))


def class_labels(output_spec: OutputSpec, classes: IntArray) -> IntArray:
    """int64 (photos, heads): labels for scoring of photos of these classes, int64 (photos,), 0..17."""
    return _columns(output_spec, *decode(classes), len(AGES))


def _columns(output_spec: OutputSpec, mask: IntArray, gender: IntArray, age: IntArray, ages: int) -> IntArray:
    classes = (mask * len(GENDERS) + gender) * ages + age
    classes[(mask == UNKNOWN) | (gender == UNKNOWN) | (age == UNKNOWN)] = UNKNOWN
    columns: dict[Part, IntArray] = {"mask": mask, "gender": gender, "age": age, "class": classes}
    return np.stack([columns[p] for p in PREDICTED_PARTS[output_spec.predicts]], axis=1)


def training_mask(output_spec: OutputSpec, data: TrainData, in_years: bool = False) -> npt.NDArray[np.bool_]:
    """bool (photos,): the photos that a task may be trained on: readable ones with one of its `training_labels`; of one
    gender for its age task."""
    return np.asarray(
        _of_task(output_spec, data) & (training_labels(output_spec, data, in_years) != UNKNOWN).any(axis=1)
    )


def scored_mask(output_spec: OutputSpec, data: TrainData) -> npt.NDArray[np.bool_]:
    """bool (photos,): the photos that a task is scored on: readable ones with all of its labels; of one gender for its
    age task. Out-of-fold logits are kept of all photos: the joint decision uses both age models."""
    return np.asarray(_of_task(output_spec, data) & (true_labels(output_spec, data) != UNKNOWN).all(axis=1))


def _of_task(output_spec: OutputSpec, data: TrainData) -> npt.NDArray[np.bool_]:
    only = ONLY_GENDER.get(output_spec.predicts)
    readable = data.photos.readable
    return readable if only is None else readable & (data.labels[1] == only)


def undetermined(kinds: Sequence[Predicts]) -> list[str]:
    """The parts of the 18 classes that no task of a set predicts, or the age tasks that are missing."""
    parts = {part for kind in kinds for part in PREDICTED_PARTS[kind] if kind not in ONLY_GENDER}
    if "class" in parts:
        return []
    open_parts: list[str] = [p for p in ("mask", "gender") if p not in parts]
    if "age" not in parts:
        missing = [t for t in ONLY_GENDER if t not in kinds]
        open_parts += ["age"] if len(missing) == len(ONLY_GENDER) else missing
    return open_parts
