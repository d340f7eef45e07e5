"""Distilling: one student that learns what an ensemble says out-of-fold."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from ensemble.decision.distillation import make_soft_targets
from ensemble.jobs.soft_targets import SoftTargets, read_soft_targets, refuse_lost, save_soft_targets
from ensemble.pipeline.inputs import DEFAULT_RUN, Folder, Folders, OnProgress, load_runs
from ensemble.pipeline.train import Trained, TrainingPlan, TrainOptions, plan_jobs, prepare, run_plan
from ensemble.recipes.loss import soft_f1_warnings
from ensemble.recipes.tta_views import Tta
from ensemble.training.jobs import JobsDisplay
from folds.errors import MaskensError
from folds.run import Run
from folds.same_folds import run_like, write_run_like

ALPHA, TEMPERATURE = 0.5, 1.0


@dataclass(frozen=True)
class DistilOptions:
    """Who teaches and how; the defaults are those of `maskens distil` without options.

    Attributes:
        out: folder of the student's run; None is that of the first teacher with `-student` at its end.
        temperature: by which the ensemble's log probabilities are divided: above 1 softer.
        alpha: the ensemble's share of a target; the rest is the label's.
        tta: the ensemble's views; None takes those that were tuned, else flip.
        tuned: the ensemble with what `tune` fitted.
        train: how the student is trained. Its recipe is at first that of the first teacher.
    """

    out: Folder | None = None
    temperature: float | None = None
    alpha: float | None = None
    tta: Tta | None = None
    tuned: bool = True
    train: TrainOptions = field(default_factory=TrainOptions)


DEFAULT_OPTIONS = DistilOptions()


@dataclass(frozen=True)
class DistilPlan:
    """The student's jobs, checked; nothing is written yet."""

    teachers: tuple[Run, ...]
    soft: SoftTargets
    training: TrainingPlan


def plan_distillation(runs: Folders = DEFAULT_RUN, options: DistilOptions = DEFAULT_OPTIONS) -> DistilPlan:
    """Make the soft targets and check all that the training needs.

    Args:
        runs: the ensemble that teaches: finished runs on the same folds.

    Raises:
        MaskensError: everything that would fail later; teachers that lack a fold; a student's run that has learned
            from something else.
    """
    teachers = load_runs(runs)
    if options.train.pseudo or options.train.reuse:
        raise MaskensError("a student learns from soft targets alone: neither pseudo nor reuse goes with it.")
    data_folder = Path(options.train.data) if options.train.data else None
    folder = Path(options.out) if options.out else _beside(teachers[0].folder)
    if folder.resolve() in {teacher.folder.resolve() for teacher in teachers}:
        raise MaskensError(f"--out {folder}: that is the teacher itself. Name a new folder: --out DIR")
    temperature = TEMPERATURE if options.temperature is None else options.temperature
    alpha = ALPHA if options.alpha is None else options.alpha
    soft, blend = make_soft_targets(teachers, data_folder, options.tta, options.tuned, temperature, alpha)
    student = run_like(teachers[0], folder, blend.data)
    _refuse_other_lessons(student, soft)
    training = plan_jobs(student, blend.data, blend.folds, soft, options.train, like=teachers[0])
    tasks = list(dict.fromkeys(task for member in blend.runs for task in member.recipe.soft_f1_tasks))
    if training.todo:
        warned = soft_f1_warnings(tasks, "the ensemble is less sure than the soft targets that it gives")
        training = dataclasses.replace(training, warnings=(*training.warnings, *warned))
    return DistilPlan(tuple(teachers), soft, training)


def _beside(folder: Path) -> Path:
    whole = folder.resolve()
    found = whole.with_name(f"{whole.name}-student")
    return found if folder.name in ("", "..") else folder.with_name(found.name)  # as it was named, if it has a name


def _has_begun(student: Run) -> bool:
    """Whether a job of it has, be it in its first epoch in another process."""
    return any(student.folder.glob("*/fold*/job.json"))


def _refuse_other_lessons(student: Run, soft: SoftTargets) -> None:
    """Refuse a run whose jobs learn from something else."""
    kept = read_soft_targets(student) if _has_begun(student) else soft
    if kept is None:
        refuse_lost(student)
        raise MaskensError(f"{student.folder} has jobs that learn from labels alone. Name a new folder: --out DIR")
    if kept.hash != soft.hash:
        raise MaskensError(
            f"{student.folder} has jobs that learn from other soft targets: {kept.words}; now {soft.words}. "
            f"Go on with them: maskens train --run {student.folder}; or name a new folder: --out DIR"
        )


def begin_student(planned: DistilPlan) -> None:
    """Write the student's run and its soft targets."""
    student = planned.training.run
    write_run_like(student, planned.teachers[0])
    if not _has_begun(student):
        save_soft_targets(student, planned.soft)


def trained_models(planned: DistilPlan) -> tuple[int, bool]:
    """(how many models the student has, whether these are all)."""
    run, recipe = planned.training.run, planned.training.recipe
    there = [(run.job_folder(task, fold) / "oof.npz").exists() for task in recipe.tasks for fold in range(run.k)]
    return sum(there), all(there)


def distil(
    runs: Folders = DEFAULT_RUN,
    options: DistilOptions = DEFAULT_OPTIONS,
    *,
    display: JobsDisplay | None = None,
    on_progress: OnProgress | None = None,
) -> Trained:
    """Train a student on an ensemble's soft targets; finished jobs are kept, interrupted ones go on.

    Args:
        runs: as of `plan_distillation`.
        display: as of `run_plan`.
        on_progress: told of the photos that are decoded.

    Raises:
        MaskensError: as `plan_distillation` and `run_plan`.
    """
    planned = plan_distillation(runs, options)
    begin_student(planned)
    prepare(planned.training, on_progress)
    return run_plan(planned.training, display)
