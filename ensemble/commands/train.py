"""maskens train."""

from __future__ import annotations

import dataclasses
import math
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ensemble.commands.options import TrainOptions
from ensemble.commands.step import step
from ensemble.commands.terminal import Observer, Terminal
from ensemble.commands.training import (
    Trained,
    TrainingPlan,
    announce,
    plan_jobs,
    print_trained,
    skip_bad_photos,
    train_run,
)
from ensemble.jobs import soft_targets
from ensemble.jobs.card import read_card
from ensemble.jobs.finished import reuse_jobs, unfinished
from ensemble.jobs.hardware import Hardware
from ensemble.jobs.job import jobs_of
from ensemble.jobs.oof import whole_folds
from ensemble.jobs.soft_targets import PseudoLabels
from ensemble.models.engine import installed_engines
from ensemble.models.kept_graphs import KeptGraph
from ensemble.recipes.recipe_file import bind_recipe, run_recipe
from ensemble.recipes.schema import soft_f1_warnings
from ensemble.training.deadline import Deadline, Timetable, describe_folds, find_deadline, save_deadline, trained_epochs
from folds.errors import MaskensError, typed
from folds.layout import find_eval
from folds.people import PhotoSet
from folds.ranges import FULL
from folds.run_folder import MODEL, Run, load_data, load_run

if TYPE_CHECKING:
    from ensemble.training.cost import Estimate

PSEUDO_MIN_P = 0.95


def plan_training(options: TrainOptions) -> TrainingPlan:
    """Check what training needs, and list its jobs. Raises MaskensError: everything that would fail later, all at
    once."""
    run = load_run(options.run[0])
    data, folds = load_data(run, options.data)
    soft = soft_targets.load_soft_targets(run, data, folds)
    source = load_run(options.reuse) if options.reuse else None
    if source and options.restart:
        raise MaskensError("--reuse and --restart exclude each other: take finished jobs over, or train them again.")
    if soft and options.pseudo:
        raise MaskensError(f"--pseudo: {run.folder} is trained on soft targets, and eval photos have none.")
    pseudo = choose_pseudo_labels(run, data.root, options.pseudo, options.pseudo_min_p)
    found = plan_jobs(run, data, folds, options, start=source, pseudo=pseudo, soft=soft)
    if soft:
        soft_targets.refuse_missing_targets(run, soft, {spec.fold for spec in found.todo})
    if options.pseudo and found.todo:
        sources = run_recipe(load_run(options.pseudo)).soft_f1_tasks
        warned = soft_f1_warnings(sources, f"{options.pseudo} is less sure of its pseudo-labels than it looks")
        found = dataclasses.replace(found, warnings=(*found.warnings, *warned))
    return found


def choose_pseudo_labels(run: Run, root: Path, teacher: Path | None, least: float | None) -> PseudoLabels | None:
    """Pseudo-labels by the run `teacher` with a probability of `least` or more; without a teacher, the run's own.
    Raises MaskensError: the run's jobs were trained on other pseudo-labels."""
    kept = soft_targets.load_pseudo_labels(run, root)
    if teacher is None:
        if least is not None:
            raise MaskensError("--pseudo-min-p needs --pseudo RUN.")
        return kept
    from ensemble.decision.distillation import make_pseudo_labels

    min_p = PSEUDO_MIN_P if least is None else least
    if not 0.5 < min_p <= 1:
        raise MaskensError(f"--pseudo-min-p {min_p:g}: expected more than 0.5, at most 1.")
    labels = make_pseudo_labels(load_run(teacher), run, root, min_p)
    if run.jobs_on_disk() and labels.hash != (kept.hash if kept else ""):
        raise MaskensError(
            f"{run.folder} holds models that were trained with {'other' if kept else 'no'} pseudo-labels. "
            f"Begin a new run: maskens folds --run NEW --folds-file {typed(run.folds_file)}"
        )
    return labels


def reuse_finished(plan: TrainingPlan, source: Run) -> tuple[TrainingPlan, int]:
    """Copy the same jobs that another run has finished; returns (the plan of what is left, how many were copied)."""
    bind_recipe(plan.run, plan.recipe)
    copied = reuse_jobs(plan.todo, source)
    return dataclasses.replace(plan, todo=tuple(unfinished(plan.todo))), copied


def make_timetable(plan: TrainingPlan, deadline: Deadline, estimate: Estimate, starting: float) -> Timetable:
    """The timetable of a run's jobs that are left to do. `starting`: seconds that this command took to start; `infer`
    is expected to take as long. Raises MaskensError: eval photos can't be predicted."""
    from ensemble.training.cost import job_times, prediction_time

    root = plan.data.root
    found = find_eval(root, plan.options.skip_bad_photos)
    photos = found.photos if found else PhotoSet(root, [], "")
    infer = prediction_time(estimate, plan.recipe, photos, plan.todo[0].cache, starting)
    complete = {*range(plan.run.k), FULL} - {spec.fold for spec in plan.todo}
    complete -= {job.fold for job in jobs_of(plan.run, plan.recipe.tasks, complete) if not job.complete}
    times = job_times(estimate, plan.queue, plan.hardware, plan.restart)
    return Timetable(times, deadline.timestamp, infer, complete, plan.hardware.jobs, estimate.decode)


def refuse_too_short(timetable: Timetable, hours: float, began: float) -> None:
    """Raise MaskensError if `hours` from `began`, in seconds since 1970, are too few for a single fold."""
    from ensemble.reporting.tables import time_text

    if not timetable.too_short:
        return
    fold, rest = timetable.least_seconds()
    rest += time.time() - began
    least = math.ceil((fold + rest) / 36) / 100
    raise MaskensError(
        f"--hours {hours:g} is too short: at least {least:.2f} h ({time_text(fold + rest)}), {time_text(fold)} for one "
        f"epoch of one fold and {time_text(rest)} for starting, decoding photos and inference."
    )


def _print(trained: Trained, options: TrainOptions, terminal: Terminal) -> None:
    print_trained(trained, terminal)
    if trained.cut:
        terminal.say(f"deadline: {trained.cut}", "yellow")
    if not options.dry_run:
        run = load_run(trained.run.folder)
        whole, missing = whole_folds(run)
        uses = f"infer --run {typed(run.folder)}{' --allow-missing' if missing else ''}"
        terminal.next(f"maskens {uses if whole else f'train --run {typed(run.folder)}'}")


@step(TrainOptions, show=_print, first="run")
def train(options: TrainOptions, observer: Observer) -> Trained:
    """
    Returns:
        How many jobs were trained, which failed and why; of a dry run the estimate.

    Raises:
        MaskensError: the training can't begin (all reasons at once), too few hours for one epoch of one fold, another
            process trains one of the jobs, or the disk is full.
    """
    began = time.time()
    if options.graphs and installed_engines() == ["torch"]:
        raise MaskensError("--graphs needs another engine than torch. Install: pip install 'maskens[onnx]'")
    done = train_from(began, options, observer)
    if options.graphs and not options.dry_run:
        keep_graphs_of(done.run, observer)
    return done


def keep_graphs_of(run: Run, observer: Observer) -> None:
    """Keep the graphs of the run's finished models that have none."""
    from ensemble.models.engine_choice import keep_graphs

    every = jobs_of(run, run_recipe(run).tasks, [*range(run.k), FULL])
    jobs = [job for job in every if job.complete and not job.unfinished]
    models = [KeptGraph(job.model, job.verified_sha256(MODEL), read_card(job.model)) for job in jobs]
    with observer.progress() as on_progress:
        notes = keep_graphs(models, Hardware("cpu", None).job_threads, partial(on_progress, "keeping graphs"))
    observer.lines(notes)


def train_from(began: float, options: TrainOptions, observer: Observer) -> Trained:
    """Train; --hours counts from `began`, in seconds since 1970."""
    entered = time.time()
    plan = plan_training(options)
    return train_planned(plan, options, began, time.time() - entered, observer)


def train_planned(
    plan: TrainingPlan, options: TrainOptions, began: float, starting: float, observer: Observer
) -> Trained:
    """Train jobs that are checked.

    Args:
        began: when --hours began, in seconds since 1970.
        starting: seconds that this command took to start.
    """
    announce(plan, observer)
    plan = skip_bad_photos(plan, observer, write=not options.dry_run)
    if plan.todo:
        observer.note(plan.skipped, "warning")
        if plan.pseudo:
            from ensemble.reporting import tables

            observer.print(tables.pseudo_table(plan.pseudo))
            observer.say(tables.pseudo_line(plan.pseudo))
        if plan.soft:
            observer.say(f"soft targets {plan.soft.description}")
    if options.reuse and plan.todo and not options.dry_run:
        plan, copied = reuse_finished(plan, load_run(options.reuse))
        observer.say(f"{copied} finished jobs are taken from {options.reuse}")
    if options.hours is not None and plan.todo:
        return _train_until(plan, options, options.hours, began, starting, observer)
    if options.dry_run:
        return Trained(plan.run, 0, {}, plan.estimate(observer))
    save_deadline(plan.run, None)
    return train_run(plan, options.yes, observer)


def _train_until(
    plan: TrainingPlan, options: TrainOptions, hours: float, began: float, starting: float, observer: Observer
) -> Trained:
    """Train until a deadline: the run's own if that was set with the same --hours, else `hours` after `began`. The
    arguments of `train_planned`."""
    before = None if options.restart else find_deadline(plan.run, hours)
    deadline = before or Deadline.after(hours, began)
    estimate = timetable = None
    if not before or deadline.timestamp > time.time():
        estimate = plan.estimate(observer)
        assert estimate
        timetable = make_timetable(plan, deadline, estimate, starting)
        if not before:
            refuse_too_short(timetable, hours, began)
    if timetable is None or timetable.too_short:
        observer.say(
            f"the deadline {deadline} of --hours {hours:g} leaves no time for another fold: nothing more is trained. "
            "Another --hours gives more time; without it all that is left is trained."
        )
        return Trained(plan.run, 0, {}, cut=describe_folds(trained_epochs(plan.jobs)))
    planned = describe_folds(timetable.forecast())
    observer.say(f"deadline {deadline}: {planned or 'enough time for all epochs'}")
    if options.dry_run:
        return Trained(plan.run, 0, {}, estimate)
    save_deadline(plan.run, deadline)
    return train_run(plan, True, observer, timetable=timetable)
