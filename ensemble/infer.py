"""Predicting new photos with every model of a run: each photo decoded once for all of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ensemble.cache import Geometry, open_photos
from ensemble.combine import decide, joint_log_probabilities, mean_logits
from ensemble.loader import plain_batches
from ensemble.models import ModelCard, load_checkpoint, read_card, to_input
from ensemble.oof import save_npz
from ensemble.predict import all_views
from ensemble.recipe import Recipe
from ensemble.train import Hardware
from ensemble.tta import VIEWS, Tta
from folds.decode import Progress
from folds.errors import MaskensError, refuse
from folds.labels import IntArray
from folds.layout import EvalData
from folds.run import Run

BATCH = 64


@dataclass(frozen=True)
class Member:
    """One trained model of the ensemble."""

    task: str
    fold: int
    path: Path
    card: ModelCard


@dataclass(frozen=True)
class Prediction:
    """What the ensemble says of the photos of an eval folder."""

    classes: IntArray  # (photos,), 0..17
    log_probabilities: npt.NDArray[np.float64]  # (photos, 18)
    logits: dict[str, npt.NDArray[np.float32]]  # task -> (folds, views, photos, width)


def members(run: Run, recipe: Recipe, allow_missing: bool) -> list[Member]:
    """The trained models of a run, checked against its recipe and folds by their cards.

    Raises:
        MaskensError: jobs that are not trained (unless allowed, and then a task without any), damaged
            checkpoints, or checkpoints of another recipe or other folds.
    """
    found: list[Member] = []
    missing: list[tuple[str, int]] = []
    problems: list[str] = []
    for task in recipe.tasks:
        for fold in range(run.k):
            folder = run.job_folder(task, fold)
            path = folder / "model.safetensors"
            if not (folder / "oof.npz").exists() or not path.exists():
                missing.append((task, fold))
                continue
            try:
                card = read_card(path)
            except MaskensError as error:
                problems.append(str(error))
                continue
            wrong = [
                name
                for name, ours, its in (
                    ("recipe", recipe.tasks[task].hash, card.task_hash), ("folds", run.folds_hash, card.folds_hash),
                    ("task", task, card.task), ("fold", fold, card.fold),
                )
                if ours != its
            ]  # fmt: skip
            if wrong:
                problems.append(f"{path} belongs to another {' and '.join(wrong)}")
            found.append(Member(task, fold, path, card))
    refuse(problems, "the trained models can't all be used")
    without = [t for t in recipe.tasks if t not in {m.task for m in found}]
    if without or (missing and not allow_missing):
        listed = ", ".join(f"{t} fold {f}" for t, f in missing[:8]) + (", ..." if len(missing) > 8 else "")
        folds = ",".join(str(f) for f in sorted({f for _, f in missing}))
        hint = "" if without else " Or predict with the folds that are there: --allow-missing."
        raise MaskensError(
            f"{len(missing)} of {len(recipe.tasks) * run.k} models are not trained yet: {listed}. "
            f"Train them: maskens train --run {run.folder} --fold {folds}.{hint}"
        )
    return found


def infer(
    ensemble: list[Member],
    data: EvalData,
    tta: Tta,
    hardware: Hardware,
    cache: Path | None,
    on_decode: Progress | None = None,
    on_predict: Progress | None = None,
) -> Prediction:
    """Mean of the logits over folds and views for each task, then the joint decision.

    All models are loaded once; each batch of photos is read once and shown to every one of them.

    Args:
        on_decode: called with (photos decoded, photos in all) while the cache is filled.
        on_predict: called with (photos predicted, photos in all).
    """
    device = torch.device(hardware.device)
    torch.set_num_threads(hardware.job_threads)
    models = [load_checkpoint(m.path, device)[0] for m in ensemble]
    shapes = [Geometry(m.card.resize, m.card.crop) for m in ensemble]
    distinct = list(dict.fromkeys(shapes))
    photos = open_photos(data.root, data.files, data.fingerprint, distinct, cache, hardware.decoders, on_decode)
    logits: dict[str, list[npt.NDArray[np.float32]]] = {}
    outputs = []  # of each member, its slot in `logits`
    for member in ensemble:
        slot = np.empty((len(VIEWS[tta]), len(data.ids), member.card.target.width), np.float32)
        logits.setdefault(member.task, []).append(slot)
        outputs.append(slot)
    start = 0
    workers = 0 if cache else hardware.job_workers
    for batch in plain_batches(photos, range(len(data.ids)), BATCH, workers, pin=device.type == "cuda"):
        rows = slice(start, start + len(batch[0]))
        for member, model, shape, output in zip(ensemble, models, shapes, outputs, strict=True):
            x = to_input(batch[distinct.index(shape)], member.card.mean, member.card.std, device)
            output[:, rows] = all_views(model, x, tta).numpy()
        start = rows.stop
        if on_predict:
            on_predict(start, len(data.ids))
    stacked = {task: np.stack(found) for task, found in logits.items()}
    targets = {m.task: m.card.target for m in ensemble}
    joint = joint_log_probabilities({t: mean_logits(v) for t, v in stacked.items()}, targets)
    return Prediction(decide(joint), joint, stacked)


def save_logits(path: Path, data: EvalData, ensemble: list[Member], prediction: Prediction, tta: Tta) -> None:
    """Replace eval.npz: image ids, and of each task the logits float32 (folds, views, photos, width)."""
    folds = {t: [m.fold for m in ensemble if m.task == t] for t in prediction.logits}
    record = {"fingerprint": data.fingerprint, "views": VIEWS[tta], "folds": folds}
    arrays = {f"logits/{t}": v for t, v in prediction.logits.items()}
    save_npz(path, arrays | {"ids": np.array(data.ids), "record": json.dumps(record)})
