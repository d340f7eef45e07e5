"""Classifying any photos, with how sure the ensemble is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.decision.members import load_ensembles
from ensemble.decision.tuning import apply_tuning, weighted_runs
from ensemble.inference.infer import infer as predict_photos
from ensemble.inference.predictions import complete_folds, photo_predictions, prediction_records
from ensemble.inference.settings import InferenceSettings
from ensemble.jobs.hardware import Hardware, choose_device
from ensemble.pipeline.inputs import DEFAULT_RUN, Folder, Folders, OnProgress, load_runs, part_of
from ensemble.recipes.run_recipe import run_recipe
from ensemble.recipes.tta_views import Tta
from folds.data.photo_files import distorted_photos, find_photos, training_aspect
from folds.errors import MaskensError
from folds.files import json_text, listing_text, must_be_writable, replace_keeping
from folds.runs import refuse_other_folds


@dataclass(frozen=True)
class Predicted:
    """What the ensemble says of each photo."""

    records: list[dict[str, Any]]  # one a photo: class, parts, their probabilities, how many folds agree
    distorted: tuple[str, ...]  # photos of another shape than in training
    used: str  # models, views and tuning in words
    earlier: Path | None  # where an earlier result is kept
    notes: tuple[str, ...]  # what the user should know of the models
    skipped: Mapping[str, str]  # photo -> why it can't be read; it has no record


def predict(
    photos: Folder | Sequence[Folder],
    runs: Folders = DEFAULT_RUN,
    *,
    tta: Tta | None = None,
    tuned: bool = True,
    out: Folder | None = None,
    allow_missing: bool = False,
    skip_bad_photos: bool = False,
    device: str = "auto",
    workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> Predicted:
    """Mask, gender and age band of any photos with their probabilities, and whether the folds agree.

    Args:
        photos: files, or folders of them.
        runs: several on the same folds are blended.
        tta, tuned, allow_missing, device, workers: as of `plan_inference`.
        skip_bad_photos: leave out photos that can't be read; else they are refused.
        out: a .csv or .json file that keeps the result.

    Raises:
        MaskensError: photos that can't be read, models missing, runs of other folds.
    """
    loaded = load_runs(runs)
    found = find_photos([Path(photos)] if isinstance(photos, (str, Path)) else [Path(p) for p in photos])
    path = Path(out) if out else None
    if path and path.suffix not in (".csv", ".json"):
        raise MaskensError(f"--out {path}: name a .csv or a .json file.")
    if path:
        must_be_writable(path)
    refuse_other_folds(loaded)
    hardware = Hardware(choose_device(device), workers)
    recipes = [run_recipe(run) for run in loaded]
    applied = apply_tuning(loaded, recipes, tta, tuned)
    used, recipes, fitted = weighted_runs(loaded, recipes, applied.fitted)
    ensembles = load_ensembles(used, recipes, fitted, allow_missing)
    complete_folds(ensembles)
    height, width = ensembles[0].members[0].card.resize
    aspect = training_aspect(used[0]) or height / width
    opening = part_of(on_progress, "opening")
    opened, distorted = distorted_photos(found, aspect, hardware.decoding_threads, opening, skip_bad_photos)
    found = found.some(np.flatnonzero(opened.readable))
    predicting = part_of(on_progress, "predicting")
    settings = InferenceSettings(fitted.tta_set, hardware)
    prediction = predict_photos(ensembles, found, settings, on_predict=predicting)
    records = prediction_records(found.files, photo_predictions(ensembles, prediction, fitted), distorted)
    models = sum(len(e.members) for e in ensembles)
    words = f"{len(records)} photos, {models} models, views: {fitted.tta}, {applied.words}"
    notes = tuple(line for e in ensembles for line in e.notes)
    earlier = _kept(path, records) if path else None
    return Predicted(records, tuple(distorted), words, earlier, notes, opened.skipped)


def _kept(path: Path, records: Sequence[dict[str, Any]]) -> Path | None:
    if path.suffix == ".json":
        return replace_keeping(path, json_text(records))
    return replace_keeping(path, listing_text(list(records[0]), [list(r.values()) for r in records]))
