"""A job, one task and one fold: what it needs to know, and which photos it learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.jobs.pseudo_labels import PseudoLabels
from ensemble.jobs.soft_targets import SoftTargets
from ensemble.recipes.geometry import Geometry
from ensemble.recipes.schema import Recipe, TaskRecipe
from ensemble.recipes.tasks import learns_from
from folds.data.labels import IntArray
from folds.data.people import TrainData
from folds.run import Run


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


def job_labels(specs: Sequence[JobSpec]) -> list[str]:
    """`mask fold 0` of each job; where they are of several runs, with the folder's name in front."""
    several = len({s.run.folder for s in specs}) > 1
    return [f"{s.run.folder.name} {s.task} fold {s.fold}" if several else f"{s.task} fold {s.fold}" for s in specs]


def learned_rows(spec: JobSpec, data: TrainData, folds: IntArray) -> IntArray:
    """int64 (n,): the photos that a job learns from; other folds' people, less those whom the recipe leaves out, and
    photos that can't be read.

    Args:
        folds: int64 (people,).
    """
    task = spec.recipe.tasks[spec.task]
    elsewhere = folds[data.photo_person] != spec.fold
    return np.flatnonzero(elsewhere & learns_from(task.predicts, data) & ~np.isin(data.years, task.ages.leave_out))


def geometry(task: TaskRecipe) -> Geometry:
    """The fixed steps of a task's photos."""
    return Geometry(task.resize, task.crop, task.decode == "reduced")


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
