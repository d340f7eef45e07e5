"""maskens run: the steps from a data folder to submission and report, each done as by its own command."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ensemble.backends.choose import choose_hardware
from ensemble.commands.folds import folds, split_people
from ensemble.commands.infer import Inferred, infer, is_current
from ensemble.commands.options import RunOptions, StepChoice, cache_folder
from ensemble.commands.recommend import recommend
from ensemble.commands.report import Reported, report
from ensemble.commands.score import Scored, score
from ensemble.commands.step import Step, step
from ensemble.commands.terminal import Observer, Terminal
from ensemble.commands.train import plan_training, train, train_from, train_planned
from ensemble.commands.training import Trained, plan_jobs
from ensemble.commands.tune import Tuned, tune
from ensemble.decision.members import choose_ensembles
from ensemble.decision.tuning import TUNING, Tuning, kept_tuning, untuned_run
from ensemble.jobs.hardware import Hardware
from ensemble.jobs.job import job_names, jobs_of
from ensemble.jobs.oof import whole_folds
from ensemble.recipes.recipe_file import changed_recipe, find_set, resolve_recipe
from ensemble.recipes.schema import Recipe
from ensemble.recipes.views import known_sets
from ensemble.reporting.report import GENERATOR, shows
from ensemble.reporting.tables import headline
from folds.errors import MaskensError
from folds.files import must_be_writable, sha256_of_file
from folds.layout import EVAL, find_eval
from folds.pages.html import refuse_foreign_file
from folds.people import EvalData
from folds.run_folder import Run, data_root, find_run, load_run, refuse_foreign

DEFAULT_RECIPES = {"cpu": "best", "cuda": "heads"}  # by device, where neither the user nor the run names one
RECOMMENDED = "recommended.toml"  # the recipe in the run's folder that `recommend` writes for --hours
TRAINING_SHARE = 0.8  # of --hours that `recommend` may fill: a deadline keeps a margin and time to predict
FITTED_VIEWS = "flip"  # for which `tune` fits temperatures and offsets where it does not choose the views
Result = TypeVar("Result")


@dataclass(frozen=True)
class Ran:
    """What the steps returned, None of those that were skipped."""

    run: Run
    trained: Trained | None = None
    tuned: Tuned | None = None
    scored: Scored | None = None
    inferred: Inferred | None = None
    reported: Reported | None = None


class _Together(Terminal):
    """The same terminal for steps that follow one another: none names the next one."""

    def __init__(self, terminal: Terminal) -> None:
        self.console = terminal.console

    def next(self, command: str) -> None:
        pass


def _print(done: Ran, options: RunOptions, terminal: Terminal) -> None:
    if options.dry_run and done.trained:
        train.show(done.trained, _options_of(train, options, dry_run=True), terminal)
    elif done.scored:
        if missing := whole_folds(done.run)[1]:
            terminal.note(
                [f"not trained: {job_names(missing)}. Without --hours the same command trains all."], "warning"
            )
        results = [file.name for file in (done.run.submission_file, done.run.report_file) if file.exists()]
        terminal.say(f"done: {' and '.join(results)} in {done.run.folder}", "bold")


@step(RunOptions, show=_print, first="data")
def run(options: RunOptions, observer: Observer) -> Ran:
    """
    After an interruption, the same call resumes.

    Returns:
        What the steps returned. If jobs failed, only `trained`, with the reasons; with `dry_run` only its estimate.

    Raises:
        MaskensError: as the steps. What can be known without training is raised before it.
    """
    began, folder = time.time(), options.run[0]
    refuse_foreign(folder)
    before = find_run(folder)
    photos = find_eval(data_root(before, options.data), options.skip_bad_photos)  # refused before training
    name, recipe = _choose_recipe(before, options)
    planned = _plan(options, name, photos)
    if options.dry_run:
        return _estimate(planned, before, began, options, observer)

    terminal = _Together(observer) if isinstance(observer, Terminal) else observer
    made = folds.do(planned[folds], observer)
    if made.run == before:
        observer.say(f"folds: {made.k} folds are there")
    else:
        _say_command(folds, planned[folds], observer)
        _show(folds, made, planned[folds], terminal)
    for file in (made.run.submission_file, made.run.eval_file, made.run.report_file):
        must_be_writable(file)
    refuse_foreign_file(made.run.report_file, GENERATOR)

    trained, jobs = None, jobs_of(made.run, recipe.tasks)
    if all(job.complete and job.status().state == "done" for job in jobs):
        observer.say(f"train: {len(jobs)} of {len(jobs)} jobs are finished")
    else:
        if recommend in planned:
            _carry_out(recommend, planned[recommend], terminal)
            _, recipe = _choose_recipe(made.run, dataclasses.replace(options, recipe=planned[train].recipe))
        if photos and not options.skip_bad_photos:
            _decode(photos, recipe, made.run, options, observer)
        _say_command(train, planned[train], observer)
        trained = train_from(began, planned[train], observer)
        _show(train, trained, planned[train], terminal)
        if trained.failed:
            return Ran(made.run, trained)
    done = load_run(folder)  # with what training stored in it
    if not (done.recipe_hash and whole_folds(done)[0]):
        raise MaskensError(
            f"the deadline of --hours {options.hours:g} is over, and no fold is trained. Without --hours, or with "
            "others, the same command resumes."
        )
    return dataclasses.replace(_use_models(done, planned, photos, options, terminal), trained=trained)


def _use_models(
    run: Run, planned: Mapping[Step[Any, Any], Any], photos: EvalData | None, options: RunOptions, observer: Observer
) -> Ran:
    """Tune and score the models that there are, predict with them, and report."""
    tuned = None
    if tune not in planned:
        observer.say(f"tune: skipped, it fits no --tta {options.tta}")
    elif (found := _tuning(run)) and options.tta in (None, found.fitted.tta):
        observer.say(f"tune: {run.folder / TUNING} is of these models")
    else:
        try:
            tuned = _carry_out(tune, planned[tune], observer)
        except MaskensError as error:  # such as too few people; damaged files are refused by `score`, too
            observer.note([f"not tuned: {error}\n"])
    stale = (run.folder / TUNING).exists() and not _tuning(run)  # of other models
    scoring, reporting = (dataclasses.replace(planned[each], no_tuning=stale) for each in (score, report))

    known = _sha256(run.oof_file)
    scored = score.do(scoring, observer)
    assert isinstance(scored, Scored)
    if known == _sha256(run.oof_file):
        observer.say(f"score: {headline(scored.evaluation, scored.runs)[0]}")
    else:
        _say_command(score, scoring, observer)
        _show(score, scored, scoring, observer)

    inferred, missing = None, bool(whole_folds(run)[1])
    if not photos:
        observer.say(f"infer: skipped, there is no {data_root(run, options.data) / EVAL}")
    elif is_current(run, photos, choose_ensembles([run], options.tta, not stale, missing)):
        observer.say(f"infer: {run.submission_file} is by these models")
    else:
        inferring = dataclasses.replace(planned[infer], no_tuning=stale, allow_missing=missing)
        done = _carry_out(infer, inferring, observer)
        inferred = done if isinstance(done, Inferred) else None  # a dry run has gone another way

    reported = None
    if shows(run.report_file, scored.evaluation):
        observer.say(f"report: {run.report_file} shows these scores")
    else:
        reported = _carry_out(report, reporting, observer)
    return Ran(run, None, tuned, scored, inferred, reported)


def _plan(options: RunOptions, recipe: str | None, photos: EvalData | None) -> dict[Step[Any, Any], Any]:
    """The steps, in their order, and the options of each.

    With --hours, and without a `recipe` of the user or the run, one is recommended. Tuning comes first of what follows
    training: so the score is of the decision that is used, and the photos are predicted once.
    """
    plan: dict[Step[Any, Any], Any] = {folds: _options_of(folds, options, data=options.data)}
    if options.hours is not None and recipe != options.recipe:
        hours, out = float(f"{TRAINING_SHARE * options.hours:.3g}"), options.run[0] / RECOMMENDED
        plan[recommend], recipe = _options_of(recommend, options, hours=hours, out=out), str(out)
    plan[train] = _options_of(train, options, recipe=recipe)
    if options.tta is None:
        plan[tune] = _options_of(tune, options)
    elif options.tta == FITTED_VIEWS:
        plan[tune] = _options_of(tune, options, step=[StepChoice.temperatures, StepChoice.offsets])
    plan[score] = _options_of(score, options)
    if photos:
        plan[infer] = _options_of(infer, options)
    plan[report] = _options_of(report, options)
    return plan


def _options_of(which: Step[Any, Any], options: RunOptions, **more: Any) -> Any:
    """The options of a step: those that it shares with `run`, but for the data folder, which `folds` stores."""
    shared = {field.name for field in fields(which.options)} & {field.name for field in fields(options)}
    values = {name: getattr(options, name) for name in shared - {"data", "dry_run"}}
    return which.options(**values | more)


def _carry_out(which: Step[Any, Result], options: Any, observer: Observer) -> Result:
    """Do a step as its command does, with the command above it."""
    _say_command(which, options, observer)
    found = which.do(options, observer)
    _show(which, found, options, observer)
    return found


def _say_command(which: Step[Any, Any], options: Any, observer: Observer) -> None:
    observer.say(f"$ {which.command_line(options)}", "bold", wrap=False)


def _show(which: Step[Any, Result], found: Result, options: Any, observer: Observer) -> None:
    if isinstance(observer, Terminal):
        which.show(found, options, observer)
    observer.say("")


def _sha256(file: Path) -> str:
    return sha256_of_file(file) if file.exists() else ""


def _hardware(options: RunOptions) -> Hardware:
    return choose_hardware(options.device, options.workers, options.jobs, options.backend, options.address)


def _choose_recipe(run: Run | None, options: RunOptions) -> tuple[str | None, Recipe]:
    """(--recipe of `train`, None for the run's own; the recipe). Raises MaskensError: it or the views can't be used."""
    name = options.recipe
    if name is None and not (run and run.recipe_hash):
        name = DEFAULT_RECIPES[_hardware(options).device]
    asked = (name, options.change or (), options.weights or (), not options.no_pretrained)
    recipe = resolve_recipe(run, *asked) if run else changed_recipe(None, *asked)
    if options.tta:
        find_set(options.tta, known_sets([recipe.tta]))
    return name, recipe


def _estimate(
    planned: Mapping[Step[Any, Any], Any], before: Run | None, began: float, options: RunOptions, observer: Observer
) -> Ran:
    """List the commands, check the training and estimate it. Nothing is written."""
    for each, its_options in planned.items():
        _say_command(each, its_options, observer)
    made = split_people(planned[folds], observer, write=False)
    training = dataclasses.replace(planned[train], dry_run=True)
    with tempfile.TemporaryDirectory() as scratch:
        if recommend in planned:
            out = Path(scratch) / RECOMMENDED
            recommend.do(dataclasses.replace(planned[recommend], data=options.data, out=out), observer)
            training = dataclasses.replace(training, recipe=str(out))
        new = made.run != before
        plan = plan_jobs(made.run, made.data, made.folds, training) if new else plan_training(training)
    return Ran(made.run, train_planned(plan, training, began, time.time() - began, observer))


def _decode(photos: EvalData, recipe: Recipe, run: Run, options: RunOptions, observer: Observer) -> None:
    """Decode the photos to predict into the cache, where `infer` finds them: one that can't be read is refused before
    training. Raises MaskensError: all that can't be read."""
    from ensemble.data.cache import decode_photos

    threads, cache = _hardware(options).decoding_threads, cache_folder(options.cache, run.folder)
    wanted = list(dict.fromkeys(task.preprocessing for task in recipe.tasks.values()))
    with observer.progress() as on_progress:
        decoding = partial(on_progress, "decoding photos to predict")
        decode_photos(photos.photos, wanted, cache, threads, decoding)


def _tuning(run: Run) -> Tuning | None:
    """The tuning of a run's models as they are, None if there is none."""
    try:
        found = kept_tuning([untuned_run(run)])
    except MaskensError:  # of other models, or damaged
        return None
    return found[0] if found else None
