"""What the ensemble is worth: its joint decision on out-of-fold logits."""

from __future__ import annotations

import json
from dataclasses import dataclass

from ensemble.combine import decide, joint_log_probabilities
from ensemble.oof import Epoch, pool, save_npz
from ensemble.recipe import Recipe
from ensemble.score import Score, score, task_scores
from ensemble.tasks import learns_from, true_labels
from ensemble.tta import VIEWS, Tta
from folds.errors import MaskensError
from folds.labels import IntArray
from folds.layout import TrainData
from folds.run import Run


@dataclass(frozen=True)
class Evaluation:
    """The score of a run on the people of its trained folds."""

    score: Score
    tasks: dict[str, tuple[float, float]]  # task -> (macro F1, accuracy) on the photos it learns from
    folds: list[int]  # the folds that count: those with every task trained
    missing: str  # which jobs are not trained, in words


def evaluate(run: Run, recipe: Recipe, data: TrainData, folds: IntArray, tta: Tta, epoch: Epoch) -> Evaluation:
    """Pool the out-of-fold logits, decide, and count once over all photos; oof.npz keeps the pooled logits.

    The best epoch of a job was chosen on the very fold that is scored here, which flatters a little;
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
    targets = {name: task.target for name, task in recipe.tasks.items()}
    joint = joint_log_probabilities(pooled.logits, targets)
    tasks = {}
    for name, target in targets.items():
        mine = learns_from(target.predicts, data)[pooled.rows]
        tasks[name] = task_scores(target, pooled.logits[name][mine], true_labels(target, data)[pooled.rows][mine])
    files = [data.files[i] for i in pooled.rows]
    arrays: dict[str, object] = {f"logits/{t}": v for t, v in pooled.logits.items()}
    record = json.dumps({"views": VIEWS[tta], "epoch": epoch, "recipe_hash": recipe.hash, "folds_hash": run.folds_hash})
    arrays |= {"files": files, "fold": pooled.fold, "log_probabilities": joint, "record": record}
    save_npz(run.folder / "oof.npz", arrays)
    listed = ", ".join(f"{t} fold {f}" for t, f in missing[:6]) + (", ..." if len(missing) > 6 else "")
    return Evaluation(
        score(data.classes[pooled.rows], decide(joint)),
        tasks,
        trained,
        f"without {listed}" if missing else "",
    )
