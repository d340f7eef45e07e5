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
from ensemble.inference.infer import PhotoFiles
from ensemble.jobs.hardware import Hardware
from ensemble.models.checkpoint import load_checkpoint
from ensemble.models.engine import AS_TRAINED, BATCH, EngineOptions, fast_engine
from ensemble.models.inputs import to_input
from ensemble.models.process import configure_process
from ensemble.models.tta import stack_views
from ensemble.recipes.geometry import Geometry
from ensemble.recipes.tasks import ONLY_GENDER
from ensemble.recipes.views import VIEWS, Tta

EVALUATED = 0.6  # share of the photos that age models of one gender see


def estimate_inference(
    ensembles: Sequence[Ensemble],
    data: PhotoFiles,
    tta: Tta,
    hardware: Hardware,
    cache: Path | None,
    execution: EngineOptions = AS_TRAINED,
    routed: bool = False,
) -> tuple[float, int]:
    """(seconds, bytes of disk for the photo cache) that `infer` would take: a few photos are shown to one model of
    each task.

    Args:
        routed: with early exit of the age models; how often they are left out depends on the photos, EVALUATED is
            assumed.

    Raises:
        MaskensError: a photo of the probe that can't be read, a damaged checkpoint.
    """
    device = torch.device(hardware.device)
    configure_process(hardware.job_threads)
    rows = np.linspace(0, len(data.files) - 1, min(2 * BATCH, len(data.files))).astype(np.int64)
    files = [data.files[i] for i in rows]
    total, decode = 0.0, 0.0
    shapes: dict[Geometry, None] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for member in [m for e in ensembles for m in e.members if m.fold == e.folds(m.task)[0]]:
            shape = member.card.geometry
            shapes[shape] = None
            started = time.perf_counter()
            photos = open_photos(data.root, files, f"probe {shape}", [shape], Path(scratch), hardware.decoders)
            decode = max(decode, (time.perf_counter() - started) / len(files))
            (batch,) = next(iter(plain_batches(photos, range(len(files)), len(files), 0)))
            x = stack_views(to_input(batch, member.card.mean, member.card.std, device), VIEWS[tta])
            started = time.perf_counter()
            engine = fast_engine(load_checkpoint(member.path, device)[0], x, execution, BATCH)
            load = time.perf_counter() - started
            each = min(_seconds(lambda: engine.logits(x).cpu()) for _ in range(2)) / len(files)  # noqa: B023
            share = EVALUATED if routed and member.card.predicts in ONLY_GENDER else 1.0
            alike = sum(m.task == member.task for e in ensembles for m in e.members if member in e.members)
            total += alike * (load + len(data.files) * share * each)
    lacking = missing_bytes(cache, data.files, data.fingerprint, list(shapes)) if cache else 0
    return total + (len(data.files) * decode if lacking or cache is None else 0), lacking


def _seconds(what: Callable[[], object]) -> float:
    started = time.perf_counter()
    what()
    return time.perf_counter() - started
