"""maskens train; and how the jobs of train, distil and sweep are checked, estimated and run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar

import typer

from ensemble.commands.options import (
    DEFAULT_RUNS,
    AddressOption,
    BackendOption,
    CacheOption,
    CompileOption,
    DataOption,
    DeviceOption,
    DryOption,
    FoldOption,
    JobsOption,
    NoPretrainedOption,
    QuietOption,
    RestartOption,
    RetriesOption,
    RunOption,
    SetOption,
    SkipBadOption,
    TaskOption,
    TrackOption,
    WeightsOption,
    WorkersOption,
    YesOption,
    cache_folder,
)
from ensemble.commands.step import step
from ensemble.commands.terminal import SILENT, Observer, Terminal, fail
from folds.errors import MaskensError, typed

if TYPE_CHECKING:
    from ensemble.jobs.hardware import Hardware
    from ensemble.jobs.soft_targets import PseudoLabels, SoftTargets
    from ensemble.jobs.spec import JobSpec
    from ensemble.recipes.schema import Recipe
    from ensemble.training.cost import Estimate
    from ensemble.training.runner import Failure
    from folds.labels import IntArray
    from folds.people import TrainData
    from folds.run_folder import Run

PSEUDO_MIN_P = 0.95


@dataclass(frozen=True)
class Options:
    """What is trained and how."""

    fold: FoldOption = "all"
    task: TaskOption = None
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="NAME|FILE",
            envvar="MASKENS_RECIPE",
            help="A shipped recipe (see `maskens recipes`) or a TOML file. The run remembers it; at first original.",
        ),
    ] = None
    change: SetOption = None
    weights: WeightsOption = None
    no_pretrained: NoPretrainedOption = False
    reuse: Annotated[
        Path | None,
        typer.Option("--reuse", metavar="RUN", help="Copy jobs that this run has finished with the same task recipe."),
    ] = None
    pseudo: Annotated[
        Path | None,
        typer.Option(
            "--pseudo",
            metavar="RUN",
            help="Also learn from the photos to predict that this run is sure of; docs/pseudo.md.",
        ),
    ] = None
    pseudo_min_p: Annotated[
        float | None,
        typer.Option("--pseudo-min-p", metavar="P", help="Least probability of such a label, 0.95 by default."),
    ] = None
    restart: RestartOption = False
    jobs: JobsOption = None
    backend: BackendOption = None
    address: AddressOption = None
    retries: RetriesOption = 2
    track: TrackOption = None
    compile_models: CompileOption = False
    skip_bad_photos: SkipBadOption = False
    cache: CacheOption = ""
    dry_run: DryOption = False
    yes: YesOption = False
    run: RunOption = DEFAULT_RUNS
    data: DataOption = None
    device: DeviceOption = "auto"
    workers: WorkersOption = None
    quiet: QuietOption = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Jobs of one run, or of several on the same folds, checked before the first batch."""

    data: TrainData
    folds: IntArray  # (people,)
    jobs: tuple[JobSpec, ...]
    todo: tuple[JobSpec, ...]  # those that are not finished, in the order of training
    hardware: Hardware
    restart: bool = False
    retries: int  # of a job whose process or node is lost
    skip_bad: bool  # leave out photos that can't be read
    warnings: tuple[str, ...]

    @property
    def queue(self) -> list[JobSpec]:
        """The jobs to train: of those that come out the same in several runs the first."""
        from ensemble.jobs.finished import once_each

        return once_each(self.todo)[0]

    @property
    def shown(self) -> list[JobSpec]:
        """The jobs to follow, run by run: all but those that come from another run."""
        from ensemble.jobs.finished import once_each

        shared = {(s.run.folder, s.task, s.fold) for s in once_each(self.todo)[1]}
        return [s for s in self.jobs if (s.run.folder, s.task, s.fold) not in shared]

    def with_jobs(self, change: Callable[[JobSpec], JobSpec], **more: Any) -> Self:
        """The plan with each job changed so, and other fields as given."""
        jobs, todo = (tuple(map(change, specs)) for specs in (self.jobs, self.todo))
        return dataclasses.replace(self, jobs=jobs, todo=todo, **more)

    def long(self) -> str:
        """What to say where a machine without a GPU would be at it for hours, else ""."""
        from ensemble.training.cost import long_training

        return long_training(self.queue, self.data, self.folds, self.hardware, self.restart) or ""

    def estimate(self, observer: Observer = SILENT) -> Estimate | None:
        """Time, memory and disk, from a short probe that leaves nothing behind; None if there is nothing to do."""
        from ensemble.training.cost import estimate_training

        if not self.todo:
            return None
        with observer.progress() as on_progress:
            probing = partial(on_progress, "probing")
            return estimate_training(self.queue, self.data, self.folds, self.hardware, self.restart, probing)


AnyPlan = TypeVar("AnyPlan", bound=Plan)


@dataclass(frozen=True, kw_only=True)
class TrainingPlan(Plan):
    """The jobs of one run."""

    soft: SoftTargets | None  # of all folds

    @property
    def run(self) -> Run:
        return self.jobs[0].run

    @property
    def recipe(self) -> Recipe:
        return self.jobs[0].recipe

    @property
    def pseudo(self) -> PseudoLabels | None:
        return self.jobs[0].pseudo

    @property
    def left_out(self) -> list[str]:
        """What to say of photos that are left out."""
        from folds.people import count_skipped, describe_skipped

        if not self.data.skipped:
            return []
        words = count_skipped(self.data.skipped, len(self.data.files))
        return [f"{words}: {describe_skipped(self.data.skipped)}. {self.run.skipped_file} lists them all"]


@dataclass(frozen=True)
class Trained:
    """What became of a plan."""

    run: Run
    trained: int  # jobs
    failed: Mapping[tuple[str, int], Failure]  # by (task, fold)
    estimate: Estimate | None = None  # of a dry run, if a job is left to do


def plan_training(options: Options) -> TrainingPlan:
    """Check all that a training needs, and list its jobs.

    Raises:
        MaskensError: everything that would fail later, all at once.
    """
    from ensemble.jobs.soft_targets import load_soft_targets, refuse_untaught
    from folds.run_folder import load_data, load_run

    run = load_run(options.run[0])
    data, folds = load_data(run, options.data)
    soft = load_soft_targets(run, data, folds)
    plan = plan_jobs(run, data, folds, soft, options)
    if soft:
        refuse_untaught(run, soft, {spec.fold for spec in plan.todo})
    return plan


def plan_jobs(
    run: Run, data: TrainData, folds: IntArray, soft: SoftTargets | None, options: Options, like: Run | None = None
) -> TrainingPlan:
    """As `plan_training`, of a run that need not be written yet.

    Args:
        folds: int64 (people,).
        soft: what it learns from; None is the labels.
        like: a run whose recipe is the start where neither the run nor the options have one.

    Raises:
        MaskensError: as `plan_training`.
    """
    from ensemble.backends.choose import choose_hardware
    from ensemble.jobs.card import refuse_leaking_weights
    from ensemble.jobs.finished import begun, restore, unfinished
    from ensemble.jobs.hardware import unused_gpu
    from ensemble.jobs.spec import plan, refuse_jobs_without_photos, refuse_other_ages, select_tasks
    from ensemble.recipes.recipe_file import resolve_recipe, run_recipe
    from ensemble.recipes.schema import soft_f1_warnings
    from ensemble.training.preflight import job_warnings, preflight, readable_again
    from ensemble.training.tracking import check_trackers
    from folds.ranges import parse_folds
    from folds.run_folder import load_run

    chosen = parse_folds(options.fold, run.k)
    hardware = choose_hardware(options.device, options.workers, options.jobs, options.backend, options.address)
    trackers = tuple(dict.fromkeys(options.track or ()))
    check_trackers(trackers)
    if options.reuse and options.restart:
        raise MaskensError("--reuse and --restart exclude each other: take finished jobs over, or do them anew.")
    source = load_run(options.reuse) if options.reuse else None
    changes, weights, pretrained = options.change or (), options.weights or (), not options.no_pretrained
    recipe = resolve_recipe(run, options.recipe, changes, weights, pretrained, source or like)
    tasks = select_tasks(recipe, options.task or ())
    cache = cache_folder(options.cache, run.folder)
    if soft and options.pseudo:
        raise MaskensError(f"--pseudo: {run.folder} learns from soft targets, and photos to predict have none.")
    pseudo = choose_pseudo_labels(run, data.root, options.pseudo, options.pseudo_min_p)
    if soft and pseudo:
        raise MaskensError(f"{run.folder} keeps pseudo-labels, and a student has none. Name a new folder: --out DIR")
    if pseudo or soft:
        refuse_other_ages(recipe, tasks, "soft targets" if soft else "pseudo-labels")
    jobs = plan(run, recipe, tasks, chosen, hardware, cache, trackers, options.compile_models, pseudo, soft)
    warnings = [] if options.restart else restore(jobs)
    todo = jobs if options.restart else unfinished(jobs)
    if todo:
        refuse_jobs_without_photos(todo, data, folds)
        refuse_leaking_weights(todo, data, folds)
        sources = run_recipe(load_run(options.pseudo)).soft_f1_tasks if options.pseudo else []
        going_on = set() if options.restart else begun(todo)
        warnings += preflight(recipe, {s.task: 0 for s in todo}, going_on, hardware.device)
        warnings += job_warnings(todo, data, folds)
        warnings += soft_f1_warnings(sources, f"{options.pseudo} is less sure of its pseudo-labels than it looks")
        warnings += filter(
            None, [unused_gpu(options.device, hardware), hardware.oversubscription, readable_again(run, data)]
        )
    return TrainingPlan(
        data=data,
        folds=folds,
        jobs=tuple(jobs),
        todo=tuple(todo),
        hardware=hardware,
        restart=options.restart,
        retries=options.retries,
        skip_bad=options.skip_bad_photos,
        warnings=tuple(warnings),
        soft=soft,
    )


def choose_pseudo_labels(run: Run, root: Path, teacher: Path | None, least: float | None) -> PseudoLabels | None:
    """The pseudo-labels of the run that is named, or those that this run keeps.

    Args:
        root: of the data.
        teacher: the run whose labels are learned from; None: those that are kept, if there are any.
        least: probability of such a label.

    Raises:
        MaskensError: others than those that the run's jobs have learned from.
    """
    from ensemble.decision.distillation import make_pseudo_labels
    from ensemble.jobs.soft_targets import load_pseudo_labels
    from folds.run_folder import load_run

    kept = load_pseudo_labels(run, root)
    if teacher is None:
        if least is not None:
            raise MaskensError("--pseudo-min-p goes with --pseudo RUN.")
        return kept
    min_p = PSEUDO_MIN_P if least is None else least
    if not 0.5 < min_p <= 1:
        raise MaskensError(f"--pseudo-min-p {min_p:g} is not above 0.5: what is less sure is as likely wrong.")
    named = make_pseudo_labels(load_run(teacher), run, root, min_p)
    if run.jobs_on_disk() and named.hash != (kept.hash if kept else ""):
        raise MaskensError(
            f"{run.folder} holds models that were trained with {'other' if kept else 'no'} pseudo-labels. "
            f"Begin a new run: maskens folds --run NEW --folds-file {typed(run.folds_file)}"
        )
    return named


def announce(plan: TrainingPlan, observer: Observer) -> None:
    """Say what is finished already, and what the user should know before the rest."""
    if len(plan.todo) < len(plan.jobs):
        finished = len(plan.jobs) - len(plan.todo)
        observer.say(f"{finished} of {len(plan.jobs)} jobs are finished already; --restart does them anew")
    observer.note(plan.warnings, "warning")


def leave_out_bad_photos(plan: AnyPlan, observer: Observer = SILENT, write: bool = True) -> AnyPlan:
    """The plan without photos that can't be read, if that was asked for and a job is left to do. Comes before another
    run's jobs are taken over: whether they are the same depends on it.

    Args:
        write: fill the cache on the way and have the runs remember them; else nothing is written.

    Raises:
        MaskensError: a run has models that were trained on photos that can't be read now, jobs have nobody left to
            learn from, or a full disk.
    """
    from ensemble.jobs.spec import refuse_jobs_without_photos
    from ensemble.training.preflight import leave_out_unreadable, remember_skipped

    if not (plan.skip_bad and plan.todo):
        return plan
    preprocessings = list(dict.fromkeys(s.recipe.tasks[s.task].preprocessing for s in plan.todo))
    runs = [*{s.run.folder: s.run for s in plan.jobs}.values()]
    first = next((run for run in runs if run.jobs_on_disk()), runs[0])
    cache, threads = plan.todo[0].cache, plan.hardware.decoding_threads
    with observer.progress() as on_progress:
        opening = partial(on_progress, "decoding photos")
        known, data = leave_out_unreadable(first, plan.data, preprocessings, cache, threads, opening, write)
    for run in runs:
        if write and run is not first and run.skipped_hash != known.skipped_hash:
            remember_skipped(run, data.skipped)
    refuse_jobs_without_photos(plan.todo, data, plan.folds)

    def knowing(spec: JobSpec) -> JobSpec:
        return dataclasses.replace(spec, run=dataclasses.replace(spec.run, skipped_hash=known.skipped_hash))

    return plan.with_jobs(knowing, data=data)


def reuse_finished(plan: TrainingPlan, source: Run) -> tuple[TrainingPlan, int]:
    """Copy the jobs that another run has finished alike; returns (what is left, how many were copied)."""
    from ensemble.jobs.finished import reuse_jobs, unfinished
    from ensemble.recipes.recipe_file import bind_recipe

    bind_recipe(plan.run, plan.recipe)
    copied = reuse_jobs(plan.todo, source)
    return dataclasses.replace(plan, todo=tuple(unfinished(plan.todo))), copied


def carry_out(
    plan: AnyPlan, title: str, yes: bool, observer: Observer, begin: Callable[[AnyPlan], AnyPlan]
) -> tuple[AnyPlan, list[tuple[JobSpec, Failure]]]:
    """Ask before hours of work, begin, decode the photos once for all jobs, write the recipe into each run, and train.
    A job that fails stops no other.

    Args:
        yes: don't ask.
        begin: writes what the jobs need, and gives the plan with what is left then.

    Returns:
        (the plan that was begun, each job that failed and why).

    Raises:
        MaskensError: a photo that can't be read, a full disk; another process is at one of the jobs.
        Stopped: by Ctrl-C or SIGTERM, once the jobs under way have saved what they have learned.
    """
    from ensemble.jobs.finished import reuse_among
    from ensemble.recipes.recipe_file import bind_recipe
    from ensemble.training.queue import fill_cache
    from ensemble.training.queue import train as train_jobs
    from folds.errors import Stopped

    if plan.todo and not yes:
        observer.confirm(plan.long, "timing a batch of each model")
    plan = begin(plan)
    queue, shown = plan.queue, plan.shown
    if not queue:
        return plan, []
    with observer.progress() as on_progress:
        notes = fill_cache(queue, plan.data, plan.hardware, partial(on_progress, "decoding photos"))
    observer.note(notes)
    for spec in {s.run.folder: s for s in plan.jobs}.values():
        bind_recipe(spec.run, spec.recipe)
    runs = [s.run.folder.name for s in shown]
    with observer.jobs(title, runs if len(set(runs)) > 1 else ()) as display:
        try:
            failures = train_jobs(
                queue, plan.data, plan.folds, shown, plan.hardware, display, plan.restart, plan.retries
            )
        except Stopped:
            reuse_among(plan.todo, plan.jobs)
            raise
        reuse_among(plan.todo, plan.jobs)
    return plan, [(queue[place], failure) for place, failure in failures.items()]


def train_run(
    plan: TrainingPlan, yes: bool, observer: Observer, begin: Callable[[TrainingPlan], TrainingPlan] | None = None
) -> Trained:
    """As `carry_out`, for the jobs of one run."""
    from ensemble.jobs.soft_targets import save_pseudo_labels
    from ensemble.training.tracking import where_to_look

    def begin_training(plan: TrainingPlan) -> TrainingPlan:
        if not plan.todo:
            return plan
        plan = begin(plan) if begin else plan
        if plan.pseudo:
            save_pseudo_labels(plan.run, plan.pseudo)
        for line in where_to_look(plan.jobs[0].track, plan.run.folder):
            observer.say(f"next, while it trains: {line}", "dim")
        return plan

    title = f"maskens train, {plan.run.folder}, recipe {plan.recipe.name}"
    plan, failures = carry_out(plan, title, yes, observer, begin_training)
    failed = {(spec.task, spec.fold): failure for spec, failure in failures}
    return Trained(plan.run, len(plan.todo) - len(failed), failed)


def print_estimate(terminal: Terminal, found: Estimate) -> None:
    """Print jobs, time, memory and disk."""
    from ensemble.reporting.plan_tables import estimate_lines, estimate_table

    terminal.print(estimate_table(found))
    for line in estimate_lines(found):
        terminal.say(line, "bold")
    terminal.say("measured on a few batches, with nothing else running; nothing was written", "dim")


def fail_jobs(failed: Mapping[str, Failure], jobs: int) -> None:
    """End with exit code 1 or 2 if a job failed, and say which and why.

    Args:
        failed: by what each is called.
        jobs: how many there were.
    """
    if failed:
        lines = [f"  - {label}: {failure.message}" for label, failure in failed.items()]
        crashed = any(failure.crashed for failure in failed.values())
        fail("\n".join([f"{len(lines)} of {jobs} jobs failed:", *lines]), code=1 if crashed else 2)


def print_trained(trained: Trained, terminal: Terminal) -> None:
    """Print the estimate of a dry run; end with exit code 1 or 2 if a job failed."""
    if trained.estimate:
        print_estimate(terminal, trained.estimate)
    failed = {f"{task} fold {fold}": failure for (task, fold), failure in trained.failed.items()}
    fail_jobs(failed, trained.trained + len(failed))


def _print(trained: Trained, options: Options, terminal: Terminal) -> None:
    print_trained(trained, terminal)
    if not options.dry_run:
        terminal.say(f"next: maskens infer --run {typed(options.run[0])}", "dim")


@step(Options, show=_print, first="run")
def train(options: Options, observer: Observer) -> Trained:
    """Train one model per fold and task; finished jobs are kept, interrupted ones go on.

    Example:  maskens train --fold 0..4 --recipe quick --weights tf_efficientnet_lite0.safetensors
    Example:  maskens train --backend dask --address tcp://10.0.0.1:8786; docs/cluster.md
    Example:  maskens train --skip-bad-photos, after which the run leaves out the same photos whenever it goes on
    \f
    Returns:
        How many jobs were trained, which failed and why; of a dry run the estimate.

    Raises:
        MaskensError: as `plan_training` and `carry_out`.
    """
    from folds.ranges import written_folds

    written_folds(options.fold)  # a malformed value is refused before slow imports

    from ensemble.reporting.plan_tables import pseudo_line, pseudo_table
    from folds.run_folder import load_run

    plan = plan_training(options)
    announce(plan, observer)
    plan = leave_out_bad_photos(plan, observer, write=not options.dry_run)
    if plan.todo:
        observer.note(plan.left_out, "warning")
    if plan.pseudo and plan.todo:
        observer.print(pseudo_table(plan.pseudo))
        observer.say(pseudo_line(plan.pseudo))
    if plan.soft and plan.todo:
        observer.say(f"soft targets {plan.soft.description}")
    if options.dry_run:
        return Trained(plan.run, 0, {}, plan.estimate(observer))
    if options.reuse and plan.todo:
        plan, copied = reuse_finished(plan, load_run(options.reuse))
        observer.say(f"{copied} finished jobs are taken from {options.reuse}")
    return train_run(plan, options.yes, observer)
