"""What an inference would take, from a short probe."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from ensemble.data.cache import missing_bytes, open_photos
from ensemble.data.loader import plain_batches
from ensemble.decision.members import Ensemble
from ensemble.models.build import load_checkpoint, to_input
from ensemble.models.engine import BATCH
from ensemble.models.engine_choice import choose_engine
from ensemble.models.onnx_graph import OnnxGraphs
from ensemble.models.process import configure_process
from ensemble.models.tta import stack_views
from ensemble.prediction.outputs import InferenceSettings
from ensemble.recipes.schema import Geometry
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
    device = torch.device(hardware.device)
    configure_process(hardware.job_threads)
    rows = np.flatnonzero(photos.readable)
    count = len(rows)
    some = photos.some(rows[np.linspace(0, count - 1, min(2 * BATCH, count)).astype(np.int64)])
    probed = len(some.files)
    total, decode = 0.0, 0.0
    shapes: dict[Geometry, None] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for member in [m for e in ensembles for m in e.members if m.fold == e.folds(m.task)[0]]:
            shape = member.card.geometry
            shapes[shape] = None
            started = time.perf_counter()
            decoded = open_photos(some, [shape], Path(scratch), hardware.decoding_threads)
            decode = max(decode, (time.perf_counter() - started) / probed)
            batch = next(iter(plain_batches(decoded, range(probed), probed, 0))).photos[0]
            normalisation = member.card.mean, member.card.std
            x = stack_views(to_input(batch, *normalisation, device), views, normalisation)
            started = time.perf_counter()
            model = load_checkpoint(member.path, device)[0]
            alike = sum(m.task == member.task for e in ensembles for m in e.members if member in e.members)
            passes = count * len(views)
            engine = choose_engine(model, x, settings.engine, BATCH, OnnxGraphs(), passes, alike)
            load = time.perf_counter() - started
            each = min(_seconds(lambda: engine.logits(x).cpu()) for _ in range(2)) / probed  # noqa: B023
            share = EVALUATED if settings.early_exit and member.card.predicts in ONLY_GENDER else 1.0
            total += alike * (load + count * share * each)
    lacking = missing_bytes(photos, list(shapes), settings.cache)
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


def _seconds(what: Callable[[], object]) -> float:
    started = time.perf_counter()
    what()
    return time.perf_counter() - started
