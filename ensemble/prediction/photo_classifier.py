"""Records of any photos: classes with their probabilities and whether the folds agree."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ensemble.data.cache import decoded_sizes, in_preprocessings, refuse_without_detector, resized_whole
from ensemble.decision.joint import Decision, decide
from ensemble.decision.members import Ensemble
from ensemble.decision.tuning import DecisionParams
from ensemble.jobs.hardware import Hardware
from ensemble.jobs.oof import Logits
from ensemble.models.engine import AS_TRAINED, EngineOptions
from ensemble.models.runtime import configure_process
from ensemble.prediction.predictor import Predictor, batch_size, by_task
from folds.errors import MaskensError, refuse
from folds.labels import AGES, CLASS_NAMES, GENDERS, MASKS, FloatArray, IntArray, decode
from folds.people import PhotoSet
from folds.photo_files import is_distorted
from folds.photos import Pixels, Progress, decode_file, in_threads

WARM_UP = 4  # photos
MEMORY = 1e9  # bytes of decoded photos to hold where models take turns: each is loaded again for the next ones
PARTS = {"mask": MASKS, "gender": GENDERS, "age": AGES}


@dataclass(frozen=True)
class PhotoPredictions:
    """The decision on photos and what is behind it."""

    classes: IntArray  # (photos,), 0..17
    probabilities: FloatArray  # (photos, 18)
    agree: IntArray  # (photos,), folds whose own decision is the same
    disagreement: FloatArray  # (photos,), 0..1: mean total variation distance of a fold's probabilities to their mean
    folds: int


def photo_records(
    files: Sequence[str], found: PhotoPredictions, distorted: Collection[str] = ()
) -> list[dict[str, Any]]:
    """A flat record a photo, for JSON and CSV alike; probabilities to six places."""
    parts = dict(zip(PARTS, decode(found.classes), strict=True))
    cube = found.probabilities.reshape(-1, len(MASKS), len(GENDERS), len(AGES))
    values = {"mask": cube.sum(axis=(2, 3)), "gender": cube.sum(axis=(1, 3)), "age": cube.sum(axis=(1, 2))}
    records = []
    for row, file in enumerate(files):
        number = int(found.classes[row])
        record: dict[str, Any] = {"photo": file, "class": number, "name": CLASS_NAMES[number]}
        record["p"] = round(float(found.probabilities[row, number]), 6)
        record |= {part: labels[int(parts[part][row])] for part, labels in PARTS.items()}
        for part, labels in PARTS.items():
            shares = zip(labels, values[part][row], strict=True)
            record |= {f"p {part} {label}": round(float(value), 6) for label, value in shares}
        record |= {"folds": found.folds, "folds_agree": int(found.agree[row])}
        record |= {"disagreement": round(float(found.disagreement[row]), 6), "distorted": file in distorted}
        records.append(record)
    return records


class PhotoClassifier:
    """Decides on decoded photos, a batch at a time, with all models of some runs.

    Not for two threads at once, and fastest in the thread that made it.

    Args:
        fitted: for these ensembles, in their order.
        options: how the models predict.
        photos: how many there will be; None: any number, so that all models stay in memory, and are loaded now.

    Raises:
        MaskensError: no complete fold, no face detector where one is needed, or models that do not fit into memory
            together though they have to.
    """

    def __init__(
        self,
        ensembles: Sequence[Ensemble],
        fitted: DecisionParams,
        hardware: Hardware,
        options: EngineOptions = AS_TRAINED,
        photos: int | None = None,
    ) -> None:
        self._fitted, self._batch = fitted, batch_size(hardware.device)
        expected = math.inf if photos is None else photos
        self._predictor = Predictor(ensembles, hardware, options, photos=expected, photos_here=photos or 0)
        self.preprocessings = self._predictor.preprocessings
        self.at_a_time = self._batch  # photos of a call of `predict`
        if len(self._predictor.groups) > 1:
            pixels = sum(math.prod(p.shape) for p in self.preprocessings)
            self.at_a_time = max(self._batch, int(MEMORY / pixels))
        self._folds = sorted(set.intersection(*(set(e.complete_folds) for e in ensembles)))
        if not self._folds:
            raise MaskensError("no fold has a model of every task, so that no fold can predict by itself; train one.")
        refuse_without_detector(self.preprocessings)
        configure_process(hardware.job_threads)
        if photos is not None:
            return
        members = self._predictor.members
        if len(self._predictor.groups) > 1:
            size = sum(m.path.stat().st_size for m in members) / 1e9
            raise MaskensError(
                f"{len(members)} models of {size:.1f} GB don't fit into the free memory together, and a server needs "
                "them all: serve fewer runs, or use `maskens predict`, which loads as many at a time as fit."
            )
        rng = np.random.default_rng(0)  # stand-ins for photos, enough to check the optimised models on
        noise = [[rng.integers(0, 256, g.shape, np.uint8) for g in self.preprocessings] for _ in range(WARM_UP)]
        self.predict(noise)  # loads the models; the first time takes longer than any other

    @property
    def notes(self) -> list[str]:
        """What could not be made faster, and why."""
        return list(dict.fromkeys([*self._predictor.notes, *self._predictor.graph_notes]))

    def predict(self, photos: Sequence[Sequence[Pixels]]) -> PhotoPredictions:
        """Decide on photos, with all folds and with each fold's models by themselves. Models that do not fit into
        memory together are loaded once for all of these photos.

        Args:
            photos: not empty, `at_a_time` at most; each in all of `preprocessings`, uint8 of their shapes.

        Raises:
            MaskensError: as `Predictor.load` and `Predictor.forward`.
        """
        models = self._predictor
        outputs: list[list[Logits]] = [[] for _ in models.members]
        for group in models.groups:
            for start in range(0, len(photos), self._batch):
                batch = photos[start : start + self._batch]
                inputs = models.inputs([np.stack(sizes) for sizes in zip(*batch, strict=True)])
                models.hold(group, inputs)
                for number, logits in zip(group, models.forward(dict.fromkeys(group), inputs), strict=True):
                    outputs[number].append(logits)
        by_run = by_task(models.ensembles, [np.concatenate(logits, axis=1) for logits in outputs])

        def decided(fold: int | None = None) -> Decision:
            log_probs = [e.joint(found, only=fold) for e, found in zip(models.ensembles, by_run, strict=True)]
            return decide(np.stack(log_probs), self._fitted.weights, self._fitted.offsets)

        decision, alone = decided(), [decided(fold) for fold in self._folds]
        p = np.exp([a.log_probabilities for a in alone])  # (folds, photos, 18)
        return PhotoPredictions(
            classes=decision.classes,
            probabilities=np.exp(decision.log_probabilities),
            agree=(np.stack([a.classes for a in alone]) == decision.classes).sum(axis=0),
            disagreement=np.abs(p - p.mean(axis=0)).sum(axis=2).mean(axis=0) / 2,
            folds=len(self._folds),
        )


def predict_files(
    ensembles: Sequence[Ensemble],
    fitted: DecisionParams,
    photos: PhotoSet,
    hardware: Hardware,
    aspect: float,
    skip_bad: bool = False,
    on_predict: Progress | None = None,
    options: EngineOptions = AS_TRAINED,
) -> tuple[list[dict[str, Any]], dict[str, str], list[str]]:
    """Decide on photos from anywhere; each is decoded once.

    Args:
        fitted: for these ensembles, in their order.
        aspect: height / width of the photos that the models were trained on.

    Returns:
        (`photo_records` of the photos that can be read; file -> why it can't be read, of the others; notes on the
        models).

    Raises:
        MaskensError: photos that can't be read, all listed; with `skip_bad` only if it is all of them. As
            `PhotoClassifier`.
    """
    models = PhotoClassifier(ensembles, fitted, hardware, options, len(photos.files))
    problems: dict[str, str] = {}
    distorted: set[str] = set()

    def read(file: str) -> Sequence[Pixels] | None:
        try:
            photo = decode_file(photos.path(file), decoded_sizes(models.preprocessings))
            loaded = in_preprocessings(photo.sizes, models.preprocessings)
            if resized_whole(loaded, models.preprocessings) and is_distorted(*photo.whole, aspect):
                distorted.add(file)
            return loaded.sizes
        except MaskensError as error:
            problems[file] = str(error).removeprefix(f"{photos.path(file)} ")
            return None

    records: list[dict[str, Any]] = []
    for start in range(0, len(photos.files), models.at_a_time):
        files = photos.files[start : start + models.at_a_time]
        found = zip(files, in_threads(read, files, hardware.decoding_threads), strict=True)
        shown = {file: sizes for file, sizes in found if sizes is not None}
        if shown and (skip_bad or not problems):  # else there is only the list of problems to complete
            records += photo_records(list(shown), models.predict(list(shown.values())), distorted)
        if on_predict:
            on_predict(start + len(files), len(photos.files))
    if not skip_bad:
        listed = [f"{photos.path(file)} {problems[file]}" for file in photos.files if file in problems]
        refuse(listed, "photos can't be used", "Exclude them by name, or with --skip-bad-photos.")
    return records, dict(photos.without(problems).skipped), models.notes
