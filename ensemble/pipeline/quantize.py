"""Models in int8, used by `infer` where that is measured to be good enough."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ensemble.decision.blend import load_blend
from ensemble.decision.members import members
from ensemble.decision.tuning import apply_tuning
from ensemble.inference.quantize import Quantization, QuantizeSettings
from ensemble.inference.quantize import quantize as quantize_models
from ensemble.jobs.hardware import Hardware
from ensemble.jobs.locks import one_at_a_time
from ensemble.models.onnx_graph import refuse_without
from ensemble.models.process import configure_process
from ensemble.models.runtimes import NEEDED, PRECISIONS, installed_engines
from ensemble.pipeline.inputs import AUTO_CACHE, DEFAULT_RUN, Folder, OnProgress, cache_folder, part_of
from ensemble.recipes.tta_views import Tta
from folds.run import load_run

BOUND, CALIBRATION = 0.002, 256


@dataclass(frozen=True)
class Quantized:
    """What came of it and where it is."""

    found: Quantization
    folder: Path
    used: str  # in words
    notes: tuple[str, ...]  # what the user should know of the run
    complete: bool  # every model of the run is trained


def quantize(
    run: Folder = DEFAULT_RUN,
    *,
    bound: float = BOUND,
    calibration: int = CALIBRATION,
    tta: Tta | None = None,
    data: Folder | None = None,
    cache: Folder | None = AUTO_CACHE,
    on_progress: OnProgress | None = None,
) -> Quantized:
    """Quantize each model to int8 and measure it on the photos of its held-out fold, by each engine that is there.

    A model's int8 copy is used by `infer(precision="int8")` if its macro F1 drops by no more than the bound. Models
    that were quantized before, with the same checkpoint, photos, views and libraries, are not measured again.

    Args:
        bound: largest drop of a model's out-of-fold macro F1.
        calibration: how many photos that it learned from tell the ranges of a model's activations.
        tta: views to measure in; None takes those that were tuned, else flip.
        data: where the data are now, if they were moved.
        cache: folder of decoded photos, None for none.

    Raises:
        MaskensError: the extra is not installed, nothing is trained, a model that can't be quantized.
    """
    refuse_without(NEEDED["onnxruntime"], "onnx", "quantize")
    loaded = load_run(Path(run))
    blend = load_blend([loaded], Path(data) if data else None, "best")
    recipe = blend.runs[0].recipe
    views = apply_tuning([loaded], [recipe], tta).fitted
    found = [m for m in members(loaded, recipe, allow_missing=True) if m.fold in blend.trained]
    hardware = Hardware("cpu", None)
    configure_process(hardware.job_threads)
    settings = QuantizeSettings(
        bound,
        calibration,
        views.tta_set,
        tuple(engine for engine in installed_engines() if "int8" in PRECISIONS[engine]),
        hardware,
        cache_folder(cache, loaded.folder),
    )
    with one_at_a_time(loaded.folder, "int8"):
        done = quantize_models(blend, found, settings, part_of(on_progress, "quantizing"))
    words = f"{len(found)} models, views: {views.tta}, {', '.join(settings.engines)}"
    complete = len(found) == loaded.k * len(recipe.tasks)
    return Quantized(done, loaded.folder / "int8", words, blend.notes, complete)
