"""Training: one model per fold and task."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ensemble.backends.choose import choose_hardware
from ensemble.data.augment import build
from ensemble.jobs.completion import begun, restore, unfinished
from ensemble.jobs.hardware import Hardware, unused_gpu
from ensemble.jobs.reuse import reuse_jobs
from ensemble.jobs.seen_people import refuse_leaking_weights
from ensemble.jobs.spec import JobSpec, geometry, plan, refuse_jobs_without_photos, refuse_other_ages, select_tasks
from ensemble.jobs.teaching import PseudoLabels, SoftTargets, load_soft_targets, refuse_untaught, save_pseudo_labels
from ensemble.pipeline.inputs import DEFAULT_RUN, Folder, OnProgress, cache_folder, part_of
from ensemble.pipeline.job_options import JobOptions
from ensemble.pipeline.pseudo_labels import choose_pseudo_labels
from ensemble.recipes.loss import soft_f1_warnings
from ensemble.recipes.run_recipe import RecipeChange, bind_recipe, resolve_recipe, run_recipe
from ensemble.recipes.schema import Recipe
from ensemble.training.cost import Estimate, estimate_training, long_training
from ensemble.training.preflight import job_warnings, leave_out_unreadable, preflight, readable_again
from ensemble.training.queue import JobsDisplay, NoDisplay, fill_cache
from ensemble.training.queue import train as train_jobs
from ensemble.training.runner import Failure
from ensemble.training.tracking import check_trackers
from folds.errors import MaskensError
from folds.labels import IntArray
from folds.people import TrainData, left_out_words, named
from folds.run import Run, load_data, load_run


@dataclass(frozen=True)
class TrainOptions(JobOptions):
    """What is trained and how; the defaults are those of `maskens train` without options.

    Attributes:
        folds: None is all.
        tasks: of the recipe; empty is all.
        recipe: name or file; None takes the run's, at first `original`.
        reuse: a run whose finished jobs are taken over where the task's recipe is the same.
        pseudo: a run whose surest labels of the photos to predict are learned from too. A run keeps them.
        pseudo_min_p: least probability of such a label.
        restart: forget what these jobs have done.
    """

    folds: Collection[int] | None = None
    tasks: Sequence[str] = ()
    recipe: str | None = None
    reuse: Folder | None = None
    pseudo: Folder | None = None
    pseudo_min_p: float | None = None
    restart: bool = False


DEFAULT_OPTIONS = TrainOptions()


@dataclass(frozen=True)
class TrainingPlan:
    """The jobs of a training, checked, before the first batch."""

    run: Run
    data: TrainData
    folds: IntArray  # (people,)
    recipe: Recipe
    jobs: tuple[JobSpec, ...]
    todo: tuple[JobSpec, ...]  # those that are not finished
    hardware: Hardware
    trackers: tuple[str, ...]
    pseudo: PseudoLabels | None
    soft: SoftTargets | None
    source: Run | None  # whose finished jobs are taken over
    restart: bool
    retries: int  # of a job whose process or node is lost
    skip_bad: bool  # leave out photos that can't be read
    warnings: tuple[str, ...]

    @property
    def left_out(self) -> str:
        """What to say of photos that are left out, "" if none is."""
        if not self.data.skipped:
            return ""
        words = left_out_words(self.data.skipped, len(self.data.files))
        return f"{words}: {named(self.data.skipped)}. {self.run.skipped_file} lists them all"

    def estimate(self, on_progress: OnProgress | None = None) -> Estimate:
        """Time, memory and disk, from a short probe that leaves nothing behind."""
        probing = part_of(on_progress, "probing")
        return estimate_training(self.todo, self.data, self.folds, self.hardware, self.restart, probing)

    def long(self) -> str:
        """What to say where a machine without a GPU would be at it for hours, else ""."""
        return long_training(self.todo, self.data, self.folds, self.hardware, self.restart) or ""


@dataclass(frozen=True)
class Trained:
    """What became of a plan."""

    run: Run
    trained: int  # jobs
    failed: Mapping[tuple[str, int], Failure]  # by (task, fold)


def plan_training(run: Folder = DEFAULT_RUN, options: TrainOptions = DEFAULT_OPTIONS) -> TrainingPlan:
    """Check all that a training needs, and list its jobs.

    Raises:
        MaskensError: everything that would fail later, all at once.
    """
    loaded = load_run(Path(run))
    data, folds = load_data(loaded, Path(options.data) if options.data else None)
    soft = load_soft_targets(loaded, data, folds)
    planned = plan_jobs(loaded, data, folds, soft, options)
    if soft:
        refuse_untaught(loaded, soft, {spec.fold for spec in planned.todo})
    return planned


def plan_jobs(
    run: Run, data: TrainData, folds: IntArray, soft: SoftTargets | None, options: TrainOptions, like: Run | None = None
) -> TrainingPlan:
    """As `plan_training`, of a run that need not be written yet.

    Args:
        folds: int64 (people,).
        soft: what it learns from; None is the labels.
        like: a run whose recipe is the start where neither the run nor the options have one.

    Raises:
        MaskensError: as `plan_training`.
    """
    hardware = choose_hardware(options.device, options.workers, options.jobs, options.backend, options.address)
    trackers = tuple(dict.fromkeys(options.track))
    check_trackers(trackers)
    if options.reuse and options.restart:
        raise MaskensError("--reuse and --restart exclude each other: take finished jobs over, or do them anew.")
    source = load_run(Path(options.reuse)) if options.reuse else None
    change = RecipeChange(options.recipe, options.changes, options.weights, options.pretrained)
    recipe = resolve_recipe(run, change, source or like, build)
    tasks = select_tasks(recipe, options.tasks)
    chosen = range(run.k) if options.folds is None else sorted(options.folds)
    cache = cache_folder(options.cache, run.folder)
    if soft and options.pseudo:
        raise MaskensError(f"--pseudo: {run.folder} learns from soft targets, and photos to predict have none.")
    pseudo = choose_pseudo_labels(run, data.root, options.pseudo, options.pseudo_min_p)
    if soft and pseudo:
        raise MaskensError(f"{run.folder} keeps pseudo-labels, and a student has none. Name a new folder: --out DIR")
    if pseudo or soft:
        refuse_other_ages(recipe, tasks, "soft targets" if soft else "pseudo-labels")
    jobs = plan(run, recipe, tasks, chosen, hardware, cache, trackers, options.compile, pseudo, soft)
    warnings = [] if options.restart else restore(jobs)
    todo = jobs if options.restart else unfinished(jobs)
    if todo:
        refuse_jobs_without_photos(todo, data, folds)
        refuse_leaking_weights(todo, data, folds)
        sources = run_recipe(load_run(Path(options.pseudo))).soft_f1_tasks if options.pseudo else []
        going_on = set() if options.restart else begun(todo)
        warnings += preflight(recipe, {s.task: 0 for s in todo}, going_on, hardware.device)
        warnings += job_warnings(todo, data, folds)
        warnings += soft_f1_warnings(sources, f"{options.pseudo} is less sure of its pseudo-labels than it looks")
        warnings += filter(
            None, [unused_gpu(options.device, hardware), hardware.oversubscription, readable_again(run, data)]
        )
    return TrainingPlan(
        run=run,
        data=data,
        folds=folds,
        recipe=recipe,
        jobs=tuple(jobs),
        todo=tuple(todo),
        hardware=hardware,
        trackers=trackers,
        pseudo=pseudo,
        soft=soft,
        source=source,
        restart=options.restart,
        retries=options.retries,
        skip_bad=options.skip_bad_photos,
        warnings=tuple(warnings),
    )


def leave_out_bad_photos(
    planned: TrainingPlan, on_progress: OnProgress | None = None, write: bool = True
) -> TrainingPlan:
    """The plan without photos that can't be read, if that was asked for and a job is left to do. The first thing to do
    with it: whether another run's job is the same depends on it.

    Args:
        write: fill the cache on the way and have the run remember them; else nothing is written.

    Raises:
        MaskensError: the run has models that were trained on photos that can't be read now, jobs have nobody left to
            learn from, or a full disk.
    """
    if not (planned.skip_bad and planned.todo):
        return planned
    geometries = list(dict.fromkeys(geometry(s.recipe.tasks[s.task]) for s in planned.todo))
    cache, threads = planned.todo[0].cache, planned.hardware.decoding_threads
    opening = part_of(on_progress, "decoding photos")
    run, data = leave_out_unreadable(planned.run, planned.data, geometries, cache, threads, opening, write)
    jobs, todo = (tuple(dataclasses.replace(spec, run=run) for spec in specs) for specs in (planned.jobs, planned.todo))
    refuse_jobs_without_photos(todo, data, planned.folds)
    return dataclasses.replace(planned, run=run, data=data, jobs=jobs, todo=todo)


def reuse_finished(planned: TrainingPlan) -> tuple[TrainingPlan, int]:
    """Copy the jobs that the plan's other run has finished alike; returns (what is left, how many were copied)."""
    if planned.source is None or not planned.todo:
        return planned, 0
    bind_recipe(planned.run, planned.recipe)
    copied = reuse_jobs(planned.todo, planned.source)
    return dataclasses.replace(planned, todo=tuple(unfinished(planned.todo)), source=None), copied


def prepare(planned: TrainingPlan, on_progress: OnProgress | None = None) -> list[str]:
    """Decode the photos once for all jobs, and write the recipe into the run.

    Returns:
        What to say of faces that were to be found and were not.

    Raises:
        MaskensError: a photo that can't be read, a full disk.
    """
    if planned.pseudo:
        save_pseudo_labels(planned.run, planned.pseudo)
    notes = fill_cache(planned.todo, planned.data, planned.hardware, part_of(on_progress, "decoding photos"))
    bind_recipe(planned.run, planned.recipe)
    return notes


def run_plan(planned: TrainingPlan, display: JobsDisplay | None = None) -> Trained:
    """Train the jobs that are left. A job that fails stops no other.

    Args:
        planned: prepared.
        display: is shown the jobs' states a few times a second.

    Raises:
        MaskensError: another process is at one of the jobs.
    """
    if not planned.todo:
        return Trained(planned.run, 0, {})
    failures = train_jobs(
        planned.todo,
        planned.data,
        planned.folds,
        planned.jobs,
        planned.hardware,
        display or NoDisplay(),
        planned.restart,
        planned.retries,
    )
    failed = {(planned.todo[place].task, planned.todo[place].fold): why for place, why in failures.items()}
    return Trained(planned.run, len(planned.todo) - len(failed), failed)


def train(
    run: Folder = DEFAULT_RUN,
    options: TrainOptions = DEFAULT_OPTIONS,
    *,
    display: JobsDisplay | None = None,
    on_progress: OnProgress | None = None,
) -> Trained:
    """Train one model per fold and task; finished jobs are kept, interrupted ones go on.

    Args:
        display: as of `run_plan`.
        on_progress: told of the photos that are decoded.

    Raises:
        MaskensError: as `plan_training` and `run_plan`.
    """
    planned, _ = reuse_finished(leave_out_bad_photos(plan_training(run, options), on_progress))
    prepare(planned, on_progress)
    return run_plan(planned, display)
