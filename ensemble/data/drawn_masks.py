"""Masks drawn on training photos of faces without one: the photo and its labels change together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble.data.cache import DecodedPhotos
from ensemble.data.mask_drawing import draw_mask
from ensemble.jobs.soft_targets import soft_with_mask
from ensemble.recipes.schema import TaskRecipe
from ensemble.recipes.tasks import with_mask
from folds.faces import Face, detector_fault, find_face
from folds.labels import MASKS, IntArray
from folds.photos import Pixels

WEAR, INCORRECT, NOT_WEAR = range(len(MASKS))
SAMPLE = 200  # photos on which faces are looked for before training
TargetArray = npt.NDArray[Any]  # a photo's labels, or its soft target
STREAM = 2  # of a key; augmentation draws from 0 and 1


class DrawMasks:
    """Draws from (seed, epoch, photo), as `Augment` does, and from no other stream.

    Args:
        states: int64 (photos,), the mask label of each photo.
        soft: a photo comes with a soft target instead of labels.
    """

    def __init__(self, recipe: TaskRecipe, states: IntArray, soft: bool = False) -> None:
        self.masks, self.output_spec, self.states = recipe.masks, recipe.output_spec, states
        self.face, self.in_years, self.soft = recipe.masks.face, recipe.ages.in_years, soft
        if isinstance(recipe.crop, tuple) and not recipe.masks.detect:
            self.face = self.face.cropped(recipe.resize, recipe.crop)

    def __call__(
        self, photo: Pixels, labels: TargetArray, index: int, key: Sequence[int]
    ) -> tuple[Pixels, TargetArray]:
        """A mask on some photos of faces without one, others unchanged: (photo, labels as they were given). Nothing is
        drawn over a mask that is worn, as its place is unknown; nor where a face is to be found and is not.

        Takes a photo uint8 (h, w, 3) RGB after resize and crop, and its labels, int64 (heads,) as the task is trained
        or soft a float32 (18,); neither is changed. `index` is the photo's in `states`; `key` is non-negative integers,
        e.g. (seed, task, fold, epoch, photo)."""
        if not self.masks.prob or self.states[index] != NOT_WEAR:
            return photo, labels
        rng = np.random.default_rng(np.random.SeedSequence(list(key), spawn_key=(STREAM,)))
        if rng.random() >= self.masks.prob:
            return photo, labels
        if self.masks.detect:
            face = find_face(photo)
        else:
            (height, width, _), where = photo.shape, self.face
            face = Face(where.middle * width, where.eyes * height, where.mouth * height, where.width * width)
        if face is None:
            return photo, labels
        state = INCORRECT if rng.random() < self.masks.incorrect else WEAR
        photo = draw_mask(photo, face, state == WEAR, rng)
        if self.soft:
            return photo, soft_with_mask(labels, state)
        return photo, with_mask(self.output_spec, labels, state, self.in_years)


def undetected_note(task: TaskRecipe, photos: DecodedPhotos, states: IntArray) -> str:
    """On how many of a sample of faces that masks are to be drawn on no face is found; "" if on none. `photos` are as
    the task sees them, `states` int64 (photos,) the mask label of each."""
    bare = np.flatnonzero((states == NOT_WEAR) & photos.photos.readable)
    if not (task.masks.prob and task.masks.detect and len(bare)):
        return ""
    rows = np.unique(bare[np.linspace(0, len(bare) - 1, SAMPLE).astype(np.int64)])
    missed = sum(find_face(photos[int(row)][0]) is None for row in rows)
    share = f"{missed} of {len(rows)} sampled photos without a mask ({missed / len(rows):.1%})"
    return f"masks: no face found on {share}; no mask is drawn on these" if missed else ""


def detection_faults(task: TaskRecipe) -> list[str]:
    """Why faces that a task needs found can't be; empty if nothing."""
    wanted = ["masks.detect"] if task.masks.prob and task.masks.detect else []
    wanted += ["crop"] if task.preprocessing.finds_face else []
    fault = detector_fault() if wanted else ""
    return [f"{key}: {fault}" for key in wanted if fault]
