"""Macro F1 over a fixed set of labels, and its interval: bootstrap over people."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ensemble.metrics.heads import head_decisions
from ensemble.recipes.tasks import WIDTHS, OutputSpec, Part
from folds.labels import CLASSES, AnyFloatArray, FloatArray, IntArray, decode

PARTS: tuple[Part, ...] = ("mask", "gender", "age")
SCORED_PARTS = ("18 classes", *PARTS)
DRAWS = 2000
SEED = 0  # of the draws: the same people for every run, so that runs can be compared draw by draw


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % bootstrap interval over people."""

    value: float
    low: float
    high: float

    def __format__(self, form: str) -> str:
        return f"{self.value:{form}} ({self.low:{form}} to {self.high:{form}})"

    @property
    def within_noise(self) -> bool:
        """Of a difference: whether its interval holds 0."""
        return self.low <= 0 <= self.high

    @property
    def significance(self) -> str:
        """Of a difference: better, worse, within noise, equal or too few people."""
        if self.low == self.high:
            return "too few people" if self.value else "equal"  # every draw is the same
        return "within noise" if self.within_noise else "better" if self.value > 0 else "worse"


def draw_people(stratum: IntArray, draws: int = DRAWS) -> npt.NDArray[np.float32]:
    """How often each person is drawn, with replacement (Efron & Tibshirani 1993).

    People are drawn within their stratum: else a rare class would be missing in some draws and count as F1 = 0 there.
    scipy.stats.bootstrap has no strata and can't use the same draws for several scores and runs.

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


def drawn_f1(
    weights: npt.NDArray[np.float32], truth: IntArray, predicted: IntArray, person: IntArray, labels: int
) -> FloatArray:
    """F1 of each label in each draw, float64 (draws, labels). A label never seen nor predicted counts 0.

    Args:
        weights: float32 (draws, people), from `draw_people`.
        truth, predicted: int64 (photos,), below `labels`.
        person: int64 (photos,).
    """
    people = weights.shape[1]
    counts = np.bincount((person * labels + truth) * labels + predicted, minlength=people * labels**2)
    drawn = (weights @ counts.astype(np.float32).reshape(people, -1)).reshape(-1, labels, labels).astype(np.float64)
    right = drawn.diagonal(axis1=1, axis2=2)
    return np.asarray(2 * right / np.maximum(drawn.sum(axis=1) + drawn.sum(axis=2), 1))


class Draws:
    """Photos scored on draws of their people: the same draws for everything that is compared.

    Each method returns a figure of everybody first, then one of each draw.
    """

    def __init__(self, truth: IntArray, person: IntArray, stratum: IntArray) -> None:
        """
        Args:
            truth: int64 (photos,), 0..17.
            person: int64 (photos,), 0..people-1.
            stratum: int64 (people,), within which people are drawn.
        """
        self.truth, self.person, self.weights = truth, person, draw_people(stratum)
        self.photos = self.weights @ np.bincount(person).astype(np.float32)

    def class_f1(self, classes: IntArray) -> FloatArray:
        """F1 of each class, float64 (1 + draws, 18), of the classes decided, int64 (photos,)."""
        return drawn_f1(self.weights, self.truth, classes, self.person, CLASSES)

    def macro_f1(self, classes: IntArray) -> FloatArray:
        """Macro F1 over the 18 classes, float64 (1 + draws,)."""
        return np.asarray(self.class_f1(classes).mean(axis=1))

    def parts(self, classes: IntArray) -> dict[str, FloatArray]:
        """F1 of each label of each of SCORED_PARTS, float64 (1 + draws, labels)."""
        found = {SCORED_PARTS[0]: self.class_f1(classes)}
        for part, truth, decided in zip(PARTS, decode(self.truth), decode(classes), strict=True):
            found[part] = drawn_f1(self.weights, truth, decided, self.person, WIDTHS[part])
        return found

    def mean(self, values: npt.NDArray[np.bool_] | AnyFloatArray) -> FloatArray:
        """Mean over the photos of a value of each, (photos,): float64 (1 + draws,)."""
        summed = self.weights @ np.bincount(self.person, values).astype(np.float32)
        return np.asarray(summed / self.photos, dtype=np.float64)


def interval(drawn: FloatArray) -> Interval:
    """The value of everybody (the first entry) with the 2.5th and 97.5th percentile of the draws."""
    low, high = np.percentile(drawn[1:], [2.5, 97.5])
    return Interval(float(drawn[0]), float(low), float(high))


@dataclass(frozen=True)
class Score:
    """How predicted classes compare with the truth."""

    photos: int
    f1: float  # macro over the 18 classes
    accuracy: float
    per_class: npt.NDArray[np.float64]  # (18, 3): precision, recall, F1
    support: IntArray  # (18,): true photos of each class
    predicted: IntArray  # (18,)
    parts: dict[str, tuple[float, float]]  # mask, gender, age -> (macro F1, accuracy)

    @property
    def absent(self) -> list[int]:
        """Classes without a true photo: each counts as F1 = 0 in `f1`."""
        return np.flatnonzero(self.support == 0).tolist()

    @property
    def f1_present(self) -> float:
        """Macro F1 over the classes with a true photo."""
        return float(self.per_class[self.support > 0, 2].mean())

    @property
    def absent_notes(self) -> list[str]:
        """A note if classes are absent."""
        absent = ", ".join(map(str, self.absent))
        note = f"no photo is of classes {absent}, which count as F1 = 0 in the macro F1 {self.f1:.4f}"
        return [f"{note}; over the others it is {self.f1_present:.4f}"] if absent else []


def confusion(truth: IntArray, predicted: IntArray, labels: int) -> IntArray:
    """Photos of each true (row) and predicted (column) label, int64 (labels, labels).

    By hand, because scikit-learn takes a second to import.

    Args:
        truth, predicted: int64 (photos,), below `labels`.
    """
    return np.bincount(truth * labels + predicted, minlength=labels**2).reshape(labels, labels)


def label_scores(truth: IntArray, predicted: IntArray, labels: int) -> FloatArray:
    """Precision, recall and F1 of each label, float64 (labels, 3); 0 of one never predicted, seen, or either."""
    counts = confusion(truth, predicted, labels)
    right, found, seen = counts.diagonal(), counts.sum(axis=0), counts.sum(axis=1)
    possible = np.stack([found, seen, found + seen], axis=1)
    return np.asarray(np.stack([right, right, 2 * right], axis=1) / np.maximum(possible, 1))


def macro_f1(truth: IntArray, predicted: IntArray, labels: int) -> float:
    """Macro F1 of int64 (photos,) over the labels 0..labels-1; a label never seen nor predicted counts 0."""
    return float(label_scores(truth, predicted, labels)[:, 2].mean())


def score(truth: IntArray, predicted: IntArray) -> Score:
    """Score predicted classes, int64 (photos,), 0..17."""
    per_class = label_scores(truth, predicted, CLASSES)
    parts: dict[str, tuple[float, float]] = {
        name: (macro_f1(t, p, WIDTHS[name]), float((t == p).mean()))
        for name, t, p in zip(PARTS, decode(truth), decode(predicted), strict=True)
    }
    return Score(
        photos=len(truth),
        f1=float(per_class[:, 2].mean()),
        accuracy=float((truth == predicted).mean()),
        per_class=per_class,
        support=np.bincount(truth, minlength=CLASSES),
        predicted=np.bincount(predicted, minlength=CLASSES),
        parts=parts,
    )


def head_scores(
    output_spec: OutputSpec, logits: npt.NDArray[np.float32], labels: IntArray
) -> dict[Part, tuple[float, float]]:
    """(macro F1, accuracy) of each head of one task, of logits float32 (photos, width) and the true labels in the
    scoring bands, int64 (photos, heads)."""
    decisions = head_decisions(logits, output_spec.heads)
    return {
        head.part: (macro_f1(labels[:, i], decided, WIDTHS[head.part]), float((labels[:, i] == decided).mean()))
        for i, (head, decided) in enumerate(zip(output_spec.heads, decisions, strict=True))
    }


def half_epochs(
    output_spec: OutputSpec, logits: npt.NDArray[np.float32], labels: IntArray, half: IntArray
) -> tuple[int, int]:
    """The best epoch on each half of the photos, from 0, the first of several; the last one on a half without photos.
    Logits are float32 (epochs, photos, width), labels int64 (photos, heads) the true ones in the scoring bands, `half`
    int64 (photos,), 0 or 1."""
    found = []
    for mine in (half == 0, half == 1):
        f1 = [task_scores(output_spec, its[mine], labels[mine])[0] for its in logits] if mine.any() else []
        found.append(int(np.argmax(f1)) if f1 else len(logits) - 1)
    return found[0], found[1]


def task_scores(output_spec: OutputSpec, logits: npt.NDArray[np.float32], labels: IntArray) -> tuple[float, float]:
    """(macro F1, accuracy) of one task: over the labels of its head, or over the combinations of several heads' labels,
    so that the best epoch of a task with three heads is the best over the 18 classes. Logits are float32 (photos,
    width), labels int64 (photos, heads) the true ones in the scoring bands."""
    widths = tuple(WIDTHS[head.part] for head in output_spec.heads)
    truth = np.ravel_multi_index(tuple(labels.T), widths)
    decided = np.ravel_multi_index(tuple(head_decisions(logits, output_spec.heads)), widths)
    return macro_f1(truth, decided, math.prod(widths)), float((truth == decided).mean())
