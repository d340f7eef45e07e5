"""The ensemble as ONNX files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ensemble.decision.members import load_ensembles
from ensemble.decision.tuning import apply_tuning
from ensemble.jobs.hardware import Hardware
from ensemble.models.onnx_graph import refuse_without
from ensemble.pipeline.inputs import DEFAULT_RUN, Folder, OnProgress, part_of
from ensemble.prediction.export import NEEDED, Export
from ensemble.prediction.export import export as export_ensemble
from ensemble.recipes.run_recipe import run_recipe
from ensemble.recipes.views import Tta
from folds.layout import read_eval
from folds.run import load_run


@dataclass(frozen=True)
class Exported:
    """What was written and where."""

    export: Export
    folder: Path
    used: str  # models, views and tuning in words
    notes: tuple[str, ...]  # what the user should know of the models


def export(
    run: Folder = DEFAULT_RUN,
    *,
    out: Folder | None = None,
    data: Folder | None = None,
    tta: Tta | None = None,
    tuned: bool = True,
    photos: int = 32,
    tolerance: float = 1e-3,
    allow_missing: bool = False,
    on_progress: OnProgress | None = None,
) -> Exported:
    """Write one ONNX file a task, verified against torch on eval photos; always on the CPU.

    Args:
        out: folder; None is `onnx` in the run.
        tta, tuned: as of `score`.
        photos: on which onnxruntime is held against torch.
        tolerance: largest difference of a logit that is let pass.
        allow_missing: go ahead though some folds are not trained.

    Raises:
        MaskensError: the extra is not installed, models are missing, or the logits differ.
    """
    refuse_without(NEEDED, "onnx", "export")
    loaded = load_run(Path(run))
    found = read_eval(loaded.data_folder(data))
    folder = Path(out) if out else loaded.folder / "onnx"
    recipe = run_recipe(loaded)
    applied = apply_tuning([loaded], [recipe], tta, tuned)
    fitted = applied.fitted
    (ensemble,) = load_ensembles([loaded], [recipe], fitted, allow_missing)
    threads = Hardware("cpu", None).job_threads
    done = export_ensemble(
        ensemble,
        found,
        folder,
        fitted.tta_set,
        fitted.offsets,
        photos,
        tolerance,
        threads,
        part_of(on_progress, "exporting"),
    )
    words = f"{len(ensemble.members)} models, views: {fitted.tta}, {applied.words}"
    return Exported(done, folder, words, ensemble.notes)
