"""Scores: macro F1 over a fixed set of labels, counted once over all photos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import f1_score, precision_recall_fscore_support

from ensemble.metrics.heads import head_decisions
from ensemble.recipes.tasks import WIDTHS, Part, Target
from folds.data.labels import CLASS_NAMES, CLASSES, IntArray, decode, encode


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
        """Classes that no photo truly is of: each counts as F1 = 0 in `f1`."""
        return np.flatnonzero(self.support == 0).tolist()

    @property
    def f1_present(self) -> float:
        """Macro F1 over the classes that some photo truly is of."""
        return float(self.per_class[self.support > 0, 2].mean())

    @property
    def absent_words(self) -> str:
        """What to say of absent classes; "" if there are none."""
        absent, present = self.absent, CLASSES - len(self.absent)
        noun = "class" if len(absent) == 1 else "classes"
        names = ", ".join(map(str, absent))
        words = (
            f"no photo is of {noun} {names}, which count as F1 = 0 in the macro F1 over all {CLASSES}: {self.f1:.4f}"
        )
        return f"{words}; over those with photos ({present}) {self.f1_present:.4f}" if absent else ""


def macro_f1(truth: IntArray, predicted: IntArray, classes: int) -> float:
    """Macro F1 over the labels 0..classes-1, whichever occur; a class never seen nor predicted counts 0.

    Args:
        truth, predicted: int64 (photos,).
    """
    return float(f1_score(truth, predicted, labels=range(classes), average="macro", zero_division=0))


def score(truth: IntArray, predicted: IntArray) -> Score:
    """Score predicted classes.

    Args:
        truth, predicted: int64 (photos,), 0..17.
    """
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, predicted, labels=range(CLASSES), zero_division=0
    )
    names: tuple[Part, ...] = ("mask", "gender", "age")
    parts: dict[str, tuple[float, float]] = {
        name: (macro_f1(t, p, WIDTHS[name]), float((t == p).mean()))
        for name, t, p in zip(names, decode(truth), decode(predicted), strict=True)
    }
    return Score(
        photos=len(truth),
        f1=macro_f1(truth, predicted, CLASSES),
        accuracy=float((truth == predicted).mean()),
        per_class=np.stack([precision, recall, f1], axis=1),
        support=np.asarray(support, dtype=np.int64),
        predicted=np.bincount(predicted, minlength=CLASSES).astype(np.int64),
        parts=parts,
    )


def score_record(found: Score) -> dict[str, Any]:
    """A score as plain values for JSON."""
    columns = zip(CLASS_NAMES, found.support.tolist(), found.predicted.tolist(), found.per_class.tolist(), strict=True)
    return {
        "photos": found.photos,
        "macro_f1": found.f1,
        "macro_f1_present": found.f1_present,
        "absent_classes": found.absent,
        "accuracy": found.accuracy,
        "parts": {name: {"macro_f1": f1, "accuracy": a} for name, (f1, a) in found.parts.items()},
        "classes": [
            {"class": number, "name": name, "photos": photos, "predicted": predicted}
            | dict(zip(("precision", "recall", "f1"), values, strict=True))
            for number, (name, photos, predicted, values) in enumerate(columns)
        ],
    }


def head_scores(target: Target, logits: npt.NDArray[np.float32], labels: IntArray) -> dict[Part, tuple[float, float]]:
    """(macro F1, accuracy) of each head of one task.

    Args:
        logits: float32 (photos, width).
        labels: int64 (photos, heads), the true ones, in the scoring bands.
    """
    decisions = head_decisions(logits, target.heads)
    return {
        head.part: (macro_f1(labels[:, i], decided, WIDTHS[head.part]), float((labels[:, i] == decided).mean()))
        for i, (head, decided) in enumerate(zip(target.heads, decisions, strict=True))
    }


def half_epochs(target: Target, logits: npt.NDArray[np.float32], labels: IntArray, half: IntArray) -> tuple[int, int]:
    """The best epoch on each half of the photos, from 0, the first of several; the last one on a half without photos.

    Args:
        logits: float32 (epochs, photos, width).
        labels: as of `head_scores`.
        half: int64 (photos,), 0 or 1.
    """
    found = []
    for mine in (half == 0, half == 1):
        f1 = [task_scores(target, its[mine], labels[mine])[0] for its in logits] if mine.any() else []
        found.append(int(np.argmax(f1)) if f1 else len(logits) - 1)
    return found[0], found[1]


def task_scores(target: Target, logits: npt.NDArray[np.float32], labels: IntArray) -> tuple[float, float]:
    """(macro F1, accuracy) of what one task decides: its own labels or, where its heads determine them, the 18 classes.

    So the best epoch of a task with three heads is that of the score which counts in the end. Arguments as of
    `head_scores`.
    """
    decided = np.stack(head_decisions(logits, target.heads), axis=1)
    if len(target.heads) == 1:
        return macro_f1(labels[:, 0], decided[:, 0], WIDTHS[target.heads[0].part]), float((labels == decided).mean())
    truth, classes = encode(*labels.T), encode(*decided.T)
    return macro_f1(truth, classes, CLASSES), float((truth == classes).mean())
