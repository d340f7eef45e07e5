"""What a job learns from: which photos, and towards which labels or soft targets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ensemble.data.loader import EpochBatches, epoch_batches
from ensemble.data.masks import DrawMasks, draw_masks
from ensemble.data.sampling import NO_MORE
from ensemble.jobs.spec import JobSpec, learned_rows
from ensemble.recipes.schema import TaskRecipe
from ensemble.recipes.tasks import class_labels, training_labels
from folds.data.labels import CLASSES, IntArray, decode
from folds.data.people import TrainData


@dataclass(frozen=True)
class LearningSet:
    """The photos of the data, and after them those of pseudo-labels, of which a job learns from some."""

    recipe: TaskRecipe
    data: TrainData
    rows: IntArray  # (n,): the photos of the data that are learned from
    more: tuple[IntArray, IntArray]  # (rows, classes) of those with a pseudo-label, as of `sampling.epoch_photos`
    labels: IntArray  # (photos, heads), as they are trained
    states: IntArray  # (photos,), mask labels
    soft: npt.NDArray[np.float32] | None  # (photos, 18); NaN for photos that are not learned from
    files: list[str]  # (photos,)

    @property
    def taught(self) -> IntArray | npt.NDArray[np.float32]:
        """What the model is shown with each photo: its labels, or its soft target if there are any."""
        return self.labels if self.soft is None else self.soft

    def batches(self, seed: tuple[int, ...]) -> EpochBatches:
        return epoch_batches(self.recipe, self.data, self.rows, seed, self.more)

    def draw_masks(self) -> DrawMasks | None:
        return draw_masks(self.recipe, self.states, self.soft is not None)


def learning_set(spec: JobSpec, data: TrainData, folds: IntArray) -> LearningSet:
    """What a job learns from. No person of its fold is in it, nor a soft target of one.

    Args:
        folds: int64 (people,).
    """
    recipe = spec.recipe.tasks[spec.task]
    rows, more, files = learned_rows(spec, data, folds), NO_MORE, list(data.files)
    labels, states = training_labels(recipe.target, data, in_years=recipe.ages.sigma > 0), data.labels[0]
    if spec.pseudo:
        more = spec.pseudo.of(spec.fold, recipe)
        classes = np.maximum(spec.pseudo.classes[spec.fold], 0)  # of those not taken, any: they are never shown
        labels = np.concatenate([labels, class_labels(recipe.target, classes)])
        states = np.concatenate([states, decode(classes)[0]])
        files += spec.pseudo.photos.files
    soft = None
    if spec.soft:
        soft = np.full((len(data.files), CLASSES), np.nan, dtype=np.float32)
        soft[rows] = spec.soft.of(spec.fold, recipe.predicts, data)[rows]
    return LearningSet(recipe, data, rows, more, labels, states, soft, files)
