"""What a sweep is to train: its runs and jobs, checked before anything is written or computed."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ensemble.backends.choose import choose_hardware
from ensemble.data.augment import build
from ensemble.jobs.completion import begun, restore, unfinished
from ensemble.jobs.hardware import Hardware, unused_gpu
from ensemble.jobs.reuse import once_each
from ensemble.jobs.seen_people import refuse_leaking_weights
from ensemble.jobs.spec import JobSpec, plan, refuse_jobs_without_photos
from ensemble.jobs.sweep import Sweep, load_sweep
from ensemble.pipeline.inputs import DEFAULT_RUN, Folder, OnProgress, cache_folder, part_of
from ensemble.pipeline.job_options import JobOptions
from ensemble.recipes.reading import parse_recipe, shipped
from ensemble.recipes.run_recipe import RecipeChange, alike, changed_recipe, differences, run_recipe
from ensemble.recipes.schema import Recipe
from ensemble.training.cost import Estimate, estimate_training, long_training
from ensemble.training.preflight import job_warnings, preflight
from ensemble.training.tracking import check_trackers
from folds.errors import MaskensError, refuse
from folds.labels import IntArray
from folds.people import TrainData
from folds.run import Run, differing, load_data, load_run, refuse_foreign, remembered

DEFAULT_SWEEP = Path("runs/sweep")


@dataclass(frozen=True)
class SweepOptions(JobOptions):
    """What a sweep trains and how; the defaults are those of `maskens sweep` without options.

    What is named of recipes, seeds and folds is added to what the sweep has already. Changes and weights are for the
    recipes named with them.

    Attributes:
        run: whose folds, label fixes, merged ids and photos left out all runs share; None takes the sweep's own, at
            first `runs/default`.
        recipes: names or files; the first of all is what the others are compared with.
        seeds: of initial weights, order and augmentation. At first that of `run`.
        folds: None is all, or those that the sweep has.
    """

    run: Folder | None = None
    recipes: Sequence[str] = ()
    seeds: Collection[int] = ()
    folds: Collection[int] | None = None


DEFAULT_OPTIONS = SweepOptions()


@dataclass(frozen=True)
class SweepPlan:
    """A sweep's runs and jobs, checked, before the first batch."""

    sweep: Sweep
    data: TrainData
    folds: IntArray  # (people,)
    recipes: Mapping[str, Recipe]
    runs: Mapping[tuple[str, int], Run]  # (recipe, seed) -> run, there already or still to be made
    jobs: tuple[JobSpec, ...]
    hardware: Hardware
    retries: int  # of a job whose process or node is lost
    skip_bad: bool  # leave out photos that can't be read
    warnings: tuple[str, ...]

    @property
    def todo(self) -> list[JobSpec]:
        """The jobs that are not finished, fold by fold, so that whenever it is stopped all recipes and seeds have
        about the same folds, by which they can be compared."""
        place = {pair: number for number, pair in enumerate((s, r) for s in self.sweep.seeds for r in self.recipes)}
        return sorted(unfinished(self.jobs), key=lambda s: (s.fold, place[s.run.seed, s.recipe.name]))

    @property
    def queue(self) -> list[JobSpec]:
        """The jobs to train: of those that come out the same in several runs the first."""
        return once_each(self.todo)[0]

    def counts(self) -> dict[str, tuple[int, ...]]:
        """recipe -> its runs and jobs, and of the jobs those done, to be trained, and shared with another recipe."""
        queue, shared = once_each(self.todo)

        def count(specs: Sequence[JobSpec], name: str) -> int:
            return sum(s.recipe.name == name for s in specs)

        found: dict[str, tuple[int, ...]] = {}
        for name in self.recipes:
            jobs, train, twice = count(self.jobs, name), count(queue, name), count(shared, name)
            found[name] = (len(self.sweep.seeds), jobs, jobs - train - twice, train, twice)
        return found

    @property
    def shown(self) -> list[JobSpec]:
        """The jobs to follow, run by run: all but those that come from another run."""
        shared = {(s.run.folder, s.task, s.fold) for s in once_each(self.todo)[1]}
        return [s for s in self.jobs if (s.run.folder, s.task, s.fold) not in shared]

    def estimate(self, on_progress: OnProgress | None = None) -> Estimate:
        """Time, memory and disk, from a short probe that leaves nothing behind."""
        probing = part_of(on_progress, "probing")
        return estimate_training(self.queue, self.data, self.folds, self.hardware, False, probing)

    def long(self) -> str:
        """What to say where a machine without a GPU would be at it for hours, else ""."""
        return long_training(self.queue, self.data, self.folds, self.hardware) or ""


def plan_sweep(out: Folder = DEFAULT_SWEEP, options: SweepOptions = DEFAULT_OPTIONS) -> SweepPlan:
    """Check all that a sweep needs, and list its jobs. Nothing is written.

    Raises:
        MaskensError: everything that would fail later, all at once.
    """
    folder = Path(out)
    before = load_sweep(folder)
    base = _base(before, options.run)
    data, folds = load_data(base, Path(options.data) if options.data else None)
    hardware = choose_hardware(options.device, options.workers, options.jobs, options.backend, options.address)
    trackers = tuple(dict.fromkeys(options.track))
    check_trackers(trackers)
    problems: list[str] = []
    recipes = _recipes(before, options, problems)
    seeds = tuple(dict.fromkeys([*(before.seeds if before else ()), *options.seeds])) or (base.seed,)
    kept = before.folds if before else ()
    wanted = sorted({*kept, *options.folds}) if options.folds is not None else [*kept] or [*range(base.k)]
    texts = {name: recipe.text for name, recipe in recipes.items()}
    sweep = Sweep(folder, base.fingerprint, base.folds_hash, texts, seeds, tuple(wanted))
    jobs: list[JobSpec] = []
    warnings: list[str] = []
    runs: dict[tuple[str, int], Run] = {}
    for name, recipe in recipes.items():
        mine = []
        for seed in seeds:
            with _noted(problems):
                run = _run_of(sweep, base, name, seed, recipe)
                runs[name, seed] = run
                cache = cache_folder(options.cache, run.folder)
                mine += plan(run, recipe, [*recipe.tasks], wanted, hardware, cache, trackers, options.compile)
        with _noted(problems):
            warnings += restore(mine)
        if todo := unfinished(mine):
            with _noted(problems):
                refuse_jobs_without_photos([s for s in todo if s.run.seed == todo[0].run.seed], data, folds)
            with _noted(problems):
                refuse_leaking_weights(todo, data, folds)
            with _noted(problems):
                warnings += preflight(recipe, {s.task: 0 for s in todo}, begun(todo), hardware.device)
                warnings += job_warnings(todo, data, folds)
        jobs += mine
    refuse(problems, f"the sweep {folder} can't be trained")
    if unfinished(jobs):
        warnings += filter(None, [unused_gpu(options.device, hardware), hardware.oversubscription])
    return SweepPlan(
        sweep=sweep,
        data=data,
        folds=folds,
        recipes=recipes,
        runs=runs,
        jobs=tuple(jobs),
        hardware=hardware,
        retries=options.retries,
        skip_bad=options.skip_bad_photos,
        warnings=tuple(dict.fromkeys(warnings)),
    )


def sweep_k(out: Folder = DEFAULT_SWEEP, run: Folder | None = None) -> int:
    """How many folds a sweep's runs have. Arguments and errors as of `plan_sweep`."""
    return _base(load_sweep(Path(out)), run).k


@contextlib.contextmanager
def _noted(problems: list[str], where: str = "") -> Iterator[None]:
    """Add what is wrong to the list, in place of raising it."""
    try:
        yield
    except MaskensError as error:
        problems.append(where + str(error).replace("\n", "\n    "))


def _base(before: Sweep | None, named: Folder | None) -> Run:
    """The run whose folds all others have: the one named, or one of the sweep's own."""
    there = [run for pair in before.pairs if (run := remembered(before.run_folder(*pair)))] if before else []
    if before and not (named or there or remembered(DEFAULT_RUN)):
        raise MaskensError(f"{before.folder} has no run yet. Name the one whose folds it is to have: --run DIR")
    base = there[0] if there and not named else load_run(Path(named or DEFAULT_RUN))
    if before and (base.fingerprint, base.folds_hash) != (before.fingerprint, before.folds_hash):
        raise MaskensError(
            f"{base.folder} has other data or folds than the sweep {before.folder}. Leave --run out to go on with the "
            "sweep's own folds, or start another sweep with --out DIR."
        )
    return base


def _recipes(before: Sweep | None, options: SweepOptions, problems: list[str]) -> dict[str, Recipe]:
    """Those that the sweep has and those that are named, by name."""
    found = {name: parse_recipe(text, name) for name, text in (before.recipes if before else {}).items()}
    kept = dict(found)
    if not options.recipes and (options.changes or options.weights or not options.pretrained):
        problems.append("--set and the weights' options go with --recipe: they are for the recipes named with them")
    if not options.recipes and before is None:
        problems.append("name what to train, like --recipe quick --recipe mine.toml")
    named: dict[str, str] = {}  # name -> as it was given
    for given in options.recipes:
        name = given if given in shipped() else Path(given).stem
        if name in named:
            problems.append(f"--recipe {given}: runs are named by their recipe, and so is --recipe {named[name]}")
            continue
        named[name] = given
        with _noted(problems, f"--recipe {given}: "):
            change = RecipeChange(given, options.changes, options.weights, options.pretrained)
            recipe = changed_recipe(kept.get(name), change, build).model_copy(update={"name": name})
            earlier = found.get(name)
            if before and earlier and not alike(earlier, recipe) and _has_models(before, name):
                refuse(
                    differences(earlier, recipe)[:8],
                    "the sweep has models of another recipe of this name",
                    "Leave it out to go on with the sweep's own, or give it another name",
                )
            found[name] = recipe
    return found


def _has_models(sweep: Sweep, recipe: str) -> bool:
    runs = [remembered(sweep.run_folder(recipe, seed)) for seed in sweep.seeds]
    return any(run.jobs_on_disk() for run in runs if run)


def _run_of(sweep: Sweep, base: Run, name: str, seed: int, recipe: Recipe) -> Run:
    """The run of a recipe and a seed, as it is or as it will be.

    Raises:
        MaskensError: what is there does not belong to the sweep.
    """
    folder = sweep.run_folder(name, seed)
    refuse_foreign(folder)
    run = remembered(folder)
    if run is None:
        return dataclasses.replace(base, folder=folder, seed=seed, recipe_hash="")
    other = differing(run, base, "data", "folds", "skipped photos")
    faults = [f"it has other {other}"] if other else []
    faults += ["it has other label fixes"] if run.fixes.hash != base.fixes.hash else []
    faults += [f"its seed is {run.seed}"] if run.seed != seed else []
    faults += ["it has pseudo-labels"] if run.pseudo_record.exists() else []
    faults += ["it is a student, with soft targets"] if run.soft_record.exists() else []
    if run.recipe_hash and run.jobs_on_disk() and not alike(theirs := run_recipe(run), recipe):
        faults += differences(theirs, recipe)[:8]
    refuse(faults, f"{folder} does not belong to this sweep", "Move it away, or choose another --out DIR")
    return run
