"""Many photos through every model, here: batch after batch, by a strategy, and kept against interruptions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from ensemble.data.cache import DecodedPhotos
from ensemble.data.loader import plain_batches
from ensemble.decision.members import Ensemble
from ensemble.jobs.oof import Logits
from ensemble.models.precision import PrecisionChoice
from ensemble.models.runtime import configure_process
from ensemble.prediction.outputs import InferenceCheckpoint, InferenceSettings, Outputs
from ensemble.prediction.predictor import Batch, Predictor, batch_size, groups_that_fit, worth_measuring
from ensemble.prediction.strategies import EarlyExit, Strategy, WithinBudget
from ensemble.recipes.views import as_set
from folds.errors import MaskensError
from folds.labels import IntArray
from folds.photos import Progress


def predict(
    ensembles: Sequence[Ensemble],
    photos: DecodedPhotos,
    settings: InferenceSettings,
    kept: InferenceCheckpoint,
    on_predict: Progress | None = None,
    rows: IntArray | None = None,
    chosen: Sequence[PrecisionChoice] = (),
) -> Outputs:
    """Predict photos with every model, as many models at a time as fit into memory.

    Args:
        photos: in the preprocessings of the models, without repeats.
        kept: where to go on from, and what an interruption leaves.
        on_predict: called with (photos predicted, photos in all).
        rows: int64 (n,), which photos; None for all that can be read.
        chosen: in which precision and by which engine each model predicts, if that is known.

    Raises:
        MaskensError: a photo that can't be read, a model that gives no numbers, or more than memory takes.
    """
    hardware, views = settings.hardware, as_set(settings.tta).views
    configure_process(hardware.job_threads)
    predictor = Predictor(ensembles, views, torch.device(hardware.device), settings.engine, chosen)
    members, on_gpu = predictor.members, predictor.device.type == "cuda"
    rows = np.flatnonzero(photos.photos.readable) if rows is None else rows
    strategy = _strategy(settings, ensembles, photos, len(rows))
    groups = groups_that_fit(members, predictor.device)
    if len(groups) > 1:  # without early exit, which needs all models at hand, and without a state to go on from
        if settings.budget:
            raise MaskensError(f"{settings.budget.option} needs all models in memory at a time; leave it out.")
        strategy, kept = Strategy(), InferenceCheckpoint(None, None)
    rows, together = strategy.order(rows), strategy.batch_size(batch_size(predictor.device))
    outputs: list[Logits] = [np.full((len(views), len(rows), m.card.target.width), np.nan, np.float32) for m in members]
    before = kept.load()
    first = len(before.rows) if before else 0
    if before:
        for ours, theirs in zip(outputs, before.logits, strict=True):
            ours[:, :first] = theirs
        predictor.precisions = dict(enumerate(before.chosen))
    passes = int(photos.photos.readable.sum()) * len(views)  # of all shards, which do as the first
    done, without_face = first, 0

    def found() -> Outputs:
        return Outputs(
            rows[:done],
            [values[:, :done] for values in outputs],
            tuple(predictor.precisions[n] for n in range(len(members))),
            predictor.compile_seconds,
            tuple(predictor.notes),
            without_face,
            first,
        )

    for group in groups:
        done, without_face = first, 0
        predictor.engines.clear()
        try:
            for batch in plain_batches(photos, rows[first:].tolist(), together, hardware.job_workers, pin=on_gpu):
                inputs = predictor.inputs(batch.photos)
                if not predictor.engines:
                    predictor.load(group, inputs, passes, worth_measuring(len(rows) * len(views)))
                strategy(Batch(predictor, inputs, outputs, slice(done, done + len(batch.faces))))
                done += len(batch.faces)
                without_face += int((~batch.faces).sum())
                kept.save(found)
                if on_predict:
                    on_predict(done, len(rows))
        except BaseException:
            if done > first:
                kept.save(found, now=True)
            raise
    kept.forget()
    return dataclasses.replace(found(), warning=kept.note, budget=strategy.words(outputs))


def _strategy(
    settings: InferenceSettings, ensembles: Sequence[Ensemble], photos: DecodedPhotos, count: int
) -> Strategy:
    if settings.early_exit is None:
        return Strategy()
    if settings.budget is None:
        return EarlyExit(settings.early_exit)
    return WithinBudget(settings.budget, settings.early_exit, ensembles[0], photos.preprocessings, count)
