"""A person's photos decided together: gender and age are the same on all of them, the mask is each photo's own."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax, logsumexp

from folds.data.labels import AGES, CLASSES, GENDERS, MASKS, AnyFloatArray, IntArray


def share_gender_and_age(
    log_probabilities: AnyFloatArray, person: IntArray, seen: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.float64]:
    """log p(mask | photo) + the mean of log p(gender, age | photo) over the person's photos, each row normalised.

    The mean of logs is the product rule for combining classifiers (Kittler et al. 1998, "On Combining Classifiers"),
    tempered by the number of photos, as those of one person do not err independently. A person's only photo stays as
    it is, also where a model of all 18 classes does not take mask and person as independent.

    Args:
        log_probabilities: float (photos, 18), rows summing to 1 after exp.
        person: int64 (photos,), equal for photos of one person, from 0 up.
        seen: bool (photos,), False for photos that no model saw: they take gender and age from the person's others and
            give none, and stay as they are where there is no other. None: all were seen.

    Returns:
        float64 (photos, 18), log probabilities.
    """
    cube = np.asarray(log_probabilities, dtype=np.float64).reshape(-1, len(MASKS), len(GENDERS) * len(AGES))
    mask, traits = logsumexp(cube, axis=2), logsumexp(cube, axis=1)
    seen = np.ones(len(person), dtype=np.bool_) if seen is None else seen
    photos = np.bincount(person, seen)
    sums = np.stack([np.bincount(person, np.where(seen, column, 0)) for column in traits.T], axis=1)
    shared = (sums / np.maximum(photos, 1)[:, None])[person]
    together = log_softmax((mask[:, :, None] + shared[:, None]).reshape(-1, CLASSES), axis=1)
    alone = photos[person] == np.where(seen, 1, 0)
    return np.asarray(np.where(alone[:, None], log_probabilities, together), dtype=np.float64)
