"""How far a score may be off by the chance of who is in the data: bootstrap over people."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from folds.data.labels import CLASSES, FloatArray, IntArray, decode

SCORED_PARTS = ("18 classes", "mask", "gender", "age")
DRAWS = 2000
FEW = 3  # people of a gender and age band
SEED = 0  # of the draws: the same people for every run, so that runs can be compared draw by draw


@dataclass(frozen=True)
class Interval:
    """A value and where it would lie in 95 of 100 draws of people."""

    value: float
    low: float
    high: float

    def __format__(self, form: str) -> str:
        return f"{self.value:{form}} ({self.low:{form}} to {self.high:{form}})"

    @property
    def within_noise(self) -> bool:
        """For a difference: whether none at all is among the likely values."""
        return self.low <= 0 <= self.high

    @property
    def significance(self) -> str:
        """Of a difference, in words."""
        if self.low == self.high:
            return "too few people" if self.value else "equal"  # every draw is the same
        return "within noise" if self.within_noise else "better" if self.value > 0 else "worse"

    @property
    def of_one_seed(self) -> str:
        """`significance` of a difference between trainings with one seed each, which another seed may turn round."""
        words = self.significance
        return f"{words} on these people, one seed each" if words in ("better", "worse") else words


def few_people(stratum: IntArray) -> str:
    """What to say of intervals where draws of people within a stratum hardly differ, else "": those of n people spread
    by sqrt((n - 1) / n) of what they should.

    Args:
        stratum: int64 (people,).
    """
    least = int(np.unique(stratum, return_counts=True)[1].min())
    if least > FEW:
        return ""
    people = "person" if least == 1 else "people"
    return f"a gender and age band has {least} {people} only: intervals over people are too narrow"


def person_confusions(truth: IntArray, predicted: IntArray, person: IntArray) -> npt.NDArray[np.float32]:
    """Each person's own confusion matrix.

    Args:
        truth, predicted: int64 (photos,), 0..17.
        person: int64 (photos,), 0..people-1.

    Returns:
        float32 (people, 18, 18): photos of a true class (rows) by predicted class.
    """
    people = int(person.max()) + 1
    cell = (person * CLASSES + truth) * CLASSES + predicted
    counts = np.bincount(cell, minlength=people * CLASSES * CLASSES)
    return counts.reshape(people, CLASSES, CLASSES).astype(np.float32)


def draw_people(stratum: IntArray, draws: int = DRAWS) -> npt.NDArray[np.float32]:
    """How often each person is drawn, with replacement (Efron & Tibshirani 1993).

    People are drawn within their stratum, as the folds were split: else a rare class would vanish from some
    draws and count as F1 = 0 there. scipy.stats.bootstrap resamples single values, not within strata, and not the same
    people for several scores and runs.

    Args:
        stratum: int64 (people,), gender x age band.

    Returns:
        float32 (1 + draws, people); the first row is everybody once.
    """
    rng = np.random.default_rng(SEED)
    weights = np.ones((1 + draws, len(stratum)), dtype=np.float32)
    for number in np.unique(stratum):
        members = np.flatnonzero(stratum == number)
        weights[1:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=draws)
    return weights


def drawn_f1(weights: npt.NDArray[np.float32], confusions: npt.NDArray[np.float32], groups: IntArray) -> FloatArray:
    """F1 of each label in each draw.

    Args:
        weights: float32 (draws, people), from `draw_people`.
        confusions: float32 (people, 18, 18).
        groups: int64 (18,), the label that each class counts for: itself, or one of its parts.

    Returns:
        float64 (draws, labels). A label never seen nor predicted counts 0.
    """
    labels = int(groups.max()) + 1
    belongs = np.zeros((CLASSES, labels), dtype=np.float32)
    belongs[np.arange(CLASSES), groups] = 1
    merged = np.einsum("ci,ncd,dj->nij", belongs, confusions, belongs, optimize=True)
    drawn = (weights @ merged.reshape(len(merged), -1)).reshape(-1, labels, labels).astype(np.float64)
    right = drawn.diagonal(axis1=1, axis2=2)
    either = drawn.sum(axis=1) + drawn.sum(axis=2)
    return np.asarray(2 * right / np.maximum(either, 1))


def drawn_parts(weights: npt.NDArray[np.float32], confusions: npt.NDArray[np.float32]) -> dict[str, FloatArray]:
    """F1 of each label of each of SCORED_PARTS in each draw; arguments as of `drawn_f1`, arrays as it returns."""
    classes = np.arange(CLASSES)
    groups = zip(SCORED_PARTS, (classes, *decode(classes)), strict=True)
    return {part: drawn_f1(weights, confusions, group) for part, group in groups}


def interval(drawn: FloatArray) -> Interval:
    """The value of everybody (the first entry) with the 2.5th and 97.5th percentile of the draws."""
    low, high = np.percentile(drawn[1:], [2.5, 97.5])
    return Interval(float(drawn[0]), float(low), float(high))
