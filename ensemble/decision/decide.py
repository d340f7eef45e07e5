"""From the log probabilities of runs to one class a photo: the one place where that is decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax, logsumexp

from ensemble.decision.joint import blend
from folds.labels import AGES, CLASSES, GENDERS, MASKS, AnyFloatArray, FloatArray, IntArray, encode


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


Rule = Literal["joint", "hard", "vote"]


@dataclass(frozen=True)
class Decision:
    """Probabilities and classes. Offsets move the class only: one may be decided on that is not the most probable,
    because macro F1 weighs all classes alike."""

    log_probabilities: FloatArray  # (photos, 18)
    classes: IntArray  # (photos,), 0..17


def decide(
    class_log_probs: FloatArray,
    weights: AnyFloatArray | Sequence[float] | None = None,
    offsets: Sequence[float] = (0.0,) * CLASSES,
    rule: Rule = "joint",
    votes: Sequence[IntArray] = (),
    person: IntArray | None = None,
    seen: npt.NDArray[np.bool_] | None = None,
) -> Decision:
    """Blend the runs and decide.

    Args:
        class_log_probs: float64 (runs, photos, 18), each run's log probabilities.
        weights: float (runs,), not negative; None weighs all alike.
        offsets: (18,), of the classes' log probabilities.
        rule: joint, the best of the 18 classes; hard, part by part, without offsets; vote, each run one vote by its
            own joint decision, with the offsets if it is the only one.
        votes: further votes, each int64 (photos,); they need `vote`.
        person: int64 (photos,), equal for photos of one person, which are decided together by the joint rule; None
            decides each photo by itself.
        seen: bool (photos,), False for photos that no model saw: the runs have no vote on them if others have, and a
            person's other photos decide gender and age. None: all were seen.
    """
    log_p = blend(class_log_probs, weights)
    if person is not None:
        log_p = share_gender_and_age(log_p, person, seen)
    moved = log_p + np.array(offsets)
    if rule == "vote":
        runs = [moved] if len(class_log_probs) == 1 else list(class_log_probs)
        classes = vote(np.stack([*map(most_probable, runs), *votes]), log_p)
        if votes and seen is not None:
            classes = np.where(seen, classes, vote(np.stack(votes), log_p))
        return Decision(log_p, classes)
    return Decision(log_p, most_probable(moved) if rule == "joint" else decide_hard(log_p))


def most_probable(log_probabilities: AnyFloatArray) -> IntArray:
    """The most probable class of each photo; ties go to the lowest class.

    Args:
        log_probabilities: float (photos, 18).

    Returns:
        int64 (photos,), 0..17.
    """
    return np.asarray(log_probabilities.argmax(axis=1), dtype=np.int64)


def decide_hard(log_probabilities: AnyFloatArray) -> IntArray:
    """Mask, then gender, then the age band given that gender, each by itself: the routing of separate models.

    It differs from `most_probable` where the gender is uncertain and the age bands of men and women are not alike.

    Args:
        log_probabilities: float (photos, 18).

    Returns:
        int64 (photos,), 0..17.
    """
    p = np.exp(log_probabilities).reshape(-1, len(MASKS), len(GENDERS), len(AGES))
    mask, gender = p.sum(axis=(2, 3)).argmax(axis=1), p.sum(axis=(1, 3)).argmax(axis=1)
    age = p.sum(axis=1)[np.arange(len(p)), gender].argmax(axis=1)
    return encode(mask, gender, age)


def vote(votes: IntArray, log_probabilities: AnyFloatArray | None = None) -> IntArray:
    """The class that most voters name.

    Ties go to the class with the highest mean log probability; where there are no probabilities, to the one that the
    first of the voters names.

    Args:
        votes: int64 (voters, photos), 0..17.
        log_probabilities: float (photos, 18), of the voters that have any.

    Returns:
        int64 (photos,), 0..17.
    """
    counts = np.stack([np.bincount(column, minlength=CLASSES) for column in votes.T])
    tied = counts == counts.max(axis=1, keepdims=True)
    if log_probabilities is not None:
        return most_probable(np.where(tied, log_probabilities, -np.inf))
    first = tied[np.arange(votes.shape[1])[None], votes].argmax(axis=0)  # voter whose class is among the tied
    return np.asarray(votes[first, np.arange(votes.shape[1])], dtype=np.int64)
