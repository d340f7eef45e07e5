"""maskens sweep: several recipes with several seeds on the same folds, as one queue, compared at the end."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from ensemble.commands.options import (
    DEFAULT_RUNS,
    AddressOption,
    BackendOption,
    CacheOption,
    CheckpointOption,
    CompileOption,
    DataOption,
    DeviceOption,
    DryOption,
    JobsOption,
    NoPretrainedOption,
    QuietOption,
    RetriesOption,
    SetOption,
    SkipBadOption,
    TrackOption,
    ViewsOption,
    WeightsOption,
    WorkersOption,
    YesOption,
    cache_folder,
)
from ensemble.commands.step import step
from ensemble.commands.terminal import Observer, Terminal
from ensemble.commands.train import Plan, carry_out, fail_jobs, leave_out_bad_photos, print_estimate
from folds.errors import MaskensError, refuse, typed

if TYPE_CHECKING:
    from ensemble.evaluation.compare import SweepComparison
    from ensemble.jobs.spec import JobSpec
    from ensemble.recipes.schema import Recipe
    from ensemble.training.cost import Estimate
    from ensemble.training.runner import Failure
    from folds.run_folder import Run

SWEEP = "sweep.json"


@dataclass(frozen=True)
class Options:
    """What a sweep trains and how. What is named of recipes, seeds and folds is added to what the sweep has already;
    changes and weights are for the recipes named with them."""

    recipe: Annotated[
        list[str] | None,
        typer.Option(
            "--recipe",
            metavar="NAME|FILE",
            help="Recipe to train, may be repeated; the others are compared with the first. Later ones are added.",
        ),
    ] = None
    seed: Annotated[
        str | None,
        typer.Option(
            "--seed",
            metavar="SEEDS",
            envvar="MASKENS_SEED",
            help="Seeds of initial weights, order and augmentation: 7, 0..2 or 0,2,4. Later ones are added. At first "
            "that of --run.",
        ),
    ] = None
    fold: Annotated[
        str | None,
        typer.Option("--fold", metavar="FOLDS", help="3, 0..4, 0,2,4 or all. Later ones are added. At first all."),
    ] = None
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The sweep's folder. A run in it is RECIPE-seedN.")
    ] = Path("runs/sweep")
    run: Annotated[
        Path | None,
        typer.Option(
            "--run",
            metavar="DIR",
            envvar="MASKENS_RUN",
            help="Run whose folds all runs of the sweep have, at first runs/default. The sweep remembers them.",
        ),
    ] = None
    change: SetOption = None
    weights: WeightsOption = None
    no_pretrained: NoPretrainedOption = False
    jobs: JobsOption = None
    backend: BackendOption = None
    address: AddressOption = None
    retries: RetriesOption = 2
    compare: Annotated[bool, typer.Option("--compare", help="Train nothing: compare what is finished.")] = False
    tta: ViewsOption = "flip"
    checkpoint: CheckpointOption = "cross-fitted"
    track: TrackOption = None
    compile_models: CompileOption = False
    skip_bad_photos: SkipBadOption = False
    cache: CacheOption = ""
    dry_run: DryOption = False
    yes: YesOption = False
    data: DataOption = None
    device: DeviceOption = "auto"
    workers: WorkersOption = None
    quiet: QuietOption = False


@dataclass(frozen=True)
class Sweep:
    """sweep.json: a run for each recipe and seed, all on the same folds. `folder` is not written: it may be moved."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    folder: Path
    fingerprint: str  # of the data
    folds_hash: str
    recipes: dict[str, str]  # name -> TOML with every value; the first is what the others are compared with
    seeds: tuple[int, ...]
    folds: tuple[int, ...]  # that are trained

    @property
    def pairs(self) -> Iterator[tuple[str, int]]:
        """(recipe, seed) of each run."""
        return ((recipe, seed) for recipe in self.recipes for seed in self.seeds)

    def run_folder(self, recipe: str, seed: int) -> Path:
        return self.folder / f"{recipe}-seed{seed}"


def load_sweep(folder: Path) -> Sweep | None:
    """The sweep in a folder, None if there is none yet.

    Raises:
        MaskensError: a sweep.json that is damaged or was edited, or the folder is a run or no folder.
    """
    from folds.files import read_record
    from folds.run_folder import has_run

    if has_run(folder) or (folder.exists() and not folder.is_dir()):
        what = "run folder" if folder.is_dir() else "file"
        raise MaskensError(f"{folder} is a {what}. Name another folder for the sweep with --out DIR.")
    path = folder / SWEEP
    return read_record(path, Sweep, check=_refuse_paths, folder=folder) if path.exists() else None


def _refuse_paths(sweep: Sweep) -> None:
    if any(Path(name).name != name for name in sweep.recipes):
        raise ValueError("a recipe's name is a path")


@dataclass(frozen=True, kw_only=True)
class SweepPlan(Plan):
    """The jobs of a sweep. Those to do come fold by fold, so that whenever it is stopped all recipes and seeds have
    about the same folds, by which they can be compared."""

    sweep: Sweep
    recipes: Mapping[str, Recipe]

    @property
    def runs(self) -> dict[tuple[str, int], Run]:
        """(recipe, seed) -> run, there already or still to be made."""
        return {(s.recipe.name, s.run.seed): s.run for s in self.jobs}

    def counts(self) -> dict[str, tuple[int, ...]]:
        """recipe -> its runs and jobs, and of the jobs those done, to be trained, and shared with another recipe."""
        from ensemble.jobs.finished import once_each

        queue, shared = once_each(self.todo)

        def count(specs: Sequence[JobSpec], name: str) -> int:
            return sum(s.recipe.name == name for s in specs)

        found: dict[str, tuple[int, ...]] = {}
        for name in self.recipes:
            jobs, train, twice = count(self.jobs, name), count(queue, name), count(shared, name)
            found[name] = (len(self.sweep.seeds), jobs, jobs - train - twice, train, twice)
        return found


@dataclass(frozen=True)
class Swept:
    """What became of a sweep."""

    trained: int  # jobs
    failed: Mapping[str, Failure]  # by what each is called
    comparison: SweepComparison | None  # None if there is no fold that all recipes have finished
    estimate: Estimate | None = None  # of a dry run, if a job is left to do


def plan_sweep(options: Options) -> SweepPlan:
    """Check all that a sweep needs, and list its jobs. Nothing is written.

    Raises:
        MaskensError: everything that would fail later, all at once.
    """
    from ensemble.backends.choose import choose_hardware
    from ensemble.jobs.card import refuse_leaking_weights
    from ensemble.jobs.finished import begun, restore, unfinished
    from ensemble.jobs.hardware import unused_gpu
    from ensemble.jobs.spec import plan, refuse_jobs_without_photos
    from ensemble.training.preflight import job_warnings, preflight
    from ensemble.training.tracking import check_trackers
    from folds.ranges import parse_folds, parse_seeds
    from folds.run_folder import load_data

    folder = options.out
    before = load_sweep(folder)
    base = _base(before, options.run)
    data, folds = load_data(base, options.data)
    hardware = choose_hardware(options.device, options.workers, options.jobs, options.backend, options.address)
    trackers = tuple(dict.fromkeys(options.track or ()))
    check_trackers(trackers)
    problems: list[str] = []
    recipes = _recipes(before, options, problems)
    asked = parse_seeds(options.seed) if options.seed else ()
    seeds = tuple(dict.fromkeys([*(before.seeds if before else ()), *asked])) or (base.seed,)
    kept = before.folds if before else ()
    wanted = sorted({*kept, *parse_folds(options.fold, base.k)}) if options.fold else [*kept] or [*range(base.k)]
    texts = {name: recipe.text for name, recipe in recipes.items()}
    sweep = Sweep(folder, base.fingerprint, base.folds_hash, texts, seeds, tuple(wanted))
    jobs: list[JobSpec] = []
    warnings: list[str] = []
    for name, recipe in recipes.items():
        mine = []
        for seed in seeds:
            with _noted(problems):
                run = _run_of(sweep, base, name, seed, recipe)
                cache = cache_folder(options.cache, run.folder)
                mine += plan(run, recipe, [*recipe.tasks], wanted, hardware, cache, trackers, options.compile_models)
        with _noted(problems):
            warnings += restore(mine)
        if left := unfinished(mine):
            with _noted(problems):
                refuse_jobs_without_photos([s for s in left if s.run.seed == left[0].run.seed], data, folds)
            with _noted(problems):
                refuse_leaking_weights(left, data, folds)
            with _noted(problems):
                warnings += preflight(recipe, {s.task: 0 for s in left}, begun(left), hardware.device)
                warnings += job_warnings(left, data, folds)
        jobs += mine
    refuse(problems, f"the sweep {folder} can't be trained")
    place = {pair: number for number, pair in enumerate((seed, name) for seed in seeds for name in recipes)}
    todo = sorted(unfinished(jobs), key=lambda s: (s.fold, place[s.run.seed, s.recipe.name]))
    if todo:
        warnings += filter(None, [unused_gpu(options.device, hardware), hardware.oversubscription])
    return SweepPlan(
        sweep=sweep,
        data=data,
        folds=folds,
        recipes=recipes,
        jobs=tuple(jobs),
        todo=tuple(todo),
        hardware=hardware,
        retries=options.retries,
        skip_bad=options.skip_bad_photos,
        warnings=tuple(dict.fromkeys(warnings)),
    )


@contextlib.contextmanager
def _noted(problems: list[str], where: str = "") -> Iterator[None]:
    """Add what is wrong to the list, in place of raising it."""
    try:
        yield
    except MaskensError as error:
        problems.append(where + str(error).replace("\n", "\n    "))


def _base(before: Sweep | None, named: Path | None) -> Run:
    """The run whose folds all others have: the one named, or one of the sweep's own."""
    from folds.run_folder import load_run, remembered

    first: Path = DEFAULT_RUNS[0]
    there = [run for pair in before.pairs if (run := remembered(before.run_folder(*pair)))] if before else []
    if before and not (named or there or remembered(first)):
        raise MaskensError(f"{before.folder} has no run yet. Name the one whose folds it is to have: --run DIR")
    base = there[0] if there and not named else load_run(named or first)
    if before and (base.fingerprint, base.folds_hash) != (before.fingerprint, before.folds_hash):
        raise MaskensError(
            f"{base.folder} has other data or folds than the sweep {before.folder}. Leave --run out to go on with the "
            "sweep's own folds, or start another sweep with --out DIR."
        )
    return base


def _recipes(before: Sweep | None, options: Options, problems: list[str]) -> dict[str, Recipe]:
    """Those that the sweep has and those that are named, by name."""
    from ensemble.recipes.recipe_file import alike, changed_recipe, differences, parse_recipe
    from ensemble.recipes.schema import shipped

    asked, changes, weights = options.recipe or (), options.change or (), options.weights or ()
    found = {name: parse_recipe(text, name) for name, text in (before.recipes if before else {}).items()}
    kept = dict(found)
    if not asked and (changes or weights or options.no_pretrained):
        problems.append("--set and the weights' options go with --recipe: they are for the recipes named with them")
    if not asked and before is None:
        problems.append("name what to train, like --recipe quick --recipe mine.toml")
    named: dict[str, str] = {}  # name -> as it was given
    for given in asked:
        name = given if given in shipped() else Path(given).stem
        if name in named:
            problems.append(f"--recipe {given}: runs are named by their recipe, and so is --recipe {named[name]}")
            continue
        named[name] = given
        with _noted(problems, f"--recipe {given}: "):
            recipe = changed_recipe(kept.get(name), given, changes, weights, not options.no_pretrained)
            recipe = recipe.model_copy(update={"name": name})
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
    from folds.run_folder import remembered

    runs = [remembered(sweep.run_folder(recipe, seed)) for seed in sweep.seeds]
    return any(run.jobs_on_disk() for run in runs if run)


def _run_of(sweep: Sweep, base: Run, name: str, seed: int, recipe: Recipe) -> Run:
    """The run of a recipe and a seed, as it is or as it will be.

    Raises:
        MaskensError: what is there does not belong to the sweep.
    """
    from ensemble.recipes.recipe_file import alike, differences, run_recipe
    from folds.run_folder import differing, refuse_foreign, remembered

    folder = sweep.run_folder(name, seed)
    refuse_foreign(folder)
    run = remembered(folder)
    if run is None:
        return dataclasses.replace(base, folder=folder, seed=seed, recipe_hash="")
    other = differing(run, base, "data", "folds", "skipped photos")
    faults = [f"it has other {other}"] if other else []
    faults += ["it has other label fixes"] if run.fixes_hash != base.fixes_hash else []
    faults += [f"its seed is {run.seed}"] if run.seed != seed else []
    faults += ["it has pseudo-labels"] if run.pseudo_record.exists() else []
    faults += ["it is a student, with soft targets"] if run.soft_record.exists() else []
    if run.recipe_hash and run.jobs_on_disk() and not alike(theirs := run_recipe(run), recipe):
        faults += differences(theirs, recipe)[:8]
    refuse(faults, f"{folder} does not belong to this sweep", "Move it away, or choose another --out DIR")
    return run


def begin_sweep(plan: SweepPlan, observer: Observer) -> SweepPlan:
    """Write down what the sweep is, make its runs, leave out photos that can't be read if that was asked for, and take
    over jobs that another of its runs has finished."""
    from ensemble.jobs.finished import reuse_among, unfinished
    from ensemble.recipes.recipe_file import bind_recipe
    from ensemble.training.preflight import remember_skipped
    from folds.files import write_record
    from folds.run_folder import load_run, remembered, start_run

    write_record(plan.sweep.folder / SWEEP, plan.sweep, without=("folder",))
    runs: dict[Path, Run] = {}
    for (recipe, seed), run in plan.runs.items():
        if not remembered(run.folder):
            made, _ = start_run(run.folder, plan.data, plan.folds, run.k, seed)
            if plan.data.skipped:
                remember_skipped(made, plan.data.skipped)
        runs[run.folder] = bind_recipe(load_run(run.folder), plan.recipes[recipe])
    plan = plan.with_jobs(lambda spec: dataclasses.replace(spec, run=runs[spec.run.folder]))
    plan = leave_out_bad_photos(plan, observer)
    if taken := reuse_among(plan.todo, plan.jobs):
        observer.say(f"{taken} finished jobs are taken over from another run of the sweep")
    plan = dataclasses.replace(plan, todo=tuple(unfinished(plan.todo)))
    _print_matrix(plan, observer)
    return plan


def _print_matrix(plan: SweepPlan, observer: Observer) -> None:
    """Print which runs and jobs there are, with what is left of them."""
    from ensemble.reporting.live_table import matrix_table

    seeds, folds = (", ".join(map(str, numbers)) for numbers in (plan.sweep.seeds, plan.sweep.folds))
    observer.print(matrix_table(f"{plan.sweep.folder}, seeds {seeds}, folds {folds}", plan.counts()))


def _compare(options: Options) -> SweepComparison | None:
    """Compare the recipes of a sweep as far as it has come, and write comparison.csv and .json into its folder.

    Returns:
        None if there is no fold yet that all recipes have finished with the same seed.

    Raises:
        MaskensError: no sweep there, or files that don't belong together.
    """
    from ensemble.evaluation.compare import compare_recipes, records
    from folds.files import json_text, safe_csv, write_text
    from folds.run_folder import remembered

    out, tta, checkpoint = options.out, options.tta, options.checkpoint
    sweep = load_sweep(out)
    if sweep is None:
        raise MaskensError(f"there is no sweep in {out} yet. Begin one: maskens sweep --out {typed(out)} --recipe NAME")
    runs = {pair: run for pair in sweep.pairs if (run := remembered(sweep.run_folder(*pair)))}
    found = compare_recipes(runs, options.data, tta, checkpoint)
    if found is None:
        return None
    rows = records(found)
    about = {"seeds": found.seeds, "folds": found.folds, "photos": found.photos, "people": found.people}
    about |= {"checkpoint": checkpoint, "tta": tta, "notes": found.notes, "scores": rows}
    flat = [{k: v for k, v in row.items() if not k.startswith("seeds_")} for row in rows]
    write_text(sweep.folder / "comparison.json", json_text(about))
    write_text(sweep.folder / "comparison.csv", safe_csv(list(flat[0]), [[*row.values()] for row in flat]))
    return found


def _print(swept: Swept, options: Options, terminal: Terminal) -> None:
    """Print what the recipes are worth, as far as the sweep has come."""
    if swept.estimate:
        print_estimate(terminal, swept.estimate)
    if options.dry_run and not options.compare:
        return
    from ensemble.reporting.live_table import comparison_line, comparison_table

    if found := swept.comparison:
        out, epoch = options.out, options.checkpoint.capitalize()
        terminal.print(comparison_table(found))
        terminal.note(found.notes)
        terminal.say(f"{comparison_line(found)} {epoch} epochs, views: {options.tta}.", "dim")
        terminal.say(f"saved: {out / 'comparison.csv'} and comparison.json, which holds the figures of each seed too")
    else:
        terminal.say("nothing to compare yet: no fold is finished by all recipes with the same seed", "yellow")
    fail_jobs(swept.failed, swept.trained + len(swept.failed))


@step(Options, show=_print, first="out")
def sweep(options: Options, observer: Observer) -> Swept:
    """Train several recipes with several seeds on the same folds, as one queue, and compare them.

    Example:  maskens sweep --recipe quick --recipe mine.toml --seed 0..2 --fold all --jobs 2
    Example:  maskens sweep, which goes on with a sweep that was stopped
    Example:  maskens sweep --seed 3..4, which adds two seeds to it
    \f
    Returns:
        How many jobs were trained, which failed and why, and the comparison; of a dry run the estimate.

    Raises:
        MaskensError: as `plan_sweep` and `train.carry_out`.
    """
    from folds.ranges import parse_seeds, written_folds

    written_folds(options.fold or "all")  # malformed values are refused before slow imports
    if options.seed:
        parse_seeds(options.seed)
    if options.compare:
        return Swept(0, {}, _compare(options))
    plan = plan_sweep(options)
    observer.note(plan.warnings, "warning")
    if options.dry_run:
        plan = leave_out_bad_photos(plan, observer, write=False)
        _print_matrix(plan, observer)
        return Swept(0, {}, None, plan.estimate(observer))
    title = f"maskens sweep, {plan.sweep.folder}"
    plan, failures = carry_out(plan, title, options.yes, observer, lambda plan: begin_sweep(plan, observer))
    failed = {f"{s.run.folder.name} {s.task} fold {s.fold}": failure for s, failure in failures}
    return Swept(len(plan.queue) - len(failed), failed, _compare(options))
