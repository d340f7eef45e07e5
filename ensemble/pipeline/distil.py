"""Distilling: one student that learns what the models of an ensemble predict."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ensemble.backends.choose import choose_hardware
from ensemble.data.cache import open_photos
from ensemble.decision.joint import blend
from ensemble.decision.members import Ensemble, geometries
from ensemble.decision.teaching import refuse_unfinished, soft_targets_of, teachers_of_fold
from ensemble.jobs.hardware import Hardware
from ensemble.jobs.job import STATUS, Job, jobs_of
from ensemble.jobs.teaching import (
    FoldTargets,
    SoftTargets,
    load_soft_targets,
    read_soft_targets,
    save_fold_targets,
    save_soft_targets,
    taught_rows,
)
from ensemble.pipeline.inputs import DEFAULT_RUN, Folder, Folders, OnProgress, load_runs, part_of
from ensemble.pipeline.train import (
    Trained,
    TrainingPlan,
    TrainOptions,
    leave_out_bad_photos,
    plan_jobs,
    prepare,
    run_plan,
)
from ensemble.prediction.outputs import InferenceCheckpoint, InferenceSettings
from ensemble.prediction.predict import predict
from ensemble.prediction.predictor import by_task
from ensemble.recipes.loss import soft_f1_warnings
from ensemble.recipes.run_recipe import run_recipe
from ensemble.recipes.views import Tta, TtaSet
from ensemble.training.queue import JobsDisplay
from folds.errors import MaskensError, typed
from folds.run import MODEL, Run, has_run, load_data, refuse_other_folds, run_like, write_run_like

ALPHA, TEMPERATURE = 0.5, 1.0


@dataclass(frozen=True)
class DistilOptions:
    """Who teaches and how; the defaults are those of `maskens distil` without options.

    Attributes:
        out: folder of the student's run; None is that of the first teacher with `-student` at its end.
        temperature: by which the ensemble's log probabilities are divided: above 1 softer.
        alpha: the ensemble's share of a target; the rest is the label's.
        tta: the ensemble's views; None is flip.
        train: how the student is trained. Default recipe: that of the first teacher.
    """

    out: Folder | None = None
    temperature: float | None = None
    alpha: float | None = None
    tta: Tta | None = None
    train: TrainOptions = field(default_factory=TrainOptions)


DEFAULT_OPTIONS = DistilOptions()


@dataclass(frozen=True)
class DistilPlan:
    """The student's jobs, checked; nothing is written yet."""

    teachers: tuple[Run, ...]
    views: TtaSet
    soft: SoftTargets  # of the folds that are predicted already
    untaught: Mapping[int, list[Ensemble]]  # fold -> the models of each teacher that are to predict for it
    training: TrainingPlan
    hardware: Hardware  # of this machine, which predicts the soft targets


def plan_distillation(runs: Folders = DEFAULT_RUN, options: DistilOptions = DEFAULT_OPTIONS) -> DistilPlan:
    """Check all that teaching and training need.

    Args:
        runs: the ensemble that teaches: runs on the same folds.

    Raises:
        MaskensError: everything that would fail later; teachers that lack a fold which is to be trained; a student's
            run that has learned from something else.
    """
    teachers = load_runs(runs)
    if options.train.pseudo or options.train.reuse:
        raise MaskensError("a student learns from soft targets alone: neither pseudo nor reuse goes with it.")
    data_folder = Path(options.train.data) if options.train.data else None
    folder = Path(options.out) if options.out else _beside(teachers[0].folder)
    if folder.resolve() in {teacher.folder.resolve() for teacher in teachers}:
        raise MaskensError(f"--out {folder}: that is the teacher itself. Name a new folder: --out DIR")
    refuse_other_folds(teachers)
    temperature = TEMPERATURE if options.temperature is None else options.temperature
    alpha = ALPHA if options.alpha is None else options.alpha
    soft, views = soft_targets_of(teachers, options.tta, temperature, alpha)
    data, folds = load_data(teachers[0], data_folder)
    student = run_like(teachers[0], folder, data)
    if has_run(folder):
        data, folds = load_data(student, data_folder)  # it may skip photos that became unreadable since
    if _has_begun(student):
        soft = _refuse_other_lessons(student, soft, load_soft_targets(student, data, folds))
    else:
        kept = read_soft_targets(student)
        soft = kept if kept and kept.hash == soft.hash else soft
    training = plan_jobs(student, data, folds, soft, options.train, like=teachers[0])
    wanted = {spec.fold for spec in training.todo}
    refuse_unfinished(teachers, wanted)
    ensembles = {fold: teachers_of_fold(teachers, views, fold) for fold in wanted}
    untaught = {
        fold: found
        for fold, found in ensembles.items()
        if fold not in soft.folds or soft.folds[fold].models != _models(teachers, found)
    }
    for fold in untaught.keys() & soft.folds.keys():
        if jobs := [spec for spec in training.todo if spec.fold == fold and spec.job.status_file.exists()]:
            raise MaskensError(
                f"{student.folder}: {jobs[0].task} fold {fold} learns from models that were trained again since. "
                "Name a new folder: --out DIR"
            )
    tasks = list(dict.fromkeys(task for teacher in teachers for task in run_recipe(teacher).soft_f1_tasks))
    if training.todo:
        warned = soft_f1_warnings(tasks, "the ensemble is less sure than the soft targets that it gives")
        training = dataclasses.replace(training, warnings=(*training.warnings, *warned))
    here = choose_hardware("auto" if options.train.address else options.train.device, options.train.workers)
    return DistilPlan(tuple(teachers), views, soft, untaught, training, here)


def _models(teachers: list[Run], ensembles: list[Ensemble]) -> tuple[str, ...]:
    """sha256 of each model."""
    pairs = [(run, m) for run, ensemble in zip(teachers, ensembles, strict=True) for m in ensemble.members]
    return tuple(Job(run, m.task, m.fold).verified_sha256(MODEL) for run, m in pairs)


def _beside(folder: Path) -> Path:
    whole = folder.resolve()
    found = whole.with_name(f"{whole.name}-student")
    return found if folder.name in ("", "..") else folder.with_name(found.name)  # as it was named, if it has a name


def _has_begun(student: Run) -> bool:
    """Whether any job of it has, be it in its first epoch in another process."""
    return any(student.folder.glob(f"*/fold*/{STATUS}"))


def _refuse_other_lessons(student: Run, soft: SoftTargets, kept: SoftTargets | None) -> SoftTargets:
    """What the student's jobs learn from; a run whose jobs learn from something else is refused."""
    if kept is None:
        raise MaskensError(f"{student.folder} has jobs that learn from labels alone. Name a new folder: --out DIR")
    if kept.hash != soft.hash:
        raise MaskensError(
            f"{student.folder} has jobs that learn from other soft targets: {kept.words}; now {soft.words}. "
            f"Continue training: maskens train --run {typed(student.folder)}; or name a new folder: --out DIR"
        )
    return kept


def begin_student(planned: DistilPlan, on_progress: OnProgress | None = None) -> TrainingPlan:
    """Write the student's run, and predict its soft targets; interrupted, the same call keeps the folds that are done.

    Returns:
        The training, whose jobs know them.

    Raises:
        MaskensError: as `leave_out_bad_photos`; a photo that can't be read, a model that gives no numbers.
    """
    student = planned.training.run
    write_run_like(student, planned.teachers[0])
    soft = dataclasses.replace(
        planned.soft, folds={f: t for f, t in planned.soft.folds.items() if f not in planned.untaught}
    )
    save_soft_targets(student, soft)
    training = leave_out_bad_photos(planned.training, on_progress)
    for fold in planned.untaught:
        soft = dataclasses.replace(soft, folds={**soft.folds, fold: _taught(planned, training, fold, on_progress)})
        save_fold_targets(student, soft, fold)
    jobs, todo = (
        tuple(dataclasses.replace(spec, soft=soft.only(spec.fold)) for spec in specs)
        for specs in (training.jobs, training.todo)
    )
    return dataclasses.replace(training, jobs=jobs, todo=todo, soft=soft)


def _taught(planned: DistilPlan, training: TrainingPlan, fold: int, on_progress: OnProgress | None) -> FoldTargets:
    """What the teachers' models of a fold predict for the people of all others."""
    ensembles, data, hardware = planned.untaught[fold], training.data, planned.hardware
    settings = InferenceSettings(planned.views, hardware, training.todo[0].cache)
    shapes = geometries(m for ensemble in ensembles for m in ensemble.members)
    decoding = part_of(on_progress, "decoding photos")
    photos = open_photos(data.photos, shapes, settings.cache, hardware.decoding_threads, decoding)
    predicting, kept = part_of(on_progress, f"soft targets of fold {fold}"), InferenceCheckpoint(None, None)
    shown = predict(ensembles, photos, settings, kept, predicting, taught_rows(data, training.folds, fold))
    logits = by_task(ensembles, shown.logits)
    joints = np.stack([ensemble.joint(found) for ensemble, found in zip(ensembles, logits, strict=True)])
    files = tuple(data.files[row] for row in shown.rows)
    return FoldTargets(_models([*planned.teachers], ensembles), files, blend(joints).astype(np.float32))


def trained_models(planned: DistilPlan) -> tuple[int, bool]:
    """(how many models the student has, whether these are all)."""
    run, recipe = planned.training.run, planned.training.recipe
    there = [job.trained for job in jobs_of(run, recipe.tasks)]
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
        on_progress: told of the photos that are decoded and predicted.

    Raises:
        MaskensError: as `plan_distillation` and `run_plan`.
    """
    training = begin_student(plan_distillation(runs, options), on_progress)
    prepare(training, on_progress)
    return run_plan(training, display)
