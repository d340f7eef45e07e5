"""What is needed to do a job: its specification, and which jobs a training has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.jobs.hardware import Hardware
from ensemble.jobs.job import Job
from ensemble.jobs.soft_targets import PseudoLabels, SoftTargets
from ensemble.recipes.schema import Recipe
from ensemble.recipes.tasks import PREDICTED_PARTS, OutputSpec, training_labels, training_mask
from folds.errors import MaskensError, did_you_mean, refuse
from folds.labels import IntArray
from folds.people import TrainData
from folds.run_folder import Run


@dataclass(frozen=True)
class JobSpec:
    """What one job needs to know; plain and small, so that it travels to any backend."""

    run: Run
    recipe: Recipe
    task: str
    fold: int
    device: str
    workers: int
    threads: int
    cache: Path | None
    track: tuple[str, ...] = ()  # names of trackers
    compile: bool = False  # the model first, for training
    pseudo: PseudoLabels | None = None
    soft: SoftTargets | None = None  # of its fold

    @property
    def job(self) -> Job:
        return Job(self.run, self.task, self.fold)


def job_labels(specs: Sequence[JobSpec]) -> list[str]:
    """`mask fold 0` of each job; where they are of several runs, with the folder's name in front."""
    several = len({s.run.folder for s in specs}) > 1
    return [f"{s.run.folder.name} {s.job}" if several else str(s.job) for s in specs]


def learned_rows(spec: JobSpec, data: TrainData, folds: IntArray) -> IntArray:
    """int64 (n,): the photos that a job learns from; other folds' people, less those whom the recipe leaves out, and
    photos that can't be read.

    Args:
        folds: int64 (people,).
    """
    task = spec.recipe.tasks[spec.task]
    elsewhere = folds[data.photo_person] != spec.fold
    return np.flatnonzero(elsewhere & training_mask(task.predicts, data) & ~np.isin(data.years, task.ages.leave_out))


def identity(spec: JobSpec) -> dict[str, Any]:
    """What must be equal for two halves of a job to belong together."""
    found = run_identity(spec.run, spec.recipe, spec.task, spec.fold)
    found |= {"pseudo": spec.pseudo.hash} if spec.pseudo else {}  # earlier jobs know no such keys
    found |= {"soft_targets": spec.soft.fold_hash(spec.fold)} if spec.soft else {}
    return found | ({"skipped": spec.run.skipped_hash} if spec.run.skipped_hash else {})


def run_identity(run: Run, recipe: Recipe, task: str, fold: int) -> dict[str, Any]:
    """What run and recipe alone say of a job's identity."""
    return {
        "task_hash": recipe.tasks[task].hash,
        "folds_hash": run.folds_hash,
        "seed": run.seed,
        "task": task,
        "fold": fold,
    }


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
            names, merge = OutputSpec(target.predicts).names[head.part], np.array(head.merge)
            missing = [names[i] for i in sorted(set(merge) - set(merge[learned]))]
            if missing:
                idle.append(f"{spec.job}: {head.part} {', '.join(missing)}")
    refuse(idle, "these jobs have nobody to learn from", "See ages.leave_out and ages.cuts of these tasks.")
