"""What the ensemble is worth: its joint decision on out-of-fold logits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ensemble.combine import decide, joint_log_probabilities
from ensemble.oof import Epoch, Logits, pool, save_npz
from ensemble.recipe import Recipe
from ensemble.score import Score, score, task_scores
from ensemble.tasks import learns_from, true_labels
from ensemble.tta import VIEWS, Tta
from folds.errors import MaskensError
from folds.labels import IntArray
from folds.layout import TrainData
from folds.run import Run


@dataclass(frozen=True)
class OutOfFold:
    """The ensemble's decision on the people of its trained folds, each by models that never saw them."""

    rows: IntArray  # (photos,): index of each photo in TrainData.files
    fold: IntArray  # (photos,)
    logits: Mapping[str, Logits]  # task -> (photos, width), mean over the views
    joint: npt.NDArray[np.float64]  # (photos, 18), log probabilities
    classes: IntArray  # (photos,), the decision
    trained: list[int]  # the folds that count: those with every task trained
    missing: str  # which jobs are not trained, in words


@dataclass(frozen=True)
class Evaluation:
    """The score of a run on the people of its trained folds."""

    score: Score
    tasks: dict[str, tuple[float, float]]  # task -> (macro F1, accuracy) on the photos it learns from
    folds: list[int]
    missing: str


def out_of_fold(run: Run, recipe: Recipe, data: TrainData, folds: IntArray, tta: Tta, epoch: Epoch) -> OutOfFold:
    """Pool the out-of-fold logits and decide.

    The best epoch of a job was chosen on the very fold that is predicted here, which flatters a little;
    `epoch="last"` is free of that.

    Args:
        folds: int64 (people,).

    Raises:
        MaskensError: no fold has every task trained, or files that don't belong together.
    """
    missing = [(t, f) for t in recipe.tasks for f in range(run.k) if not (run.job_folder(t, f) / "oof.npz").exists()]
    trained = [f for f in range(run.k) if f not in {fold for _, fold in missing}]
    if not trained:
        raise MaskensError(
            f"no fold of {run.folder} has all of its tasks trained yet. "
            f"First: maskens train --run {run.folder} --fold 0"
        )
    pooled = pool(run, recipe, data, folds, trained, tta, epoch)
    joint = joint_log_probabilities(pooled.logits, {name: task.target for name, task in recipe.tasks.items()})
    listed = ", ".join(f"{t} fold {f}" for t, f in missing[:6]) + (", ..." if len(missing) > 6 else "")
    words = f"without {listed}" if missing else ""
    return OutOfFold(pooled.rows, pooled.fold, pooled.logits, joint, decide(joint), trained, words)


def evaluate(run: Run, recipe: Recipe, data: TrainData, folds: IntArray, tta: Tta, epoch: Epoch) -> Evaluation:
    """Score the out-of-fold decision once over all photos; oof.npz keeps the pooled logits.

    Args:
        folds: int64 (people,).

    Raises:
        MaskensError: as `out_of_fold`.
    """
    found = out_of_fold(run, recipe, data, folds, tta, epoch)
    tasks = {}
    for name, task in recipe.tasks.items():
        mine = learns_from(task.predicts, data)[found.rows]
        truth = true_labels(task.target, data)[found.rows]
        tasks[name] = task_scores(task.target, found.logits[name][mine], truth[mine])
    arrays: dict[str, object] = {f"logits/{t}": v for t, v in found.logits.items()}
    record = json.dumps({"views": VIEWS[tta], "epoch": epoch, "recipe_hash": recipe.hash, "folds_hash": run.folds_hash})
    files = [data.files[i] for i in found.rows]
    arrays |= {"files": files, "fold": found.fold, "log_probabilities": found.joint, "record": record}
    save_npz(run.folder / "oof.npz", arrays)
    return Evaluation(score(data.classes[found.rows], found.classes), tasks, found.trained, found.missing)
