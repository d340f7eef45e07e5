"""What one job needs to know, which jobs a training has, and which of them can't be trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.jobs.hardware import Hardware
from ensemble.jobs.job import Job
from ensemble.jobs.soft_targets import PseudoLabels, SoftTargets
from ensemble.recipes.schema import Recipe, TaskRecipe
from ensemble.recipes.tasks import PREDICTED_PARTS, OutputSpec, training_labels, training_mask
from folds.errors import MaskensError, did_you_mean, refuse
from folds.labels import UNKNOWN, IntArray
from folds.people import TrainData
from folds.run_folder import Run


@dataclass(frozen=True)
class TimeLimit:
    """By when a job has to have ended."""

    ends: float  # when `maskens infer` has to start, in seconds since 1970
    after: float  # seconds that must be left then: the least that the other jobs of the fold take, and predicting
    epoch: float  # most seconds of an epoch, as expected: if it takes longer, so will what comes after


@dataclass(frozen=True)
class JobSpec:
    """What one job needs to know; plain and small, so that it travels to any backend."""

    run: Run
    recipe: Recipe
    task: str
    fold: int  # or FULL
    device: str
    workers: int
    threads: int
    cache: Path | None
    track: tuple[str, ...] = ()  # names of trackers
    compile: bool = False  # the model first, for training
    pseudo: PseudoLabels | None = None
    soft: SoftTargets | None = None  # of its fold
    epochs: int | None = None  # where a deadline leaves fewer than the recipe's
    limit: TimeLimit | None = None

    @property
    def job(self) -> Job:
        return Job(self.run, self.task, self.fold)

    @property
    def task_recipe(self) -> TaskRecipe:
        return self.recipe.tasks[self.task]


def training_rows(spec: JobSpec, data: TrainData, folds: IntArray) -> IntArray:
    """int64 (n,): the photos that a job is trained on: those of other folds' people, for FULL of everybody, that can be
    read and have one of its labels, without the ages that the recipe skips. `folds` is int64 (people,)."""
    task = spec.task_recipe
    elsewhere = folds[data.photo_person] != spec.fold
    mine = training_mask(task.output_spec, data, in_years=task.ages.in_years)
    return np.flatnonzero(elsewhere & mine & ~np.isin(data.years, task.ages.leave_out))


def identity(spec: JobSpec) -> dict[str, Any]:
    """What must be equal for two halves of a job to belong together."""
    return run_identity(spec.run, spec.recipe, spec.task, spec.fold) | {
        "extra": spec.run.extra_hash or None,
        "skipped": spec.run.skipped_hash or None,
        "pseudo": spec.pseudo.hash if spec.pseudo else None,
        "soft_targets": spec.soft.fold_hash(spec.fold) if spec.soft else None,
    }


def run_identity(run: Run, recipe: Recipe, task: str, fold: int) -> dict[str, Any]:
    """The part of a job's identity that run and recipe decide."""
    return {
        "task_hash": recipe.tasks[task].hash,
        "folds_hash": run.folds_hash,
        "seed": run.seed,
        "task": task,
        "fold": fold,
    }


def select_tasks(recipe: Recipe, asked: Sequence[str]) -> list[str]:
    """The tasks named, in the recipe's order; all if none is. Raises MaskensError: the recipe has no such task."""
    names = [n for item in asked for n in item.split(",")]
    if unknown := [name for name in names if name not in recipe.tasks]:
        raise MaskensError(
            f"--task {unknown[0]}: the recipe '{recipe.name}' has no such task"
            f"{did_you_mean(unknown[0], recipe.tasks)}; it has {', '.join(recipe.tasks)}."
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
    common = (hardware.device, hardware.job_workers, hardware.job_threads, cache, track, compile, pseudo)
    return [
        JobSpec(run, recipe, task, fold, *common, soft=soft.only(fold) if soft else None)
        for fold in folds
        for task in tasks
    ]


def refuse_other_ages(recipe: Recipe, tasks: Sequence[str], what: str) -> None:
    """Refuse tasks that are trained in finer ages than the 18 classes have, of which `what` is. Raises MaskensError
    naming them."""
    problems = []
    for name in tasks:
        task = recipe.tasks[name]
        with_ages = {"age", "class"} & set(PREDICTED_PARTS[task.predicts])
        if with_ages and (task.ages.sigma or not task.ages.in_bands):
            problems.append(f"tasks.{name}.ages: trained in other bins than the three bands")
    refuse(problems, f"{what} are of the 18 classes, in which an age is one of three bands")


def refuse_jobs_without_photos(specs: Sequence[JobSpec], data: TrainData, folds: IntArray) -> None:
    """Refuse jobs without a training photo of each label that they predict; `folds` is int64 (people,). Raises
    MaskensError naming them."""
    idle = []
    for spec in specs:
        rows, output_spec = training_rows(spec, data, folds), spec.task_recipe.output_spec
        labels = training_labels(output_spec, data)[rows]
        for head, trained in zip(output_spec.heads, labels.T, strict=True):
            names, of_bin = OutputSpec(output_spec.predicts).names[head.part], np.array(head.bin_labels)
            missing = [names[i] for i in sorted(set(of_bin) - set(of_bin[trained[trained != UNKNOWN]]))]
            if missing:
                idle.append(f"{spec.job}: {head.part} {', '.join(missing)}")
    refuse(
        list(dict.fromkeys(idle)),
        "these jobs have no training photos of",
        "See ages.leave_out and ages.cuts of these tasks.",
    )
