"""Predictions scored against known answers, with intervals over people or photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ensemble.metrics.bootstrap import Interval, draw_people, drawn_f1, interval, person_confusions
from ensemble.metrics.scores import Score, score, score_record
from folds.data.labels import AGES, CLASSES, IntArray, decode


@dataclass(frozen=True)
class AnswersScore:
    """Predicted classes scored against known answers."""

    score: Score
    f1: Interval  # macro over the 18 classes
    f1_present: Interval  # macro over the classes with answers
    accuracy: Interval
    class_f1: list[Interval]
    gain: Interval | None  # in macro F1, against the first of several; None of the first
    people: int | None  # that were drawn for the intervals; None: photos were


def score_answers(truth: IntArray, predicted: Sequence[IntArray], person: IntArray | None = None) -> list[AnswersScore]:
    """Score the predictions of several models of the same photos, on the same draws of people, or of photos.

    Args:
        truth: int64 (photos,), 0..17.
        predicted: each int64 (photos,), 0..17.
        person: int64 (photos,), 0..people-1; None draws photos within their class, as if each were of another person.
    """
    unit, band = np.arange(len(truth)) if person is None else person, truth
    if person is not None:
        _, gender, age = decode(truth)
        band = gender * len(AGES) + age
    stratum = np.zeros(int(unit.max()) + 1, dtype=np.int64)
    stratum[unit] = band
    weights, photos = draw_people(stratum), np.bincount(unit).astype(np.float32)
    found: list[AnswersScore] = []
    first = np.empty(0)
    for classes in predicted:
        f1 = drawn_f1(weights, person_confusions(truth, classes, unit), np.arange(CLASSES))
        right = np.bincount(unit, classes == truth).astype(np.float32)
        whole, own = f1.mean(axis=1), score(truth, classes)
        first = first if found else whole
        found.append(
            AnswersScore(
                score=own,
                f1=interval(whole),
                f1_present=interval(f1[:, own.support > 0].mean(axis=1)),
                accuracy=interval(np.asarray((weights @ right) / (weights @ photos), dtype=np.float64)),
                class_f1=[interval(f1[:, c]) for c in range(CLASSES)],
                gain=interval(whole - first) if found else None,
                people=None if person is None else len(stratum),
            )
        )
    return found


def answers_record(found: AnswersScore) -> dict[str, Any]:
    """A score against answers as plain values for JSON; intervals as {value, low, high}."""
    intervals = {"macro_f1": found.f1, "macro_f1_present": found.f1_present, "accuracy": found.accuracy}
    record = score_record(found.score) | {"intervals": {name: asdict(i) for name, i in intervals.items()}}
    record |= {"class_f1": [asdict(i) for i in found.class_f1], "people": found.people}
    return record | ({"gain": asdict(found.gain)} if found.gain else {})
