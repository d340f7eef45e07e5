"""Inference: the class log probabilities of new photos by all models of some runs, and an estimate of its time."""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ensemble.data.cache import missing_bytes, no_face_note, open_photos
from ensemble.data.loader import plain_batches
from ensemble.decision.joint import Rule
from ensemble.decision.members import Ensemble, preprocessings
from ensemble.decision.tuning import DecisionParams
from ensemble.jobs.oof import Logits
from ensemble.models.engine import BATCH
from ensemble.models.precision import shortest
from ensemble.models.runtime import configure_process
from ensemble.prediction.outputs import (
    InferenceCheckpoint,
    InferenceSettings,
    Outputs,
    inference_identity,
    predict_photos,
)
from ensemble.prediction.predictor import Predictor, by_task
from ensemble.prediction.shards import predict_in_shards
from ensemble.recipes.tasks import ONLY_GENDER
from ensemble.recipes.views import as_set
from folds.files import save_npz, sha256_of_arrays
from folds.labels import IntArray
from folds.people import EvalData, PhotoSet
from folds.photos import Progress

EVALUATED = 0.6  # assumed fraction of the photos that age models of one gender predict


@dataclass(frozen=True)
class Prediction:
    """What the models of some runs predict of photos."""

    class_log_probs: npt.NDArray[np.float64]  # (runs, photos, 18), log probabilities
    logits: list[dict[str, Logits]]  # of each run, task -> (folds, views, photos, width), NaN where not shown
    outputs: Outputs  # what they are made of, and how
    evaluated: float = 1.0  # fraction of the photos that age models of one gender predicted

    @property
    def notes(self) -> list[str]:
        """What was out of the ordinary, a line each."""
        outputs, chosen = self.outputs, self.outputs.chosen
        lines = [f"resumed after {outputs.resumed} photos"] if outputs.resumed else []
        lines += [outputs.warning] if outputs.warning else []
        if outputs.without_face:
            lines.append(no_face_note(outputs.without_face, self.class_log_probs.shape[1] - outputs.resumed))
        if outputs.compile_seconds:
            lines.append(f"compiled in {outputs.compile_seconds:.0f} s")
        lines += [f"{count} of {len(chosen)} models: {note}" for note, count in Counter(outputs.notes).items()]
        if any(c.note or c.precision != "fp32" or c.engine != "torch" or c.speedup for c in chosen):
            lines.append(self.precision)
        if outputs.budget:
            lines.append(outputs.budget)
        if self.evaluated < 1:
            skipped = f"early exit skipped {1 - self.evaluated:.0%} of the forward passes of age models of one gender"
            lines.append(f"{skipped}; no class changed")
        return lines

    @property
    def precision(self) -> str:
        """Precisions and engines of the models."""
        chosen = self.outputs.chosen
        others = any(c.engine != "torch" or c.speedup for c in chosen)
        counts = Counter(f"{c.engine} in {c.precision}" if others else c.precision for c in chosen)
        words = ", ".join(f"{name} for {count} of {len(chosen)} models" for name, count in counts.items())
        if set(counts) != {"fp32"}:
            largest = max(c.difference for c in chosen)
            words += f", largest difference of a logit to fp32 {largest:.2g} on a first batch"
        if measured := [c.speedup for c in chosen if c.speedup]:
            words += f", {np.mean(measured):.1f} times as fast as torch in fp32"
        return "; ".join(dict.fromkeys([words, *(c.note for c in chosen if c.note)]))


def infer(
    ensembles: Sequence[Ensemble],
    photos: PhotoSet,
    settings: InferenceSettings,
    on_decode: Progress | None = None,
    on_predict: Progress | None = None,
) -> Prediction:
    """Logits of every model of every run, and each run's joint log probabilities.

    Args:
        photos: those that are skipped get no logits, and `log_prior` for log probabilities.
        on_decode: called with (photos decoded, photos in all) while the cache is filled.
        on_predict: called with (photos predicted, photos in all).

    Raises:
        MaskensError: as `predict_photos` and `predict_in_shards`.
    """
    everyone = [m for ensemble in ensembles for m in ensemble.members]
    threads = settings.hardware.decoding_threads
    decoded = open_photos(photos, preprocessings(everyone), settings.cache, threads, on_decode)
    identity = inference_identity(ensembles, photos, settings)
    if settings.hardware.several_processes:
        outputs = predict_in_shards(ensembles, decoded, settings, identity, on_predict)
    else:
        checkpoint = InferenceCheckpoint(settings.partial, identity)
        outputs = predict_photos(ensembles, decoded, settings, on_predict, checkpoint=checkpoint)
    logits = [
        {task: _spread(values, outputs.rows, len(decoded)) for task, values in found.items()}
        for found in by_task(ensembles, outputs.logits)
    ]
    class_log_probs = np.stack([e.joint(found) for e, found in zip(ensembles, logits, strict=True)])
    evaluated = [
        np.isfinite(values[0, :, 0]).mean()
        for values, member in zip(outputs.logits, everyone, strict=True)
        if member.card.target.predicts in ONLY_GENDER and settings.early_exit and not settings.budget
    ]
    return Prediction(class_log_probs, logits, outputs, float(np.mean(evaluated or [1.0])))


def _spread(logits: Logits, rows: IntArray, photos: int) -> Logits:
    """Logits of the photos at `rows` as logits of all `photos`, NaN for the others."""
    if np.array_equal(rows, np.arange(photos)):
        return logits
    found = np.full((*logits.shape[:2], photos, logits.shape[3]), np.nan, np.float32)
    found[:, :, rows] = logits
    return found


def estimate_inference(
    ensembles: Sequence[Ensemble], photos: PhotoSet, settings: InferenceSettings
) -> tuple[float, int]:
    """(seconds, bytes of disk for the photo cache) that `infer` would take, from a few photos by one model of each
    task. How many forward passes early exit skips depends on the photos; EVALUATED is assumed.

    Raises:
        MaskensError: a photo of the probe that can't be read, a damaged checkpoint.
    """
    hardware, views = settings.hardware, as_set(settings.tta).views
    configure_process(hardware.job_threads)
    rows = np.flatnonzero(photos.readable)
    count = len(rows)
    predictor = Predictor(ensembles, views, torch.device(hardware.device), settings.engine, passes=count * len(views))
    some = photos.some(rows[np.linspace(0, count - 1, min(2 * BATCH, count)).astype(np.int64)])
    probed = len(some.files)
    with tempfile.TemporaryDirectory() as scratch:
        started = time.perf_counter()
        decoded = open_photos(some, predictor.preprocessings, Path(scratch), hardware.decoding_threads)
        decoding = (time.perf_counter() - started) / probed * count
        inputs = predictor.inputs(next(iter(plain_batches(decoded, range(probed), probed, 0))).photos)
    predicting = 0.0
    alike = Counter(m.path.parent.parent for m in predictor.members)
    probes = {m.path.parent.parent: n for n, m in reversed(list(enumerate(predictor.members)))}
    for task, number in probes.items():
        member = predictor.members[number]
        started = time.perf_counter()
        predictor.load([number], inputs)
        load = time.perf_counter() - started
        each = shortest(lambda: predictor.engines[number].logits(inputs.of(member)).cpu(), 2) / probed  # noqa: B023
        predictor.engines.clear()
        fraction = EVALUATED if settings.early_exit and member.card.target.predicts in ONLY_GENDER else 1.0
        predicting += alike[task] * (load + count * fraction * each)
    missing = missing_bytes(photos, predictor.preprocessings, settings.cache)
    if settings.cache is not None:
        return predicting + (decoding if missing else 0.0), missing
    if hardware.device == "cpu" or not hardware.job_workers:
        return predicting + decoding, missing
    # loader processes decode while the GPU works
    return max(predicting, decoding * max(1.0, hardware.decoding_threads / hardware.job_workers)), missing


def save_logits(
    path: Path,
    data: EvalData,
    ensembles: Sequence[Ensemble],
    prediction: Prediction,
    fitted: DecisionParams,
    classes: IntArray,
    rule: Rule | None,
) -> None:
    """Replace the logits behind a submission: image ids, and `logits/<task>` float32 (folds, views, photos, width);
    of several runs `run0/logits/<task>` and so on; NaN where a photo was not shown to a model. With them go the classes
    that were decided on, and how.

    Args:
        fitted: for these ensembles, in their order.
        classes: int64 (photos,), 0..17.
        rule: by which the logits became these classes; None where something else took part, as votes do.
    """
    arrays: dict[str, Any] = {"ids": np.array(data.ids), "classes": classes}
    folds: dict[str, list[int]] = {}
    for number, (ensemble, logits) in enumerate(zip(ensembles, prediction.logits, strict=True)):
        prefix = f"run{number}/" if len(ensembles) > 1 else ""
        arrays |= {f"{prefix}logits/{task}": values for task, values in logits.items()}
        folds |= {f"{prefix}{task}": ensemble.folds(task) for task in logits}
    record = {
        "fingerprint": data.photos.fingerprint,
        "views": fitted.views.views,
        "folds": folds,
        "rule": rule,
        "fitted": fitted.model_dump(mode="json"),
        "runs": [str(e.members[0].path.parent.parent.parent) for e in ensembles],
        "oof_hashes": [run.oof_hash for run in fitted.runs],  # which models these are
        "skipped": data.skipped_ids,  # shown to no model
        "sha256": sha256_of_arrays(arrays),
    }
    save_npz(path, arrays | {"record": json.dumps(record)})
