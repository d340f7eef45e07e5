"""Photos predicted by several processes, or on a cluster, a shard at a time: what one process would say of them."""

from __future__ import annotations

import dataclasses
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.backends.backend import Backend, Call, WorkerLost, call_with_retries, run_in_threads
from ensemble.backends.choose import open_backend
from ensemble.data.cache import DecodedPhotos, open_photos
from ensemble.decision.members import Ensemble, preprocessings
from ensemble.models.precision import PrecisionChoice
from ensemble.prediction.outputs import InferenceCheckpoint, InferenceSettings, Outputs, read_outputs, save_outputs
from ensemble.prediction.predict import predict
from folds.errors import MaskensError
from folds.files import json_text, read_json, sha256, write_json
from folds.labels import IntArray
from folds.people import PhotoSet
from folds.photos import Progress

EACH = 4  # shards for each process, so that none waits long for the last
SMALLEST, LARGEST = 256, 8192  # photos of a shard: loading the models has to pay, and little may be lost


def predict_in_shards(
    ensembles: Sequence[Ensemble],
    photos: DecodedPhotos,
    settings: InferenceSettings,
    identity: Any,
    on_predict: Progress | None = None,
) -> Outputs:
    """Predict photos with every model, shards of them at a time; shards that were done before are kept.

    Args:
        identity: all that the logits depend on.
        on_predict: called with (photos predicted, photos in all), from one thread at a time.

    Raises:
        MaskensError: as `predict`, or a shard whose process was lost too often.
    """
    if settings.shards is None:
        raise ValueError("shards need a folder")
    rows = np.flatnonzero(photos.photos.readable)
    size = _size(settings.shards, identity, len(rows), settings.hardware.jobs)
    work = _Work(ensembles, photos, settings, identity)
    shards = [rows[start : start + size] for start in range(0, len(rows), size)]
    found = {n: outputs for n, shard in enumerate(shards) if (outputs := work.load(shard))}
    left = [n for n in range(len(shards)) if n not in found]
    before = sum(len(outputs.rows) for outputs in found.values())
    done, lock = before, threading.Lock()

    def run(number: int) -> None:
        nonlocal done
        found[number] = work.run(backend, shards[number])
        with lock:
            done += len(shards[number])
            if on_predict:
                on_predict(done, len(rows))

    if left:
        with open_backend(settings.hardware) as backend:
            if settings.engine.precision == "auto" or settings.engine.engine != "torch":  # the first chooses for all
                run(left.pop(0))
                work.chosen = found[min(found)].chosen
            run_in_threads(run, left, backend.slots)
    shutil.rmtree(settings.shards, ignore_errors=True)
    return _merged([found[n] for n in range(len(shards))], before)


def _size(folder: Path, identity: Any, photos: int, jobs: int) -> int:
    """Photos of a shard: what an interrupted inference took, or a share of them."""
    file, what = folder / "shards.json", sha256(json_text(identity))
    try:
        match read_json(file):
            case {"identity": str(known), "size": int(size)} if known == what and size > 0:
                return size
    except (OSError, ValueError):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    size = min(max(-(-photos // (EACH * jobs)), SMALLEST), LARGEST)
    write_json(file, {"identity": what, "size": size})
    return size


class _Work:
    """The shards of one inference, and the files that they leave."""

    def __init__(
        self, ensembles: Sequence[Ensemble], photos: DecodedPhotos, settings: InferenceSettings, identity: Any
    ) -> None:
        assert settings.shards
        self.ensembles, self.photos, self.identity = ensembles, photos, sha256(json_text(identity))
        self.folder, self.retries = settings.shards, settings.retries
        self.settings = dataclasses.replace(settings, shards=None)
        self.chosen: tuple[PrecisionChoice, ...] = ()

    def file(self, shard: IntArray) -> Path:
        return self.folder / f"{shard[0]}-{shard[-1]}.npz"

    def run(self, backend: Backend, shard: IntArray) -> Outputs:
        """Have a shard predicted by another process, which leaves a file."""
        file, photos, name = self.file(shard), self.photos.photos, f"photos {shard[0] + 1} to {shard[-1] + 1}"
        runs = {m.path.parent.parent.parent for e in self.ensembles for m in e.members}

        def call() -> Call:
            args = (self.ensembles, photos, self.settings, shard, self.chosen, file, self.identity)
            needs = (self.folder, photos.root, *sorted(runs))
            return Call(name, _predict_shard, args, file.with_suffix(".log"), self.folder, needs)

        try:
            call_with_retries(backend, call, self.retries)
        except WorkerLost as lost:
            raise MaskensError(f"{name}: {lost}. The others are kept; the same command goes on.") from lost

        if found := self.load(shard):
            return found
        raise MaskensError(f"{file} is gone or damaged: run the same command again.")

    def load(self, shard: IntArray) -> Outputs | None:
        """What a shard left; None if nothing, or nothing that fits."""
        return read_outputs(self.file(shard), self.identity)


def _predict_shard(
    ensembles: Sequence[Ensemble],
    photos: PhotoSet,
    settings: InferenceSettings,
    shard: IntArray,
    chosen: Sequence[PrecisionChoice],
    file: Path,
    identity: str,
) -> None:
    """In a process of its own: predict a shard and leave what came of it in its file."""
    members = [m for ensemble in ensembles for m in ensemble.members]
    opened = open_photos(photos, preprocessings(members), settings.cache, settings.hardware.decoding_threads)
    kept = InferenceCheckpoint(file.with_suffix(".partial.npz"), [identity, int(shard[0]), int(shard[-1])])
    save_outputs(file, identity, predict(ensembles, opened, settings, kept, rows=shard, chosen=chosen))


def _merged(parts: Sequence[Outputs], resumed: int) -> Outputs:
    """Shards in their order as one."""
    first = parts[0]
    return Outputs(
        np.concatenate([part.rows for part in parts]),
        [np.concatenate(same, axis=1) for same in zip(*(part.logits for part in parts), strict=True)],
        first.chosen,
        max(part.compile_seconds for part in parts),
        first.notes,
        sum(part.without_face for part in parts),
        resumed,
    )
