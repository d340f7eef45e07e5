"""Logits of many photos by several processes, or on a cluster, a shard of the photos at a time."""

from __future__ import annotations

import dataclasses
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ensemble.backends.backend import Call, WorkerLost, call_with_retries, run_in_threads
from ensemble.backends.choose import open_backend
from ensemble.data.cache import DecodedPhotos, open_photos
from ensemble.decision.members import Ensemble, preprocessings
from ensemble.models.precision import PrecisionChoice
from ensemble.prediction.outputs import (
    InferenceCheckpoint,
    InferenceSettings,
    Outputs,
    predict_photos,
    read_outputs,
    save_outputs,
)
from folds.errors import MaskensError
from folds.labels import IntArray
from folds.people import PhotoSet
from folds.photos import Progress

EACH = 4  # shards for each process, so that none waits long for the last
SMALLEST, LARGEST = 256, 8192  # photos of a shard: loading the models has to pay, and little may be lost


def predict_in_shards(
    ensembles: Sequence[Ensemble],
    photos: DecodedPhotos,
    settings: InferenceSettings,
    identity: str,
    on_predict: Progress | None = None,
) -> Outputs:
    """Predict photos with every model, several shards at a time; finished shards of an interrupted call are kept.

    Args:
        settings: with a folder for the shards.
        identity: of all that the logits depend on.
        on_predict: called with (photos predicted, photos in all), from one thread at a time.

    Raises:
        MaskensError: as `predict_photos`; a shard whose worker crashed too often.
    """
    folder = settings.shards
    assert folder is not None
    rows = np.flatnonzero(photos.photos.readable)
    found = [outputs for file in sorted(folder.glob("*.npz")) if (outputs := read_outputs(file, identity))]
    left = np.setdiff1d(rows, np.concatenate([rows[:0], *(outputs.rows for outputs in found)]))
    resumed = done = len(rows) - len(left)
    size = min(max(-(-len(rows) // (EACH * settings.hardware.jobs)), SMALLEST), LARGEST)
    shards = [left[start : start + size] for start in range(0, len(left), size)]
    chosen = found[0].chosen if found else ()
    runs = {m.path.parent.parent.parent for e in ensembles for m in e.members}
    needs = (folder, photos.photos.root, *sorted(runs))
    alone, lock = dataclasses.replace(settings, shards=None), threading.Lock()

    def run(shard: IntArray) -> None:
        nonlocal done
        name, file = f"photos {shard[0] + 1} to {shard[-1] + 1}", folder / f"{shard[0]}-{shard[-1]}.npz"
        args = (ensembles, photos.photos, alone, shard, chosen, file, identity)
        try:
            call_with_retries(
                backend,
                lambda: Call(name, _predict_shard, args, file.with_suffix(".log"), folder, needs),
                settings.retries,
            )
        except WorkerLost as lost:
            raise MaskensError(f"{name}: {lost}. Finished shards are kept; resume with the same command.") from lost
        outputs = read_outputs(file, identity)
        if outputs is None:
            raise MaskensError(f"{file} is gone or damaged: run the same command again.")
        with lock:
            found.append(outputs)
            done += len(shard)
            if on_predict:
                on_predict(done, len(rows))

    if shards:
        with open_backend(settings.hardware) as backend:
            if settings.engine.precision == "auto" or settings.engine.engine != "torch":  # the first chooses for all
                run(shards.pop(0))
                chosen = found[0].chosen
            run_in_threads(run, shards, backend.slots)
    shutil.rmtree(folder, ignore_errors=True)
    return _merged(found, resumed)


def _predict_shard(
    ensembles: Sequence[Ensemble],
    photos: PhotoSet,
    settings: InferenceSettings,
    shard: IntArray,
    chosen: Sequence[PrecisionChoice],
    file: Path,
    identity: str,
) -> None:
    """In a process of its own: predict a shard and save its outputs."""
    members = [m for ensemble in ensembles for m in ensemble.members]
    opened = open_photos(photos, preprocessings(members), settings.cache, settings.hardware.decoding_threads)
    checkpoint = InferenceCheckpoint(file.with_suffix(".partial.npz"), f"{identity} {shard[0]} {shard[-1]}")
    outputs = predict_photos(ensembles, opened, settings, rows=shard, checkpoint=checkpoint, chosen=chosen)
    save_outputs(file, identity, outputs)


def _merged(shards: Sequence[Outputs], resumed: int) -> Outputs:
    rows = np.concatenate([shard.rows for shard in shards])
    order, first = np.argsort(rows), shards[0]
    return Outputs(
        rows[order],
        [np.concatenate(same, axis=1)[:, order] for same in zip(*(shard.logits for shard in shards), strict=True)],
        first.chosen,
        max(shard.compile_seconds for shard in shards),
        first.notes,
        sum(shard.without_face for shard in shards),
        resumed,
    )
