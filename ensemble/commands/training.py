"""What train, distil, sweep and run share: the plan of a training, its checks, and how it is carried out.

What imports torch is imported once the run, the data and the recipe are checked: a wrong name is refused at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ensemble.backends.choose import choose_hardware
from ensemble.commands.options import Training, TrainingOfRun, cache_folder
from ensemble.commands.terminal import SILENT, Observer, Terminal, fail
from ensemble.jobs import soft_targets
from ensemble.jobs.card import refuse_leaking_weights
from ensemble.jobs.finished import begun, full_epochs, is_done, job_epochs, once_each, restore, reuse_among, unfinished
from ensemble.jobs.hardware import Hardware, unused_gpu
from ensemble.jobs.soft_targets import PseudoLabels, SoftTargets
from ensemble.jobs.spec import JobSpec, plan, refuse_jobs_without_photos, refuse_other_ages, select_tasks
from ensemble.recipes.recipe_file import bind_recipe, resolve_recipe
from ensemble.recipes.schema import Recipe
from ensemble.training.deadline import Timetable, describe_folds, trained_epochs
from folds.errors import MaskensError, Stopped, typed
from folds.labels import IntArray
from folds.people import TrainData, count_skipped, describe_skipped
from folds.ranges import FULL, fold_name, parse_folds
from folds.run_folder import Run

if TYPE_CHECKING:
    from ensemble.training.cost import Estimate
    from ensemble.training.queue import Failure


@dataclass(frozen=True)
class TrainingPlan:
    """Jobs of one run, or of several on the same folds, checked before the first batch."""

    options: Training
    data: TrainData
    folds: IntArray  # (people,)
    jobs: tuple[JobSpec, ...]
    todo: tuple[JobSpec, ...]  # those that are not finished, in the order of training
    hardware: Hardware
    warnings: tuple[str, ...]
    restart: bool = False
    soft: SoftTargets | None = None  # of all folds

    @property
    def run(self) -> Run:
        """The run; of several the first."""
        return self.jobs[0].run

    @property
    def recipe(self) -> Recipe:
        return self.jobs[0].recipe

    @property
    def pseudo(self) -> PseudoLabels | None:
        return self.jobs[0].pseudo

    @property
    def queue(self) -> list[JobSpec]:
        """The jobs to train; of jobs that are the same in several runs, the first."""
        return once_each(self.todo)[0]

    @property
    def skipped(self) -> list[str]:
        """A warning, if photos are skipped."""
        skipped = self.data.skipped
        words = f"{count_skipped(skipped, len(self.data.files))}: {describe_skipped(skipped)}"
        return [f"{words}. {self.run.skipped_file} lists them all"] if skipped else []

    def with_jobs(self, change: Callable[[JobSpec], JobSpec]) -> TrainingPlan:
        """A copy with each job changed."""
        return dataclasses.replace(self, jobs=tuple(map(change, self.jobs)), todo=tuple(map(change, self.todo)))

    def estimate(self, observer: Observer = SILENT) -> Estimate | None:
        """Time, memory and disk, from a short probe that leaves nothing behind; None if there is nothing to do."""
        if not self.todo:
            return None
        from ensemble.training.cost import estimate_training

        with observer.progress() as on_progress:
            probing = partial(on_progress, "probing")
            return estimate_training(self.queue, self.data, self.folds, self.hardware, self.restart, probing)


@dataclass(frozen=True)
class Trained:
    """The result of a training of one run."""

    run: Run
    trained: int  # jobs
    failed: Mapping[tuple[str, int], Failure]  # by (task, fold)
    estimate: Estimate | None = None  # of a dry run, if a job is left to do
    cut: str = ""  # by a deadline: folds with fewer epochs than the recipe's, and those not begun


def plan_jobs(
    run: Run,
    data: TrainData,
    folds: IntArray,
    options: TrainingOfRun,
    *,
    start: Run | None = None,
    pseudo: PseudoLabels | None = None,
    soft: SoftTargets | None = None,
) -> TrainingPlan:
    """Check what training needs, and list the jobs of a run that need not be written yet.

    Args:
        folds: int64 (people,).
        start: the run whose recipe is taken where neither the run nor the options have one.
        soft: targets in place of the labels.

    Raises:
        MaskensError: everything that would fail later, all at once.
    """
    chosen = parse_folds(options.fold, run.k)
    changes, weights = options.change or (), options.weights or ()
    recipe = resolve_recipe(run, options.recipe, changes, weights, not options.no_pretrained, start)
    tasks = select_tasks(recipe, options.task or ())
    extra_targets = "soft targets" if soft else "pseudo-labels" if pseudo else ""
    if FULL in chosen:
        check_full(run, recipe, tasks, chosen, extra_targets)
    hardware, trackers = hardware_and_trackers(options)
    cache = cache_folder(options.cache, run.folder)
    if extra_targets:
        refuse_other_ages(recipe, tasks, extra_targets)
    jobs = plan(run, recipe, tasks, chosen, hardware, cache, trackers, options.compile_models, pseudo, soft)
    todo, warnings = check_jobs(jobs, data, folds, options.device, hardware, options.restart)
    planned = tuple(jobs), tuple(todo), hardware, tuple(warnings)
    return TrainingPlan(options, data, folds, *planned, options.restart, soft)


def check_full(run: Run, recipe: Recipe, tasks: Sequence[str], chosen: Sequence[int], extra_targets: str) -> None:
    """Raise MaskensError if the model on everybody can't be trained: its targets or initial weights are those of single
    folds, or no finished fold gives its number of epochs. `extra_targets`: soft targets, pseudo-labels or ""."""
    if extra_targets:
        raise MaskensError(
            f"--fold full: {extra_targets} exist for single folds only, made by models that never saw the fold's "
            "people. Train it in a run without them."
        )
    if own := [task for task in tasks if recipe.tasks[task].weights_of_folds]:
        raise MaskensError(
            f"--fold full: {', '.join(own)} start from weights of each fold, and the model on everybody has no fold. "
            "Train it in a run with other initial weights."
        )
    without = [task for task in tasks if chosen == [FULL] and not full_epochs(run, task)]
    if without:
        raise MaskensError(
            f"--fold full: no fold of {', '.join(without)} is finished, and the folds say how many epochs are best. "
            f"Train folds first: maskens train --run {typed(run.folder)} --fold 0..{run.k - 1}"
        )


def other_epochs(jobs: Sequence[JobSpec]) -> list[str]:
    """A warning for each finished model on everybody whose number of epochs is no longer that of the folds."""
    found = []
    for spec in jobs:
        if spec.fold == FULL and is_done(spec) and (trained := spec.job.status().epoch) != job_epochs(spec):
            found.append(
                f"{spec.job} was trained for {trained} epochs, and the folds' best epochs now say {job_epochs(spec)}; "
                "--restart trains it again"
            )
    return found


def hardware_and_trackers(options: Training) -> tuple[Hardware, tuple[str, ...]]:
    """Where the jobs run and what logs them. Raises MaskensError: either is not available."""
    from ensemble.training.tracking import check_trackers

    trackers = tuple(dict.fromkeys(options.track or ()))
    check_trackers(trackers)
    hardware = choose_hardware(options.device, options.workers, options.jobs, options.backend, options.address)
    return hardware, trackers


def check_jobs(
    jobs: Sequence[JobSpec], data: TrainData, folds: IntArray, device: str, hardware: Hardware, restart: bool = False
) -> tuple[list[JobSpec], list[str]]:
    """Check jobs with one recipe; returns (those that are not finished, warnings).

    Args:
        folds: int64 (people,).
        device: as asked for: auto, cpu or cuda.

    Raises:
        MaskensError: a job can't be trained.
    """
    from ensemble.training.preflight import job_warnings, preflight

    warnings = [] if restart else [*restore(jobs), *other_epochs(jobs)]
    todo = list(jobs) if restart else unfinished(jobs)
    if todo:
        refuse_jobs_without_photos(todo, data, folds)
        refuse_leaking_weights(todo, data, folds)
        tasks = dict.fromkeys(s.task for s in todo)
        warnings += preflight(todo[0].recipe, tasks, set() if restart else begun(todo), hardware.device)
        warnings += job_warnings(todo, data, folds)
        warnings += filter(None, [unused_gpu(device, hardware), hardware.oversubscription])
    return todo, warnings


def announce(plan: TrainingPlan, observer: Observer) -> None:
    """Report what is finished already, and the warnings."""
    if len(plan.todo) < len(plan.jobs):
        finished = len(plan.jobs) - len(plan.todo)
        cut = describe_folds(trained_epochs(filter(is_done, plan.jobs)))
        fewer = f", with fewer epochs than the recipe's ({cut})" if cut else ""
        observer.say(f"{finished} of {len(plan.jobs)} jobs are finished already{fewer}; --restart trains them again")
    observer.note(plan.warnings, "warning")


def skip_bad_photos(plan: TrainingPlan, observer: Observer = SILENT, write: bool = True) -> TrainingPlan:
    """The plan without unreadable photos, if --skip-bad-photos is given and a job is left to do. To be called before
    another run's jobs are copied, as they are identified by the photos skipped. Only with `write` it fills the cache
    and stores the list in the runs. Raises MaskensError: a run has models that were trained on photos that can't be
    read now, jobs have no training photos, or the disk is full."""
    if not (plan.options.skip_bad_photos and plan.todo):
        return plan
    from ensemble.training.preflight import remember_skipped, skip_unreadable_photos

    preprocessings = list(dict.fromkeys(s.task_recipe.preprocessing for s in plan.todo))
    runs = [*{s.run.folder: s.run for s in plan.jobs}.values()]
    first = next((run for run in runs if run.jobs_on_disk()), runs[0])
    cache, threads = plan.todo[0].cache, plan.hardware.decoding_threads
    with observer.progress() as on_progress:
        opening = partial(on_progress, "decoding photos")
        known, data = skip_unreadable_photos(first, plan.data, preprocessings, cache, threads, opening, write)
    for run in runs:
        if write and run is not first and run.skipped_hash != known.skipped_hash:
            remember_skipped(run, data.skipped)
    refuse_jobs_without_photos(plan.todo, data, plan.folds)

    def knowing(spec: JobSpec) -> JobSpec:
        return dataclasses.replace(spec, run=dataclasses.replace(spec.run, skipped_hash=known.skipped_hash))

    return dataclasses.replace(plan.with_jobs(knowing), data=data)


def carry_out(
    plan: TrainingPlan,
    title: str,
    yes: bool,
    observer: Observer,
    begin: Callable[[TrainingPlan], TrainingPlan],
    timetable: Timetable | None = None,
) -> tuple[TrainingPlan, list[tuple[JobSpec, Failure]]]:
    """Ask before hours of work, begin, decode the photos once for all jobs, write the recipe into each run, and train.
    A job that fails stops no other.

    Args:
        yes: don't ask.
        begin: writes what the jobs need; returns the plan of what is left to do.
        timetable: of the jobs of one run that has a deadline.

    Returns:
        (the plan that was begun, each job that failed and why).

    Raises:
        MaskensError: a photo can't be read, the disk is full, another process trains one of the jobs.
        Stopped: by Ctrl-C or SIGTERM, once the running jobs have saved.
    """
    from ensemble.training import queue
    from ensemble.training.cost import long_training

    if plan.todo and not yes:
        args = (plan.queue, plan.data, plan.folds, plan.hardware, plan.restart)
        observer.confirm(lambda: long_training(*args), "timing a batch of each model")
    plan = begin(plan)
    todo, later = once_each(plan.todo)
    if not todo:
        return plan, []
    with observer.progress() as on_progress:
        notes = queue.fill_cache(todo, plan.data, plan.hardware, partial(on_progress, "decoding photos"))
    observer.note(notes)
    for spec in {s.run.folder: s for s in plan.jobs}.values():
        bind_recipe(spec.run, spec.recipe)
    copied_later = [s.job for s in later]
    shown = [s for s in plan.jobs if s.job not in copied_later]
    runs = [s.run.folder.name for s in shown]
    with observer.jobs(title, runs if len(set(runs)) > 1 else ()) as display:
        try:
            retries = plan.options.retries
            failures = queue.train(
                todo, plan.data, plan.folds, shown, plan.hardware, display, plan.restart, retries, timetable
            )
        except Stopped:
            reuse_among(plan.todo, plan.jobs)
            raise
        reuse_among(plan.todo, plan.jobs)
    return plan, [(todo[place], failure) for place, failure in failures.items()]


def train_run(
    plan: TrainingPlan,
    yes: bool,
    observer: Observer,
    begin: Callable[[TrainingPlan], TrainingPlan] | None = None,
    timetable: Timetable | None = None,
) -> Trained:
    """Train the jobs of one run by `carry_out`; its arguments and errors."""
    from ensemble.training.tracking import where_to_look

    def begin_training(plan: TrainingPlan) -> TrainingPlan:
        if not plan.todo:
            return plan
        plan = begin(plan) if begin else plan
        if plan.pseudo:
            soft_targets.save_pseudo_labels(plan.run, plan.pseudo)
        for line in where_to_look(plan.jobs[0].track, plan.run.folder):
            observer.say(f"next, while it trains: {line}", "dim", wrap=False)
        return plan

    title = f"maskens train, {plan.run.folder}, recipe {plan.recipe.name}"
    plan, failures = carry_out(plan, title, yes, observer, begin_training, timetable)
    failed = {(spec.task, spec.fold): failure for spec, failure in failures}
    cut = describe_folds(trained_epochs(plan.jobs)) if timetable else ""
    return Trained(plan.run, len(plan.todo) - len(unfinished(plan.todo)), failed, cut=cut)


def print_estimate(estimate: Estimate | None, terminal: Terminal) -> None:
    """Print the estimate of a dry run, if a job is left to do."""
    if estimate:
        from ensemble.reporting import tables

        terminal.print(tables.estimate_table(estimate))
        terminal.lines(tables.estimate_lines(estimate), "bold")
        terminal.say("measured on a few batches, with nothing else running; nothing was written", "dim")


def exit_if_failed(failed: Mapping[str, Failure], trained: int) -> None:
    """If jobs failed, print why and exit with 1 if one crashed, else with 2. `trained` is how many did not fail."""
    if failed:
        lines = [f"  - {name}: {failure.message}" for name, failure in failed.items()]
        crashed = any(failure.crashed for failure in failed.values())
        headline = f"{len(failed)} of {trained + len(failed)} jobs failed:"
        fail("\n".join([headline, *lines]), code=1 if crashed else 2)


def print_trained(done: Trained, terminal: Terminal) -> None:
    """Print the result of a training of one run; exit with 1 or 2 if a job failed."""
    print_estimate(done.estimate, terminal)
    exit_if_failed({f"{task} {fold_name(fold)}": why for (task, fold), why in done.failed.items()}, done.trained)
