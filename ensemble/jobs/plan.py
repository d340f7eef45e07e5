"""Which jobs there are: those of the tasks and folds that were named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ensemble.jobs.hardware import Hardware
from ensemble.jobs.pseudo_labels import PseudoLabels
from ensemble.jobs.soft_targets import SoftTargets
from ensemble.jobs.spec import JobSpec, learned_rows
from ensemble.recipes.schema import Recipe
from ensemble.recipes.tasks import PREDICTED_PARTS, Target, training_labels
from folds.data.labels import IntArray
from folds.data.people import TrainData
from folds.errors import MaskensError, did_you_mean, refuse
from folds.run import Run


def select_tasks(recipe: Recipe, asked: Sequence[str]) -> list[str]:
    """The tasks named, in the recipe's order; all if none is.

    Raises:
        MaskensError: a task that the recipe has not.
    """
    names = [n for item in asked for n in item.split(",")]
    for name in names:
        if name not in recipe.tasks:
            raise MaskensError(
                f"--task {name}: the recipe '{recipe.name}' has no such task{did_you_mean(name, recipe.tasks)}; "
                f"it has {', '.join(recipe.tasks)}."
            )
    return [t for t in recipe.tasks if not names or t in names]


def plan(
    run: Run,
    recipe: Recipe,
    tasks: Sequence[str],
    folds: Sequence[int],
    hardware: Hardware,
    cache: Path | None,
    track: tuple[str, ...] = (),
    compile: bool = False,
    pseudo: PseudoLabels | None = None,
    soft: SoftTargets | None = None,
) -> list[JobSpec]:
    """One job for each fold and task, fold by fold, so that the first whole fold is ready early."""
    pairs = [(t, f) for f in folds for t in tasks]
    return [
        JobSpec(
            run,
            recipe,
            t,
            f,
            hardware.device,
            hardware.job_workers,
            hardware.job_threads,
            cache,
            track,
            compile,
            pseudo,
            soft.only(f) if soft else None,
        )
        for t, f in pairs
    ]


def refuse_other_ages(recipe: Recipe, tasks: Sequence[str], what: str) -> None:
    """Refuse tasks that learn ages more finely than one of the 18 classes says.

    Args:
        what: it is that they would learn from, and that is of these classes.

    Raises:
        MaskensError: naming them.
    """
    problems = []
    for name in tasks:
        task = recipe.tasks[name]
        with_ages = {"age", "class"} & set(PREDICTED_PARTS[task.predicts])
        if with_ages and (task.ages.sigma or not task.ages.in_bands):
            problems.append(f"tasks.{name}.ages: learned in other bins than the three bands")
    refuse(problems, f"{what} are of the 18 classes, which say no more of an age than its band", "")


def refuse_jobs_without_photos(specs: Sequence[JobSpec], data: TrainData, folds: IntArray) -> None:
    """Refuse jobs whose recipe leaves nobody to learn from, or nobody of a label that they are to predict.

    Args:
        folds: int64 (people,).

    Raises:
        MaskensError: naming them.
    """
    idle = []
    for spec in specs:
        rows, target = learned_rows(spec, data, folds), spec.recipe.tasks[spec.task].target
        labels = training_labels(target, data)[rows]
        for head, learned in zip(target.heads, labels.T, strict=True):
            names, merge = Target(target.predicts).names[head.part], np.array(head.merge)
            missing = [names[i] for i in sorted(set(merge) - set(merge[learned]))]
            if missing:
                idle.append(f"{spec.task} fold {spec.fold}: {head.part} {', '.join(missing)}")
    refuse(idle, "these jobs have nobody to learn from", "See ages.leave_out and ages.cuts of these tasks.")
