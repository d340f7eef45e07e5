"""Early exit: the age models of a gender are left out where they could not change the class.

A class's score is log p(mask) + log p(gender) + log p(age | gender), and no log p(age | gender) exceeds 0. So with it
at 0 the score is an upper bound, and where the best class of a gender whose ages are known exceeds all bounds of the
other gender, the other's age models can't change the decision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ensemble.decision.members import Ensemble
from ensemble.decision.tuning import DecisionParams
from ensemble.jobs.oof import Logits
from folds.labels import AGES, GENDERS, MASKS, IntArray

SLACK = 1e-9  # by which a bound must be exceeded: more than rounding can do to a score
DECIDED = -1


def upper_bounds(
    ensembles: Sequence[Ensemble], logits: Sequence[Mapping[str, Logits]], fitted: DecisionParams
) -> npt.NDArray[np.float64]:
    """Upper bounds of the blended scores on which the joint decision rests, exact where all models predicted.

    Args:
        logits: of each run, task -> float32 (folds, views, photos, width), NaN where a photo was not shown.
        fitted: weights of the runs, offsets of the classes.

    Returns:
        float64 (photos, 18).
    """
    scores = [e.scores(found, missing=0.0) for e, found in zip(ensembles, logits, strict=True)]
    return np.asarray(np.average(scores, axis=0, weights=fitted.weights) + np.array(fitted.offsets))


def gender_to_evaluate(scores: npt.NDArray[np.float64], evaluated: npt.NDArray[np.bool_]) -> IntArray:
    """The gender whose age models are to be evaluated next.

    Args:
        scores: float (photos, 18), of `upper_bounds`.
        evaluated: bool (photos, 2): whether the age models of that gender predicted.

    Returns:
        int64 (photos,): 0, 1, or DECIDED where no remaining model can change the class.
    """
    best = scores.reshape(-1, len(MASKS), len(GENDERS), len(AGES)).max(axis=(1, 3))  # (photos, gender)
    known = np.where(evaluated, best, -np.inf).max(axis=1)
    could = np.where(evaluated, -np.inf, best)
    needed = could.max(axis=1) >= known - SLACK
    return np.where(needed & ~evaluated.all(axis=1), could.argmax(axis=1), DECIDED).astype(np.int64)
