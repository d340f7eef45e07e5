"""Photos predicted in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ensemble.data.cache import DecodedPhotos
from ensemble.decision.members import Ensemble
from ensemble.jobs.oof import Logits
from ensemble.models.precision import PrecisionChoice
from ensemble.models.process import configure_process
from ensemble.prediction.anytime_predictor import AnytimePredictor
from ensemble.prediction.outputs import InferenceCheckpoint, InferenceSettings
from ensemble.prediction.predictor import EnsemblePredictor
from folds.labels import IntArray
from folds.photos import Progress


@dataclass(frozen=True)
class Predicted:
    """What models say of photos, and what there is to tell of how."""

    rows: IntArray  # (n,), which photos
    outputs: list[Logits]  # of each model, float32 (views, n, width), NaN where a photo was not shown
    chosen: tuple[PrecisionChoice, ...]  # of each model
    compile_seconds: float
    notes: tuple[str, ...]  # what could not be made faster
    without_face: int  # photos, of those predicted now
    resumed: int = 0  # photos that were done before
    warning: str = ""
    budget: str = ""  # what came of it


def predict(
    ensembles: Sequence[Ensemble],
    photos: DecodedPhotos,
    settings: InferenceSettings,
    kept: InferenceCheckpoint,
    on_predict: Progress | None = None,
    rows: IntArray | None = None,
    chosen: Sequence[PrecisionChoice] = (),
) -> Predicted:
    """Predict photos with every model.

    Args:
        kept: where to go on from, and what an interruption leaves.
        rows: int64 (n,), which photos; None for all that can be read.
        chosen: in which precision each model predicts, if that is known.

    Raises:
        MaskensError: as `EnsemblePredictor.run`.
    """
    configure_process(settings.hardware.job_threads)
    predictor: EnsemblePredictor
    if settings.budget:
        predictor = AnytimePredictor(ensembles, photos, settings, settings.budget)
    else:
        predictor = EnsemblePredictor(ensembles, photos, settings, rows, chosen)
    resumed = predictor.run(kept, on_predict)
    kept.forget()
    return Predicted(
        predictor.rows,
        predictor.outputs,
        tuple(predictor.precisions[n] for n in range(len(predictor.members))),
        predictor.compile_seconds,
        tuple(predictor.notes),
        int(predictor.without_face.sum()),
        resumed,
        kept.note,
        predictor.words if isinstance(predictor, AnytimePredictor) else "",
    )
