"""Predictions of single photos with their confidence, and models that stay in memory for them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ensemble.data.cache import refuse_without_detector
from ensemble.decision.decide import decide
from ensemble.decision.members import Ensemble, geometries
from ensemble.decision.tuning import Fitted
from ensemble.jobs.hardware import Hardware
from ensemble.models.build import load_checkpoint
from ensemble.models.engine import AS_TRAINED, BATCH, CHECKED, fast_engine
from ensemble.models.process import configure_process
from ensemble.prediction.infer import Prediction
from ensemble.prediction.predictor import BatchInputs, by_task, forward, groups_that_fit
from folds.errors import MaskensError
from folds.labels import AGES, CLASS_NAMES, GENDERS, MASKS, FloatArray, IntArray, decode
from folds.photos import Pixels


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


class ResidentEnsemble:
    """All models of some runs, loaded and made fast once; what `infer` and `photo_predictions` say of photos.

    Not for two threads at once, and fastest in the thread that made it.
    """

    def __init__(self, ensembles: Sequence[Ensemble], fitted: Fitted, hardware: Hardware) -> None:
        """
        Args:
            fitted: for these ensembles, in their order.

        Raises:
            MaskensError: a checkpoint that can't be used, no complete fold, or models that don't fit into memory
                together.
        """
        self.ensembles, self.fitted, self.views = ensembles, fitted, fitted.tta_set.views
        self.device = torch.device(hardware.device)
        self.members = [m for ensemble in ensembles for m in ensemble.members]
        self.geometries = geometries(self.members)
        complete_folds(ensembles)
        refuse_without_detector(self.geometries)
        configure_process(hardware.job_threads)
        if len(groups_that_fit(self.members, self.device)) > 1:
            size = sum(m.path.stat().st_size for m in self.members) / 1e9
            raise MaskensError(
                f"{len(self.members)} models of {size:.1f} GB don't fit into the free memory together, and here all "
                "of them have to stay there; `maskens predict` and `maskens infer` load as many at a time as fit"
            )
        stand_ins = BatchInputs(
            [torch.from_numpy(np.stack(sizes)) for sizes in zip(*_noise(self.shapes), strict=True)],
            self.geometries,
            self.views,
            self.device,
        )
        try:
            self.engines = [
                fast_engine(load_checkpoint(m.path, self.device)[0], stand_ins.of(m), AS_TRAINED, BATCH)
                for m in self.members
            ]
        except torch.OutOfMemoryError:
            raise MaskensError("the GPU's memory is too small for the models; use --device cpu") from None
        self.predict(_noise(self.shapes))  # the first time takes longer than any other

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """Of a photo in each of `geometries`: (height, width, 3)."""
        return [g.shape for g in self.geometries]

    @property
    def notes(self) -> list[str]:
        """What could not be made faster, and why."""
        return list(dict.fromkeys(note for engine in self.engines for note in engine.notes))

    def predict(self, photos: Sequence[Sequence[Pixels]]) -> PhotoPredictions:
        """Decide on photos.

        Args:
            photos: not empty; each in all of `geometries`, uint8 of `shapes`.

        Raises:
            MaskensError: as `forward.forward`.
        """
        batch = [torch.from_numpy(np.stack(sizes)) for sizes in zip(*photos, strict=True)]
        inputs = BatchInputs(batch, self.geometries, self.views, self.device)
        outputs = forward([(m, engine, None) for m, engine in zip(self.members, self.engines, strict=True)], inputs)
        logits = by_task(self.ensembles, outputs)
        joints = np.stack([e.joint(found) for e, found in zip(self.ensembles, logits, strict=True)])
        return photo_predictions(self.ensembles, Prediction(joints, logits), self.fitted)


def _noise(shapes: Sequence[tuple[int, int, int]]) -> list[list[Pixels]]:
    """Stand-ins for photos, of which there are none yet: enough to hold a folded model against the one that was
    trained."""
    rng = np.random.default_rng(0)
    return [[rng.integers(0, 256, shape, np.uint8) for shape in shapes] for _ in range(CHECKED)]
