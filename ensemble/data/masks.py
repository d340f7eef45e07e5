"""Masks drawn on training photos of faces without one: the photo and its labels change together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble.data.cache import DecodedPhotos
from ensemble.data.mask_drawing import draw_mask
from ensemble.jobs.soft_targets import soft_with_mask
from ensemble.recipes.schema import FaceTemplate, TaskRecipe
from ensemble.recipes.tasks import with_mask
from folds.faces import Face, detector_fault, find_face
from folds.labels import MASKS, IntArray
from folds.photos import Pixels

WEAR, INCORRECT, NOT_WEAR = range(len(MASKS))
SAMPLE = 200  # photos on which faces are looked for beforehand
TargetArray = npt.NDArray[Any]  # what comes with a photo to learn from: labels, or a soft target
STREAM = 2  # of a key; augmentation draws from 0 and 1


class DrawMasks:
    """Draws from (seed, epoch, photo), as `Augment` does, and from no other stream.

    Args:
        soft: what comes with a photo is a soft target and no labels.
    """

    def __init__(self, recipe: TaskRecipe, states: IntArray, soft: bool = False) -> None:
        self.masks, self.target, self.states = recipe.masks, recipe.target, states
        self.face, self.in_years, self.soft = recipe.masks.face, recipe.ages.sigma > 0, soft
        if isinstance(recipe.crop, tuple) and not recipe.masks.detect:
            self.face = self.face.cropped(recipe.resize, recipe.crop)

    def __call__(
        self, photo: Pixels, labels: TargetArray, index: int, key: Sequence[int]
    ) -> tuple[Pixels, TargetArray]:
        """A mask on some photos of faces without one; all others as they are.

        Where a mask lies that somebody wears is not known, so nothing is drawn over it; nor where a face is to be
        found and is not.

        Args:
            photo: uint8 (h, w, 3) RGB, after resize and crop; not changed.
            labels: int64 (heads,) as the task is trained, or soft a float32 (18,); not changed.
            index: of the photo in `states`.
            key: non-negative integers, e.g. (seed, task, fold, epoch, photo).

        Returns:
            (photo uint8 (h, w, 3), labels as they were given).
        """
        if self.states[index] != NOT_WEAR:
            return photo, labels
        rng = np.random.default_rng(np.random.SeedSequence(list(key), spawn_key=(STREAM,)))
        if rng.random() >= self.masks.prob:
            return photo, labels
        face = find_face(photo) if self.masks.detect else face_on(photo, self.face)
        if face is None:
            return photo, labels
        state = INCORRECT if rng.random() < self.masks.incorrect else WEAR
        drawn = draw_mask(photo, face, state == WEAR, rng)
        return drawn, self._with_mask(labels, state)

    def _with_mask(self, labels: TargetArray, state: int) -> TargetArray:
        return soft_with_mask(labels, state) if self.soft else with_mask(self.target, labels, state, self.in_years)


def draw_masks(recipe: TaskRecipe, states: IntArray, soft: bool = False) -> DrawMasks | None:
    """What the recipe's key `masks` asks for; None where that is nothing.

    Args:
        states: int64 (photos,), the mask label of each photo.
        soft: as of `DrawMasks`.
    """
    return DrawMasks(recipe, states, soft) if recipe.masks.prob else None


def undetected_note(task: TaskRecipe, photos: DecodedPhotos, states: IntArray) -> str:
    """What to say of faces that masks are to be drawn on and that are not found, from a sample of photos; "" if none.

    Args:
        photos: as the task sees them.
        states: int64 (photos,), the mask label of each photo.
    """
    bare = np.flatnonzero((states == NOT_WEAR) & photos.photos.readable)
    if not (task.masks.prob and task.masks.detect and len(bare)):
        return ""
    rows = np.unique(bare[np.linspace(0, len(bare) - 1, SAMPLE).astype(np.int64)])
    missed = sum(find_face(photos[int(row)][0]) is None for row in rows)
    if not missed:
        return ""
    of = f"{len(rows)} photos without a mask" + (f", a sample of {len(bare):,}" if len(rows) < len(bare) else "")
    return f"masks: no face found on {missed} of {of} ({missed / len(rows):.1%}), where none is drawn"


def face_on(photo: Pixels, template: FaceTemplate) -> Face:
    """Where a photo's face is by the template."""
    height, width = photo.shape[:2]
    return Face(template.middle * width, template.eyes * height, template.mouth * height, template.width * width)


def detection_faults(task: TaskRecipe) -> list[str]:
    """Why faces that a task wants found can't be; empty if nothing."""
    masks = bool(task.masks.prob and task.masks.detect)
    fault = detector_fault() if masks or task.crop == "face" else ""
    if not fault:
        return []
    found = [f"masks.detect: {fault}; or leave detect out and say where faces are with masks.face"] if masks else []
    return found + ([f"crop: {fault}; or crop the centre"] if task.crop == "face" else [])
