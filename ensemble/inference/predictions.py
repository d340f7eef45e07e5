"""Predictions of single photos in words, with how sure the ensemble is."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ensemble.decision.decide import decide
from ensemble.decision.members import Ensemble
from ensemble.decision.tuning import Fitted
from ensemble.inference.infer import Prediction
from folds.data.labels import AGES, CLASS_NAMES, GENDERS, MASKS, FloatArray, IntArray, decode
from folds.errors import MaskensError


@dataclass(frozen=True)
class PhotoPredictions:
    """The decision on photos and what is behind it."""

    classes: IntArray  # (photos,), 0..17
    probabilities: FloatArray  # (photos, 18)
    agree: IntArray  # (photos,), folds whose own decision is the same
    disagreement: FloatArray  # (photos,), 0..1: how much probability the folds place elsewhere, on average
    folds: int

    @property
    def masks(self) -> FloatArray:
        """float64 (photos, 3)."""
        return np.asarray(self._cube.sum(axis=(2, 3)))

    @property
    def genders(self) -> FloatArray:
        """float64 (photos, 2)."""
        return np.asarray(self._cube.sum(axis=(1, 3)))

    @property
    def ages(self) -> FloatArray:
        """float64 (photos, 3)."""
        return np.asarray(self._cube.sum(axis=(1, 2)))

    @property
    def _cube(self) -> FloatArray:
        return self.probabilities.reshape(-1, len(MASKS), len(GENDERS), len(AGES))


def complete_folds(ensembles: Sequence[Ensemble]) -> list[int]:
    """The folds that can predict by themselves: those with a model of every task of every run.

    Raises:
        MaskensError: there is none.
    """
    folds = sorted(set.intersection(*(set(e.complete_folds) for e in ensembles)))
    if not folds:
        raise MaskensError("no fold has a model of every task, so that no fold can predict by itself; train one.")
    return folds


def photo_predictions(ensembles: Sequence[Ensemble], prediction: Prediction, fitted: Fitted) -> PhotoPredictions:
    """Decide, with all folds and with each fold's models by themselves.

    The disagreement is the mean total variation distance between a fold's probabilities and the mean of all folds'.

    Raises:
        MaskensError: as `complete_folds`.
    """
    decision, folds = decide(prediction.joints, fitted.weights, fitted.offsets), complete_folds(ensembles)
    alone = []
    for fold in folds:
        joints = [e.joint(logits, only=fold) for e, logits in zip(ensembles, prediction.logits, strict=True)]
        alone.append(decide(np.stack(joints), fitted.weights, fitted.offsets))
    p = np.exp([a.log_probabilities for a in alone])  # (folds, photos, 18)
    decisions = np.stack([a.classes for a in alone])
    return PhotoPredictions(
        classes=decision.classes,
        probabilities=np.exp(decision.log_probabilities),
        agree=(decisions == decision.classes).sum(axis=0),
        disagreement=np.abs(p - p.mean(axis=0)).sum(axis=2).mean(axis=0) / 2,
        folds=len(folds),
    )


def prediction_records(
    files: Sequence[str], found: PhotoPredictions, distorted: Collection[str]
) -> list[dict[str, Any]]:
    """A flat record a photo, for JSON and CSV alike; probabilities to six places."""
    names = {"mask": MASKS, "gender": GENDERS, "age": AGES}
    parts = dict(zip(names, decode(found.classes), strict=True))
    values = {"mask": found.masks, "gender": found.genders, "age": found.ages}
    records = []
    for row, file in enumerate(files):
        number = int(found.classes[row])
        record: dict[str, Any] = {"photo": file, "class": number, "name": CLASS_NAMES[number]}
        record["p"] = round(float(found.probabilities[row, number]), 6)
        record |= {part: names[part][int(parts[part][row])] for part in names}
        for part, labels in names.items():
            record |= {
                f"p {part} {label}": round(float(v), 6) for label, v in zip(labels, values[part][row], strict=True)
            }
        record |= {"folds": found.folds, "folds_agree": int(found.agree[row])}
        record |= {"disagreement": round(float(found.disagreement[row]), 6), "distorted": file in distorted}
        records.append(record)
    return records
