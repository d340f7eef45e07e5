"""Predictions of photos from anywhere with their confidence, and models that stay in memory for them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ensemble.data.cache import decoded_sizes, in_preprocessings, refuse_without_detector
from ensemble.decision.decide import Decision, decide
from ensemble.decision.members import Ensemble
from ensemble.decision.tuning import DecisionParams
from ensemble.jobs.hardware import Hardware
from ensemble.jobs.oof import Logits
from ensemble.models.engine import CHECKED
from ensemble.models.runtime import configure_process
from ensemble.prediction.predictor import (
    BatchInputs,
    Predictor,
    as_batch,
    batch_size,
    by_task,
    groups_that_fit,
    worth_measuring,
)
from folds.errors import MaskensError, refuse
from folds.labels import AGES, CLASS_NAMES, GENDERS, MASKS, FloatArray, IntArray, decode
from folds.people import PhotoSet
from folds.photo_files import is_distorted
from folds.photos import Pixels, Progress, decode_file, in_threads


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


def photo_predictions(
    ensembles: Sequence[Ensemble], logits: Sequence[Mapping[str, Logits]], fitted: DecisionParams
) -> PhotoPredictions:
    """Decide, with all folds and with each fold's models by themselves.

    The disagreement is the mean total variation distance between a fold's probabilities and the mean of all folds'.

    Args:
        logits: of each run, task -> float32 (folds, views, photos, width).

    Raises:
        MaskensError: as `complete_folds`.
    """

    def decided(fold: int | None = None) -> Decision:
        class_log_probs = [e.joint(found, only=fold) for e, found in zip(ensembles, logits, strict=True)]
        return decide(np.stack(class_log_probs), fitted.weights, fitted.offsets)

    folds = complete_folds(ensembles)
    decision, alone = decided(), [decided(fold) for fold in folds]
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


def predict_files(
    ensembles: Sequence[Ensemble],
    fitted: DecisionParams,
    photos: PhotoSet,
    hardware: Hardware,
    aspect: float,
    skip_bad: bool = False,
    on_predict: Progress | None = None,
) -> tuple[PhotoSet, list[dict[str, Any]]]:
    """Decide on photos from anywhere. Each is decoded once; where the models don't fit into memory together, once for
    as many as fit.

    Args:
        fitted: for these ensembles, in their order.
        aspect: height / width of the photos that the models were trained on.
        skip_bad: skip photos that can't be read.
        on_predict: called with (photos predicted, photos in all).

    Returns:
        (the photos, with those that can't be read among the skipped ones; `prediction_records` of the others).

    Raises:
        MaskensError: photos that can't be read, all listed; with `skip_bad` only if it is all of them. As `Predictor`.
    """
    predictor = Predictor(ensembles, fitted.tta_set.views, torch.device(hardware.device))
    refuse_without_detector(predictor.preprocessings)
    configure_process(hardware.job_threads)
    count, views = len(photos.files), len(predictor.views)
    outputs = [np.full((views, count, m.card.target.width), np.nan, np.float32) for m in predictor.members]
    problems: dict[str, str] = {}
    distorted: set[str] = set()

    def read(file: str) -> Sequence[Pixels] | None:
        try:
            photo = decode_file(photos.path(file), decoded_sizes(predictor.preprocessings))
            if is_distorted(*photo.whole, aspect):
                distorted.add(file)
            return in_preprocessings(photo.sizes, predictor.preprocessings).sizes
        except MaskensError as error:
            problems[file] = str(error)
            return None

    together = batch_size(predictor.device)
    for group in groups_that_fit(predictor.members, predictor.device):
        predictor.engines.clear()
        for start in range(0, count, together):
            files = photos.files[start : start + together]
            found = list(in_threads(read, files, hardware.decoding_threads))
            shown = [n for n, photo in enumerate(found) if photo is not None]
            if shown and (skip_bad or not problems):  # else there is only the list of problems to complete
                inputs = predictor.inputs(as_batch([photo for photo in found if photo is not None]))
                if not predictor.engines:
                    predictor.load(group, inputs, measure_batch=worth_measuring(count * views))
                logits = predictor.forward(dict.fromkeys(group), inputs)
                for number, values in zip(group, logits, strict=True):
                    outputs[number][:, [start + n for n in shown]] = values
            if on_predict:
                on_predict(start + len(files), count)
        if not skip_bad:
            wrong = [problems[file] for file in photos.files if file in problems]
            refuse(wrong, "photos can't be used", "Leave them out, by name or with --skip-bad-photos.")
    photos = photos.without({file: why.removeprefix(f"{photos.path(file)} ") for file, why in problems.items()})
    found_of = by_task(ensembles, [values[:, photos.readable] for values in outputs])
    files = [file for file in photos.files if file not in problems]
    return photos, prediction_records(files, photo_predictions(ensembles, found_of, fitted), distorted)


class ResidentEnsemble:
    """All models of some runs, loaded and made fast once; what `infer` and `photo_predictions` say of photos.

    Not for two threads at once, and fastest in the thread that made it.
    """

    def __init__(self, ensembles: Sequence[Ensemble], fitted: DecisionParams, hardware: Hardware) -> None:
        """
        Args:
            fitted: for these ensembles, in their order.

        Raises:
            MaskensError: a checkpoint that can't be used, no complete fold, or models that don't fit into memory
                together.
        """
        self.fitted = fitted
        self._predictor = Predictor(ensembles, fitted.tta_set.views, torch.device(hardware.device))
        members, self.preprocessings = self._predictor.members, self._predictor.preprocessings
        complete_folds(ensembles)
        refuse_without_detector(self.preprocessings)
        configure_process(hardware.job_threads)
        if len(groups_that_fit(members, self._predictor.device)) > 1:
            size = sum(m.path.stat().st_size for m in members) / 1e9
            raise MaskensError(
                f"{len(members)} models of {size:.1f} GB don't fit into the free memory together, and here all "
                "of them have to stay there; `maskens predict` and `maskens infer` load as many at a time as fit"
            )
        stand_ins = _noise([g.shape for g in self.preprocessings])
        self._predictor.load(range(len(members)), self._inputs(stand_ins))
        self.predict(stand_ins)  # the first time takes longer than any other

    @property
    def notes(self) -> list[str]:
        """What could not be made faster, and why."""
        return list(dict.fromkeys(self._predictor.notes))

    def predict(self, photos: Sequence[Sequence[Pixels]]) -> PhotoPredictions:
        """Decide on photos.

        Args:
            photos: not empty; each in all of `preprocessings`, uint8 of their shapes.

        Raises:
            MaskensError: as `Predictor.forward`.
        """
        models = self._predictor
        outputs = models.forward(dict.fromkeys(models.engines), self._inputs(photos))
        return photo_predictions(models.ensembles, by_task(models.ensembles, outputs), self.fitted)

    def _inputs(self, photos: Sequence[Sequence[Pixels]]) -> BatchInputs:
        return self._predictor.inputs(as_batch(photos))


def _noise(shapes: Sequence[tuple[int, int, int]]) -> list[list[Pixels]]:
    """Stand-ins for photos, of which there are none yet: enough to hold a folded model against the one that was
    trained."""
    rng = np.random.default_rng(0)
    return [[rng.integers(0, 256, shape, np.uint8) for shape in shapes] for _ in range(CHECKED)]
