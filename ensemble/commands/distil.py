"""maskens distil: one student that learns what the models of an ensemble predict."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    RunsOption,
    SetOption,
    SkipBadOption,
    TaskOption,
    TrackOption,
    TtaOption,
    WeightsOption,
    WorkersOption,
    YesOption,
)
from ensemble.commands.step import step
from ensemble.commands.terminal import SILENT, Observer, OnProgress, Terminal
from ensemble.commands.train import Options as TrainOptions
from ensemble.commands.train import (
    Trained,
    TrainingPlan,
    announce,
    leave_out_bad_photos,
    plan_jobs,
    print_trained,
    train_run,
)
from folds.errors import MaskensError, typed

if TYPE_CHECKING:
    from ensemble.decision.members import Ensemble
    from ensemble.jobs.hardware import Hardware
    from ensemble.jobs.soft_targets import FoldTargets, SoftTargets
    from ensemble.recipes.views import TtaSet
    from folds.run_folder import Run

ALPHA, TEMPERATURE = 0.5, 1.0


@dataclass(frozen=True)
class Options:
    """Who teaches, and how the student is trained."""

    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="NAME|FILE",
            help="The student's: a shipped recipe or a TOML file. Default: the ensemble's own; stored in its run.",
        ),
    ] = None
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="The student's run folder; by default RUN-student."),
    ] = None
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", metavar="T", help="Divides the ensemble's log probabilities; 1 by default."),
    ] = None
    alpha: Annotated[
        float | None,
        typer.Option("--alpha", metavar="A", help="The ensemble's share of a target, the label has the rest; 0.5."),
    ] = None
    tta: TtaOption = None
    fold: FoldOption = "all"
    task: TaskOption = None
    change: SetOption = None
    weights: WeightsOption = None
    no_pretrained: NoPretrainedOption = False
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
    run: RunsOption = DEFAULT_RUNS
    data: DataOption = None
    device: DeviceOption = "auto"
    workers: WorkersOption = None
    quiet: QuietOption = False


@dataclass(frozen=True)
class DistilPlan:
    """The student's jobs, checked; nothing is written yet."""

    teachers: tuple[Run, ...]
    views: TtaSet
    soft: SoftTargets  # of the folds that are predicted already
    untaught: Mapping[int, list[Ensemble]]  # fold -> the models of each teacher that are to predict for it
    training: TrainingPlan
    hardware: Hardware  # of this machine, which predicts the soft targets


def plan_distillation(options: Options) -> DistilPlan:
    """Check all that teaching and training need.

    Raises:
        MaskensError: everything that would fail later; teachers that lack a fold which is to be trained; a student's
            run that has learned from something else.
    """
    from ensemble.backends.choose import choose_hardware
    from ensemble.decision.distillation import refuse_unfinished, soft_targets_of, teachers_of_fold
    from ensemble.jobs.soft_targets import load_soft_targets, read_soft_targets
    from ensemble.recipes.recipe_file import run_recipe
    from ensemble.recipes.schema import soft_f1_warnings
    from folds.run_folder import has_run, load_data, load_run, refuse_other_folds, run_like

    teachers = [load_run(run) for run in options.run]
    folder = options.out or _beside(teachers[0].folder)
    if folder.resolve() in {teacher.folder.resolve() for teacher in teachers}:
        raise MaskensError(f"--out {folder}: that is the teacher itself. Name a new folder: --out DIR")
    refuse_other_folds(teachers)
    temperature = TEMPERATURE if options.temperature is None else options.temperature
    alpha = ALPHA if options.alpha is None else options.alpha
    soft, views = soft_targets_of(teachers, options.tta, temperature, alpha)
    data, folds = load_data(teachers[0], options.data)
    student = run_like(teachers[0], folder, data)
    if has_run(folder):
        data, folds = load_data(student, options.data)  # it may skip photos that became unreadable since
    if _has_begun(student):
        soft = _refuse_other_lessons(student, soft, load_soft_targets(student, data, folds))
    else:
        kept = read_soft_targets(student)
        soft = kept if kept and kept.hash == soft.hash else soft
    names = {f.name for f in dataclasses.fields(Options)} & {f.name for f in dataclasses.fields(TrainOptions)}
    of_student = TrainOptions(**{name: getattr(options, name) for name in names} | {"run": [folder]})
    training = plan_jobs(student, data, folds, soft, of_student, like=teachers[0])
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
    here = choose_hardware("auto" if options.address else options.device, options.workers)
    return DistilPlan(tuple(teachers), views, soft, untaught, training, here)


def _models(teachers: Sequence[Run], ensembles: list[Ensemble]) -> tuple[str, ...]:
    """sha256 of each model."""
    from ensemble.jobs.job import Job
    from folds.run_folder import MODEL

    pairs = [(run, m) for run, ensemble in zip(teachers, ensembles, strict=True) for m in ensemble.members]
    return tuple(Job(run, m.task, m.fold).verified_sha256(MODEL) for run, m in pairs)


def _beside(folder: Path) -> Path:
    whole = folder.resolve()
    found = whole.with_name(f"{whole.name}-student")
    return found if folder.name in ("", "..") else folder.with_name(found.name)  # as it was named, if it has a name


def _has_begun(student: Run) -> bool:
    """Whether any job of it has, be it in its first epoch in another process."""
    from ensemble.jobs.job import STATUS

    return any(student.folder.glob(f"*/fold*/{STATUS}"))


def _refuse_other_lessons(student: Run, soft: SoftTargets, kept: SoftTargets | None) -> SoftTargets:
    """What the student's jobs learn from; a run whose jobs learn from something else is refused."""
    if kept is None:
        raise MaskensError(f"{student.folder} has jobs that learn from labels alone. Name a new folder: --out DIR")
    if kept.hash != soft.hash:
        raise MaskensError(
            f"{student.folder} has jobs that learn from other soft targets: {kept.description}; now "
            f"{soft.description}. Resume with: maskens train --run {typed(student.folder)}; or name a new folder: "
            "--out DIR"
        )
    return kept


def begin_student(planned: DistilPlan, observer: Observer = SILENT) -> TrainingPlan:
    """Write the student's run, and predict its soft targets; interrupted, the same call keeps the folds that are done.

    Returns:
        The training, whose jobs know them.

    Raises:
        MaskensError: as `leave_out_bad_photos`; a photo that can't be read, a model that gives no numbers.
    """
    from ensemble.jobs.soft_targets import save_fold_targets, save_soft_targets
    from folds.run_folder import write_run_like

    student = planned.training.run
    write_run_like(student, planned.teachers[0])
    soft = dataclasses.replace(
        planned.soft, folds={f: t for f, t in planned.soft.folds.items() if f not in planned.untaught}
    )
    save_soft_targets(student, soft)
    training = leave_out_bad_photos(planned.training, observer)
    with observer.progress() as on_progress:
        for fold in planned.untaught:
            soft = dataclasses.replace(soft, folds={**soft.folds, fold: _taught(planned, training, fold, on_progress)})
            save_fold_targets(student, soft, fold)
    observer.note(training.left_out, "warning")
    return training.with_jobs(lambda spec: dataclasses.replace(spec, soft=soft.only(spec.fold)), soft=soft)


def _taught(planned: DistilPlan, training: TrainingPlan, fold: int, on_progress: OnProgress) -> FoldTargets:
    """What the teachers' models of a fold predict for the people of all others."""
    import numpy as np

    from ensemble.data.cache import open_photos
    from ensemble.decision.joint import blend
    from ensemble.decision.members import preprocessings
    from ensemble.jobs.soft_targets import FoldTargets, taught_rows
    from ensemble.prediction.outputs import InferenceSettings, predict_photos
    from ensemble.prediction.predictor import by_task

    ensembles, data, hardware = planned.untaught[fold], training.data, planned.hardware
    settings = InferenceSettings(planned.views, hardware, training.todo[0].cache)
    shapes = preprocessings(m for ensemble in ensembles for m in ensemble.members)
    decoding = partial(on_progress, "decoding photos")
    photos = open_photos(data.photos, shapes, settings.cache, hardware.decoding_threads, decoding)
    predicting = partial(on_progress, f"soft targets of fold {fold}")
    shown = predict_photos(ensembles, photos, settings, predicting, taught_rows(data, training.folds, fold))
    logits = by_task(ensembles, shown.logits)
    class_log_probs = np.stack([ensemble.joint(found) for ensemble, found in zip(ensembles, logits, strict=True)])
    files = tuple(data.files[row] for row in shown.rows)
    return FoldTargets(_models(planned.teachers, ensembles), files, blend(class_log_probs).astype(np.float32))


def _print(trained: Trained, options: Options, terminal: Terminal) -> None:
    print_trained(trained, terminal)
    if options.dry_run:
        return
    from ensemble.jobs.job import jobs_of
    from ensemble.jobs.soft_targets import read_soft_targets
    from ensemble.recipes.recipe_file import run_recipe
    from folds.run_folder import load_run

    run = load_run(trained.run.folder)
    soft, tasks = read_soft_targets(run), run_recipe(run).tasks
    there = [job.trained for job in jobs_of(run, tasks)]
    views = "--tta none" if all(there) else "--allow-missing --tta none"
    passes = f"{sum(there)} {'pass' if sum(there) == 1 else 'passes'} a photo"
    passes += f", the ensemble makes {soft.passes}" if soft else ""
    terminal.say(f"next: maskens infer --run {typed(run.folder)} {views}   # {passes}", "dim")


@step(Options, show=_print, first="run")
def distil(options: Options, observer: Observer) -> Trained:
    """Train a student on the predictions of an ensemble: fold k learns from the ensemble's models of fold k.

    The student is a run of its own, on the same data and folds; infer, score, export and all others take it. One fold
    of it is a model that predicts in one pass; all folds give it an out-of-fold score. docs/distil.md.

    Example:  maskens distil --run runs/default --recipe student.toml --fold 0
    Example:  maskens infer --run runs/default-student --allow-missing --tta none
    Example:  maskens distil --run runs/a --run runs/b --recipe best --alpha 0.7 --out runs/student
    \f
    Returns:
        As of `train`, of the student.

    Raises:
        MaskensError: as `plan_distillation` and `carry_out`.
    """
    from folds.ranges import written_folds

    written_folds(options.fold)  # a malformed value is refused before slow imports
    planned = plan_distillation(options)
    plan = planned.training
    observer.say(f"student {plan.run.folder}, soft targets {planned.soft.description}")
    announce(plan, observer)
    if options.dry_run:
        plan = leave_out_bad_photos(plan, observer, write=False)
        return Trained(plan.run, 0, {}, plan.estimate(observer))
    return train_run(plan, options.yes, observer, begin=lambda _: begin_student(planned, observer))
