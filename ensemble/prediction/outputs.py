"""Logits of many photos by every model: batch after batch in this process, resumable."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from ensemble.data.cache import DecodedPhotos
from ensemble.data.loader import plain_batches
from ensemble.decision.early_exit import Budget
from ensemble.decision.members import Ensemble
from ensemble.decision.tuning import DecisionParams
from ensemble.jobs.hardware import Hardware
from ensemble.jobs.oof import Logits
from ensemble.models.engine import AS_TRAINED, EngineOptions
from ensemble.models.precision import PrecisionChoice
from ensemble.models.runtime import configure_process
from ensemble.prediction.predictor import Batch, Predictor, batch_size
from ensemble.prediction.strategies import EarlyExit, Strategy, WithinBudget
from ensemble.recipes.views import Tta, TtaSet, as_set
from folds.errors import MaskensError
from folds.files import json_text, save_npz, sha256
from folds.labels import IntArray
from folds.people import PhotoSet
from folds.photos import Progress

SAVE_EVERY = 20.0  # seconds


@dataclass(frozen=True)
class InferenceSettings:
    """What is the same for every photo of an inference."""

    tta: Tta | TtaSet  # the name of a shipped set of views, or a set
    hardware: Hardware
    cache: Path | None = None  # folder of decoded photos; None decodes at each access
    engine: EngineOptions = AS_TRAINED
    early_exit: DecisionParams | None = None  # of the joint decision: skip age models that can't change it; None: none
    budget: Budget | None = None  # limits the forward passes; needs `early_exit`
    partial: Path | None = None  # file that an interrupted inference resumes from
    shards: Path | None = None  # folder of finished shards, needed for several processes; resumed from likewise
    retries: int = 0  # how often a shard whose worker crashed is predicted again


@dataclass(frozen=True)
class Outputs:
    """Logits of photos by each model, and how they were computed."""

    rows: IntArray  # (n,), which photos
    logits: list[Logits]  # of each model, float32 (views, n, width), NaN where a photo was not shown
    chosen: tuple[PrecisionChoice, ...]  # of each model
    compile_seconds: float = 0.0
    notes: tuple[str, ...] = ()  # what could not be made faster
    without_face: int = 0  # photos, of those predicted now
    resumed: int = 0  # photos that were predicted before an interruption
    warning: str = ""
    budget: str = ""  # what came of it


def inference_identity(ensembles: Sequence[Ensemble], photos: PhotoSet, settings: InferenceSettings) -> str:
    """A hash of all that the logits of an inference depend on."""
    files = [(str(m.path), m.path.stat().st_size, m.path.stat().st_mtime_ns) for e in ensembles for m in e.members]
    temperatures = [{task: list(found) for task, found in e.temperatures.items()} for e in ensembles]
    rule, budget = settings.early_exit, settings.budget
    return sha256(
        json_text(
            [
                [photos.version, *sorted(photos.skipped)],
                files,
                as_set(settings.tta).model_dump(mode="json"),
                settings.hardware.device,
                asdict(settings.engine),
                [rule.weights.tolist(), list(rule.offsets), temperatures] if rule else None,
                asdict(budget) if budget else None,
            ]
        )
    )


def save_outputs(path: Path, identity: str, outputs: Outputs) -> None:
    """Replace the file that keeps outputs.

    Args:
        identity: of all that the logits depend on.

    Raises:
        MaskensError: it can't be written.
    """
    record = {field.name: getattr(outputs, field.name) for field in dataclasses.fields(outputs)}
    arrays = {f"model{n}": values for n, values in enumerate(record.pop("logits"))} | {"rows": record.pop("rows")}
    record["chosen"] = [asdict(c) for c in outputs.chosen]
    save_npz(path, arrays | {"record": json.dumps(record | {"identity": identity})})


def read_outputs(path: Path | None, identity: str) -> Outputs | None:
    """What `save_outputs` wrote; None if there is none, or none of this identity."""
    if path is None or not path.exists():
        return None
    try:
        with path.open("rb") as file, np.load(file) as z:
            record = json.loads(str(z["record"]))
            if record.pop("identity") != identity:
                return None
            record["chosen"] = tuple(PrecisionChoice(**c) for c in record["chosen"])
            record["notes"] = tuple(record["notes"])
            return Outputs(z["rows"], [z[f"model{n}"] for n in range(len(record["chosen"]))], **record)
    except Exception:  # half a file helps nobody: the photos are predicted anew
        return None


class InferenceCheckpoint:
    """The file that one inference resumes from, replaced now and then, removed at its end.

    Args:
        path: None saves nothing.
        identity: an inference of another identity does not resume from it.
    """

    def __init__(self, path: Path | None, identity: str) -> None:
        self.path, self.identity = path, identity
        self.warning = ""  # why nothing is saved
        self._saved = time.monotonic()

    def load(self) -> Outputs | None:
        """Of the first photos; None if there is nothing to resume from."""
        return read_outputs(self.path, self.identity)

    def save(self, outputs: Callable[[], Outputs], now: bool = False) -> None:
        """Save those of the first photos, if it is time; a full disk does not end the inference."""
        if self.path is None or self.warning or not (now or time.monotonic() - self._saved > SAVE_EVERY):
            return
        try:
            save_outputs(self.path, self.identity, outputs())
        except MaskensError as error:
            self.warning = f"progress could not be saved, an interruption would have lost it: {error}"
        self._saved = time.monotonic()

    def remove(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def predict_photos(
    ensembles: Sequence[Ensemble],
    photos: DecodedPhotos,
    settings: InferenceSettings,
    on_predict: Progress | None = None,
    rows: IntArray | None = None,
    checkpoint: InferenceCheckpoint | None = None,
    chosen: Sequence[PrecisionChoice] = (),
) -> Outputs:
    """Predict photos with every model, in this process.

    Args:
        photos: in the preprocessings of the models, without repeats.
        on_predict: called with (photos predicted, photos in all).
        rows: int64 (n,), which photos; None for all that can be read.
        checkpoint: where to resume from, and what an interruption leaves.
        chosen: in which precision and by which engine each model predicts, if that is known.

    Raises:
        MaskensError: a photo that can't be read, a model whose logits are not finite, or out of memory.
    """
    hardware, views = settings.hardware, as_set(settings.tta).views
    configure_process(hardware.job_threads)
    rows = np.flatnonzero(photos.photos.readable) if rows is None else rows
    passes = int(photos.photos.readable.sum()) * len(views)  # of all shards, which do as the first
    device = torch.device(hardware.device)
    predictor = Predictor(ensembles, views, device, settings.engine, chosen, passes, len(rows) * len(views))
    members = predictor.members
    strategy = Strategy()
    if len(predictor.groups) == 1 and settings.early_exit:  # it needs all models in memory
        strategy = EarlyExit(settings.early_exit)
        if settings.budget:
            shapes = photos.preprocessings
            strategy = WithinBudget(settings.budget, settings.early_exit, ensembles[0], shapes, len(rows))
    elif settings.budget:
        raise MaskensError(f"{settings.budget.option} needs all models in memory together, and they do not fit.")
    rows, size = strategy.order(rows), strategy.batch_size(batch_size(device))
    outputs: list[Logits] = [np.full((len(views), len(rows), m.card.target.width), np.nan, np.float32) for m in members]
    checkpoint = checkpoint or InferenceCheckpoint(None, "")
    before = checkpoint.load()
    first = len(before.rows) if before else 0
    if before:
        for ours, theirs in zip(outputs, before.logits, strict=True):
            ours[:, :first] = theirs
        predictor.precisions = dict(enumerate(before.chosen))
    done, without_face = first, 0

    def found() -> Outputs:
        return Outputs(
            rows[:done],
            [values[:, :done] for values in outputs],
            tuple(predictor.precisions[n] for n in range(len(members))),
            predictor.compile_seconds,
            predictor.notes,
            without_face,
            first,
        )

    try:
        on_gpu = device.type == "cuda"
        for batch in plain_batches(photos, rows[first:].tolist(), size, hardware.job_workers, pin=on_gpu):
            places = slice(done, done + len(batch.faces))
            strategy(Batch(predictor, predictor.inputs(batch.photos), outputs, places))
            done = places.stop
            without_face += int((~batch.faces).sum())
            checkpoint.save(found)
            if on_predict:
                on_predict(done, len(rows))
    except BaseException:
        if done > first:
            checkpoint.save(found, now=True)
        raise
    checkpoint.remove()
    return dataclasses.replace(found(), warning=checkpoint.warning, budget=strategy.describe(outputs))
