"""maskens distil: one student trained on the predictions of an ensemble."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from ensemble.backends.choose import choose_hardware
from ensemble.commands.options import DistilOptions
from ensemble.commands.step import step
from ensemble.commands.terminal import SILENT, Observer, OnProgress, Terminal
from ensemble.commands.training import (
    Trained,
    TrainingPlan,
    announce,
    plan_jobs,
    print_trained,
    skip_bad_photos,
    train_run,
)
from ensemble.decision.distillation import refuse_unfinished, soft_targets_of, teachers_of_fold
from ensemble.decision.joint import mean_of_runs
from ensemble.decision.members import Ensemble, all_members, preprocessings
from ensemble.jobs import soft_targets
from ensemble.jobs.hardware import Hardware
from ensemble.jobs.job import STATUS, jobs_of
from ensemble.jobs.soft_targets import FoldTargets, SoftTargets
from ensemble.recipes.recipe_file import run_recipe
from ensemble.recipes.schema import soft_f1_warnings
from folds.errors import MaskensError, typed
from folds.run_folder import Run, has_run, load_data, load_run, refuse_other_folds, run_like, write_run_like

NEW_FOLDER = "Name a new folder: --out DIR"


@dataclass(frozen=True)
class DistilPlan:
    """The student's jobs, checked; nothing is written yet."""

    teachers: tuple[Run, ...]
    soft: SoftTargets  # of the folds that are predicted already
    missing: Mapping[int, list[Ensemble]]  # fold without soft targets -> the models of each teacher that predict them
    training: TrainingPlan
    hardware: Hardware  # of this machine, which predicts the soft targets


def plan_distillation(options: DistilOptions) -> DistilPlan:
    """Check what predicting and training need. Raises MaskensError: everything that would fail later; teachers lack a
    fold to train; the student's run was trained on other targets."""
    teachers = [load_run(run) for run in options.run]
    first = teachers[0].folder
    beside = first.with_name if first.name not in ("", "..") else first.resolve().with_name
    folder = options.out or beside(f"{first.resolve().name}-student")
    if folder.resolve() in {teacher.folder.resolve() for teacher in teachers}:
        raise MaskensError(f"--out {folder}: that is the teacher itself. {NEW_FOLDER}")
    refuse_other_folds(teachers)
    soft, views = soft_targets_of(teachers, options.tta, options.temperature, options.alpha)
    data, folds = load_data(teachers[0], options.data)
    student = run_like(teachers[0], folder, data)
    if has_run(folder):
        data, folds = load_data(student, options.data)  # it may skip photos that became unreadable since
    if student.pseudo_record.exists():
        raise MaskensError(f"{folder} keeps pseudo-labels, and a student has none. {NEW_FOLDER}")
    if any(folder.glob(f"*/fold*/{STATUS}")):  # a job has begun, be it in its first epoch in another process
        kept = soft_targets.load_soft_targets(student, data, folds)
        if kept is None:
            raise MaskensError(f"{folder} has jobs trained on labels alone. {NEW_FOLDER}")
        if kept.hash != soft.hash:
            raise MaskensError(
                f"{folder} has jobs trained on other soft targets: {kept.description}; now {soft.description}. "
                f"Resume with: maskens train --run {typed(folder)}; or name a new folder: --out DIR"
            )
        soft = kept
    else:
        kept = soft_targets.read_soft_targets(student)
        soft = kept if kept and kept.hash == soft.hash else soft
    training = plan_jobs(student, data, folds, options, start=teachers[0], soft=soft)
    wanted = {spec.fold for spec in training.todo}
    refuse_unfinished(teachers, wanted)
    ensembles = {fold: teachers_of_fold(teachers, views, fold) for fold in wanted}
    missing = {
        fold: found
        for fold, found in ensembles.items()
        if fold not in soft.folds or soft.folds[fold].models != _models(found)
    }
    for spec in training.todo:
        if spec.fold in missing.keys() & soft.folds.keys() and spec.job.status_file.exists():
            raise MaskensError(
                f"{folder}: {spec.job} is trained on predictions of models that were trained again since. {NEW_FOLDER}"
            )
    if training.todo:
        tasks = list(dict.fromkeys(task for teacher in teachers for task in run_recipe(teacher).soft_f1_tasks))
        warned = soft_f1_warnings(tasks, "the ensemble is less sure than the soft targets that it gives")
        training = dataclasses.replace(training, warnings=(*training.warnings, *warned))
    here = choose_hardware("auto" if options.address else options.device, options.workers)
    return DistilPlan(tuple(teachers), soft, missing, training, here)


def _models(ensembles: list[Ensemble]) -> tuple[str, ...]:
    """sha256 of each model."""
    return tuple(member.sha256 for member in all_members(ensembles))


def begin_student(planned: DistilPlan, observer: Observer = SILENT) -> TrainingPlan:
    """Write the student's run and predict its soft targets; after an interruption, the same call keeps the finished
    folds. Returns the plan whose jobs have the targets. Raises MaskensError: a photo can't be read, jobs have no
    training photos, or a model's outputs are not finite."""
    student = planned.training.run
    write_run_like(student, planned.teachers[0])
    soft = dataclasses.replace(
        planned.soft, folds={f: t for f, t in planned.soft.folds.items() if f not in planned.missing}
    )
    soft_targets.save_soft_targets(student, soft)
    training = skip_bad_photos(planned.training, observer)
    with observer.progress() as on_progress:
        for fold in planned.missing:
            found = _predicted_targets(planned, training, fold, on_progress)
            soft = dataclasses.replace(soft, folds={**soft.folds, fold: found})
            soft_targets.save_fold_targets(student, soft, fold)
    observer.note(training.skipped, "warning")
    training = dataclasses.replace(training, soft=soft)
    return training.with_jobs(lambda spec: dataclasses.replace(spec, soft=soft.only(spec.fold)))


def _predicted_targets(planned: DistilPlan, training: TrainingPlan, fold: int, on_progress: OnProgress) -> FoldTargets:
    """The predictions of the teachers' models of a fold for the people of all other folds."""
    from ensemble.data.cache import open_photos
    from ensemble.prediction.inference import InferenceSettings, predict_photos
    from ensemble.prediction.predictor import by_task

    ensembles, data, hardware = planned.missing[fold], training.data, planned.hardware
    settings = InferenceSettings(hardware, training.todo[0].cache)
    decoding = partial(on_progress, "decoding photos")
    photos = open_photos(data.photos, preprocessings(ensembles), settings.cache, hardware.decoding_threads, decoding)
    predicting = partial(on_progress, f"soft targets of fold {fold}")
    rows = soft_targets.soft_target_rows(data, training.folds, fold)
    shown = predict_photos(ensembles, photos, settings, on_predict=predicting, rows=rows)
    logits = by_task(ensembles, shown.logits)
    class_log_probs = np.stack([ensemble.joint(found) for ensemble, found in zip(ensembles, logits, strict=True)])
    files = tuple(data.files[row] for row in shown.rows)
    return FoldTargets(_models(ensembles), files, mean_of_runs(class_log_probs).astype(np.float32))


def _print(trained: Trained, options: DistilOptions, terminal: Terminal) -> None:
    print_trained(trained, terminal)
    if options.dry_run:
        return
    run = load_run(trained.run.folder)
    soft, there = soft_targets.read_soft_targets(run), [job.trained for job in jobs_of(run, run_recipe(run).tasks)]
    missing = "" if all(there) else " --allow-missing"
    passes = f"forward passes per photo: {sum(there)}" + (f", of the ensemble {soft.passes}" if soft else "")
    terminal.next(f"maskens infer --run {typed(run.folder)}{missing} --tta none   # {passes}")


@step(DistilOptions, show=_print, first="run")
def distil(options: DistilOptions, observer: Observer) -> Trained:
    """
    Returns:
        How many jobs of the student were trained, which failed and why; of a dry run the estimate.

    Raises:
        MaskensError: the training can't begin (all reasons at once), a photo can't be read, another process trains one
            of the jobs, or the disk is full.
    """
    planned = plan_distillation(options)
    plan = planned.training
    observer.say(f"student {plan.run.folder}, soft targets {planned.soft.description}")
    announce(plan, observer)
    if options.dry_run:
        plan = skip_bad_photos(plan, observer, write=False)
        return Trained(plan.run, 0, {}, plan.estimate(observer))
    return train_run(plan, options.yes, observer, begin=lambda _: begin_student(planned, observer))
