"""Runs without models whose out-of-fold logits are planned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ensemble.jobs.job import JobStatus, write_status
from ensemble.jobs.oof import JobOofLogits, people_halves, save_job_oof
from ensemble.metrics.scores import half_epochs, task_scores
from ensemble.recipes.recipe_file import bind_recipe, parse_recipe
from ensemble.recipes.tasks import true_labels
from ensemble.recipes.views import VIEWS
from folds.people import TrainData
from folds.run_folder import Run, start_run
from folds.splits import make_folds

SMALL = """
[defaults]
model = "test_resnet.r160_in1k"
pretrained = false
resize = [32, 24]
"""
CLASS18 = f"{SMALL}[tasks.class18]\n"
SOFT_F1 = f"{CLASS18}loss = {{ ce = 0.3, f1 = 0.7 }}\n"
HEADS = f"{SMALL}[tasks.heads]\n"
FOUR = f"{SMALL}[tasks.mask]\n[tasks.gender]\n[tasks.male-age]\n[tasks.female-age]\n"


def plan_run(
    folder: Path,
    data: TrainData,
    logits: np.ndarray | Mapping[str, np.ndarray],
    *,
    recipe: str = CLASS18,
    split_seed: int = 1,
    seed: int | None = None,
    k: int = 2,
    trained: Sequence[int] | None = None,
    views: tuple[str, ...] = VIEWS["flip"],
    epochs: Sequence[np.ndarray] = (),
) -> Run:
    """Write a run that says this of the people of its trained folds.

    Args:
        logits: float (photos, width) of the task class18, or task -> such; or (views, photos, width).
        split_seed: the seed of the folds.
        seed: the run's own, by default that of the folds.
        trained: the folds that are there, by default all.
        views: the names of the views.
        epochs: logits of the task class18 after each epoch, in place of `logits`; the best epochs are chosen as in
            training.
    """
    folds = make_folds(data, k, seed=split_seed)
    resolved = parse_recipe(recipe, "planned")
    run = bind_recipe(start_run(folder, data, folds, k, seed=split_seed if seed is None else seed)[0], resolved)
    for task, values in (logits if isinstance(logits, Mapping) else {"class18": logits}).items():
        target = resolved.tasks[task].output_spec
        shown = np.stack([np.broadcast_to(v, (len(views), *v.shape[-2:])) for v in epochs or [values]])
        for fold in range(k) if trained is None else trained:
            rows = np.flatnonzero(folds[data.photo_person] == fold)
            record = {"task_hash": resolved.tasks[task].hash, "folds_hash": run.folds_hash, "fold": fold}
            half = people_halves(data.people, folds == fold, (run.seed, fold))[data.photo_person[rows]]
            truth = true_labels(target, data)[rows]
            its = shown[:, :, rows].astype(np.float32)
            best, chosen = 0, (0, 0)
            if epochs:
                best = int(np.argmax([task_scores(target, one[0], truth)[0] for one in its]))
                chosen = half_epochs(target, its[:, 0], truth, half)
            oof = JobOofLogits(np.array(data.files)[rows], its, best, half, chosen, views)
            save_job_oof(run.job_folder(task, fold) / "oof.npz", oof, record)
            write_status(run, JobStatus(task, fold, "done"))
    return run


def plan_errors(folder: Path, data: TrainData, share: float, *, errors: int = 0, **options: object) -> Run:
    """A run that is right but for the masks of a share of the photos, drawn by the seed `errors`."""
    wrong = np.random.default_rng(errors).random(len(data.files)) < share
    classes = np.where(wrong, (data.classes + 6) % 18, data.classes)
    return plan_run(folder, data, np.eye(18)[classes] * 5, **options)  # type: ignore[arg-type]
