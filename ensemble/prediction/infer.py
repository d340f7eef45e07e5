"""Predicting new photos with every model of a run: each photo decoded once for all of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble.data.cache import no_face_note, open_photos
from ensemble.decision.decide import Rule
from ensemble.decision.members import Ensemble, Member, preprocessings
from ensemble.decision.tuning import DecisionParams
from ensemble.jobs.oof import Logits
from ensemble.prediction.outputs import InferenceCheckpoint, InferenceSettings, Outputs
from ensemble.prediction.predict import predict
from ensemble.prediction.predictor import by_task
from ensemble.prediction.shards import predict_in_shards
from ensemble.recipes.tasks import ONLY_GENDER
from ensemble.recipes.views import as_set
from folds.files import save_npz, sha256_of_arrays
from folds.labels import IntArray
from folds.people import EvalData, PhotoSet
from folds.photos import Progress


@dataclass(frozen=True)
class Prediction:
    """What the ensembles say of photos."""

    class_log_probs: npt.NDArray[np.float64]  # (runs, photos, 18), log probabilities
    logits: list[dict[str, Logits]]  # of each run, task -> (folds, views, photos, width), NaN where not shown
    outputs: Outputs  # what they are made of, and how
    evaluated: float | None = None  # share of the photos that age models of one gender evaluated; None: all
    seen: npt.NDArray[np.bool_] | None = None  # (photos,), False for those that were skipped; None: all were seen

    @property
    def notes(self) -> list[str]:
        """What was out of the ordinary, a line each."""
        outputs, chosen = self.outputs, self.outputs.chosen
        lines = [f"{outputs.resumed} photos were done before the interruption"] if outputs.resumed else []
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
        if self.evaluated is not None and self.evaluated < 1:
            lines.append(
                f"early exit: age models of one gender made {self.evaluated:.0%} of their passes, with the same classes"
            )
        return lines

    @property
    def precision(self) -> str:
        """In which precision, by which engine the models predicted, in words."""
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

    Each batch of photos is read once and shown to every model. Models are loaded once, if they all fit into memory;
    else as many at a time as fit, with a pass over the photos each.

    Args:
        photos: those that are skipped get no logits, and `log_prior` for log probabilities.
        on_decode: called with (photos decoded, photos in all) while the cache is filled.
        on_predict: called with (photos predicted, photos in all).

    Raises:
        MaskensError: as `predict`.
    """
    everyone = [m for ensemble in ensembles for m in ensemble.members]
    decoded = open_photos(
        photos, preprocessings(everyone), settings.cache, settings.hardware.decoding_threads, on_decode
    )
    identity = _identity(ensembles, photos, settings)
    if settings.hardware.several_processes:
        outputs = predict_in_shards(ensembles, decoded, settings, identity, on_predict)
    else:
        outputs = predict(ensembles, decoded, settings, InferenceCheckpoint(settings.partial, identity), on_predict)
    logits = [
        {task: _spread(values, outputs.rows, len(decoded)) for task, values in found.items()}
        for found in by_task(ensembles, outputs.logits)
    ]
    class_log_probs = np.stack([e.joint(found) for e, found in zip(ensembles, logits, strict=True)])
    evaluated = _evaluated(everyone, outputs) if settings.early_exit and not settings.budget else None
    return Prediction(class_log_probs, logits, outputs, evaluated, photos.readable)


def _spread(logits: Logits, rows: IntArray, photos: int) -> Logits:
    """Logits of the photos at `rows` as logits of all `photos`, NaN for the others."""
    if np.array_equal(rows, np.arange(photos)):
        return logits
    found = np.full((*logits.shape[:2], photos, logits.shape[3]), np.nan, np.float32)
    found[:, :, rows] = logits
    return found


def _identity(ensembles: Sequence[Ensemble], photos: PhotoSet, settings: InferenceSettings) -> list[Any]:
    """All that the logits of an inference depend on, in plain types."""
    files = [(str(m.path), m.path.stat().st_size, m.path.stat().st_mtime_ns) for e in ensembles for m in e.members]
    temperatures = [{task: list(found) for task, found in e.temperatures.items()} for e in ensembles]
    rule = settings.early_exit
    decision = [rule.weights.tolist(), list(rule.offsets), temperatures] if rule else None
    views = as_set(settings.tta).model_dump(mode="json")
    what, budget = [photos.version, *sorted(photos.skipped)], settings.budget
    limit = asdict(budget) if budget else None
    return [what, files, views, settings.hardware.device, asdict(settings.engine), decision, limit]


def _evaluated(members: Sequence[Member], outputs: Outputs) -> float:
    """The share of photos that the age models of one gender evaluated; 1 without such models."""
    shares = [
        float(np.isfinite(values[0, :, 0]).mean())
        for values, member in zip(outputs.logits, members, strict=True)
        if member.card.predicts in ONLY_GENDER
    ]
    return float(np.mean(shares)) if shares else 1.0


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
    of several runs `run0/logits/<task>` and so on. They are NaN where a photo was not shown to a model. Beside them lie
    the classes that were decided on, and how.

    Args:
        fitted: for these ensembles, in their order.
        classes: int64 (photos,), 0..17.
        rule: by which the logits became these classes; None where they are not all that was decided by, as with votes.
    """
    several = len(ensembles) > 1
    arrays: dict[str, Any] = {"ids": np.array(data.ids), "classes": classes}
    folds: dict[str, list[int]] = {}
    for number, (ensemble, logits) in enumerate(zip(ensembles, prediction.logits, strict=True)):
        prefix = f"run{number}/" if several else ""
        arrays |= {f"{prefix}logits/{task}": values for task, values in logits.items()}
        folds |= {f"{prefix}{task}": ensemble.folds(task) for task in logits}
    record: dict[str, Any] = {"fingerprint": data.fingerprint, "views": fitted.tta_set.views, "folds": folds}
    record |= {"rule": rule, "fitted": fitted.model_dump(mode="json")}
    record |= {"runs": [str(e.members[0].path.parent.parent.parent) for e in ensembles]}
    record |= {"oof_hashes": [run.oof_hash for run in fitted.runs]}  # which models these are
    record |= {"skipped": data.skipped_ids}  # shown to no model
    record["sha256"] = sha256_of_arrays(arrays)
    save_npz(path, arrays | {"record": json.dumps(record)})
