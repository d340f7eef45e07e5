"""What an inference would take, from a short probe."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ensemble.data.cache import missing_bytes, open_photos
from ensemble.data.loader import plain_batches
from ensemble.decision.members import Ensemble
from ensemble.models.engine import BATCH
from ensemble.models.precision import shortest
from ensemble.models.runtime import configure_process
from ensemble.prediction.outputs import InferenceSettings
from ensemble.prediction.predictor import Predictor
from ensemble.recipes.tasks import ONLY_GENDER
from ensemble.recipes.views import as_set
from folds.people import PhotoSet

EVALUATED = 0.6  # share of the photos that age models of one gender see


def estimate_inference(
    ensembles: Sequence[Ensemble], photos: PhotoSet, settings: InferenceSettings
) -> tuple[float, int]:
    """(seconds, bytes of disk for the photo cache) that `infer` would take: a few photos are shown to one model of
    each task. How often an early exit leaves age models out depends on the photos; EVALUATED is assumed.

    Raises:
        MaskensError: a photo of the probe that can't be read, a damaged checkpoint.
    """
    hardware, views = settings.hardware, as_set(settings.tta).views
    configure_process(hardware.job_threads)
    predictor = Predictor(ensembles, views, torch.device(hardware.device), settings.engine)
    rows = np.flatnonzero(photos.readable)
    count = len(rows)
    some = photos.some(rows[np.linspace(0, count - 1, min(2 * BATCH, count)).astype(np.int64)])
    probed = len(some.files)
    with tempfile.TemporaryDirectory() as scratch:
        started = time.perf_counter()
        decoded = open_photos(some, predictor.preprocessings, Path(scratch), hardware.decoding_threads)
        decode = (time.perf_counter() - started) / probed
        inputs = predictor.inputs(next(iter(plain_batches(decoded, range(probed), probed, 0))).photos)
    total = 0.0
    alike = Counter(m.path.parent.parent for m in predictor.members)
    probes = {m.path.parent.parent: n for n, m in reversed(list(enumerate(predictor.members)))}
    for task, number in probes.items():
        started = time.perf_counter()
        predictor.load([number], inputs, count * len(views))
        load = time.perf_counter() - started
        each = shortest(lambda: predictor.forward({number: None}, inputs), 2) / probed  # noqa: B023
        predictor.engines.clear()
        one_gender = predictor.members[number].card.predicts in ONLY_GENDER
        share = EVALUATED if settings.early_exit and one_gender else 1.0
        total += alike[task] * (load + count * share * each)
    lacking = missing_bytes(photos, predictor.preprocessings, settings.cache)
    decoding = count * decode if lacking or settings.cache is None else 0.0
    return seconds_in_all(total, decoding, settings), lacking


def seconds_in_all(predicting: float, decoding: float, settings: InferenceSettings) -> float:
    """Seconds that both take: a cache is filled before the first batch, but without one loader processes decode while
    a GPU works.

    Args:
        decoding: seconds by all decoding threads.
    """
    hardware = settings.hardware
    if settings.cache is not None or hardware.device == "cpu" or not hardware.job_workers:
        return predicting + decoding
    return max(predicting, decoding * max(1.0, hardware.decoding_threads / hardware.job_workers))
