"""Classifying any photos, with how sure the ensemble is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemble.jobs.hardware import Hardware, choose_device
from ensemble.pipeline.ensembles import choose_ensembles
from ensemble.pipeline.inputs import DEFAULT_RUN, Folder, Folders, OnProgress, load_runs, part_of
from ensemble.prediction.predictions import predict_files
from ensemble.recipes.views import Tta
from folds.errors import MaskensError
from folds.files import json_text, listing_text, must_be_writable, replace_keeping
from folds.photo_files import find_photos


@dataclass(frozen=True)
class Predicted:
    """What the ensemble says of each photo."""

    records: list[dict[str, Any]]  # one a photo: class, parts, their probabilities, how many folds agree
    distorted: tuple[str, ...]  # photos of another shape than in training
    used: str  # models, views and tuning in words
    earlier: Path | None  # where an earlier result is kept
    notes: tuple[str, ...]  # other files in the folders, and what the user should know of the models
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
    found, others = find_photos([Path(photos)] if isinstance(photos, (str, Path)) else [Path(p) for p in photos])
    path = Path(out) if out else None
    if path and path.suffix not in (".csv", ".json"):
        raise MaskensError(f"--out {path}: name a .csv or a .json file.")
    if path:
        must_be_writable(path)
    hardware = Hardware(choose_device(device), workers)
    chosen = choose_ensembles(loaded, tta, tuned, allow_missing)
    predicting = part_of(on_progress, "predicting")
    args = (chosen.ensembles, chosen.fitted, found, hardware, chosen.aspect, skip_bad_photos, predicting)
    predicted, records = predict_files(*args)
    distorted = tuple(r["photo"] for r in records if r["distorted"])
    earlier = _kept(path, records) if path else None
    used = f"{len(records)} photos, {chosen.words}"
    return Predicted(records, distorted, used, earlier, (*others, *chosen.notes), predicted.skipped)


def _kept(path: Path, records: Sequence[dict[str, Any]]) -> Path | None:
    if path.suffix == ".json":
        return replace_keeping(path, json_text(records))
    return replace_keeping(path, listing_text(list(records[0]), [list(r.values()) for r in records]))
