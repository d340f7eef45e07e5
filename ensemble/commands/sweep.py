"""maskens sweep: several recipes with several seeds on the same folds, as one queue, compared at the end."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ensemble.commands.options import DEFAULT_RUNS, SweepOptions, cache_folder
from ensemble.commands.step import step
from ensemble.commands.terminal import Observer, Terminal
from ensemble.commands.training import (
    TrainingPlan,
    carry_out,
    check_jobs,
    exit_if_failed,
    hardware_and_trackers,
    print_estimate,
    skip_bad_photos,
)
from ensemble.evaluation.compare import Comparison, compare_recipes, records
from ensemble.jobs.finished import once_each, reuse_among, unfinished
from ensemble.jobs.spec import JobSpec, plan
from ensemble.recipes.recipe_file import bind_recipe, changed_recipe, differences, parse_recipe, run_recipe, same_jobs
from ensemble.recipes.schema import Recipe, shipped
from folds.errors import MaskensError, refuse, typed
from folds.files import json_text, safe_csv, write_text
from folds.people import TrainData
from folds.ranges import parse_folds, parse_seeds
from folds.records import read_record, write_record
from folds.run_folder import Run, differing, find_run, has_run, load_data, load_run, run_like, write_run_like

if TYPE_CHECKING:
    from ensemble.training.cost import Estimate
    from ensemble.training.queue import Failure

SWEEP = "sweep.json"


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
    """The sweep in a folder, None if there is none yet. Raises MaskensError: a sweep.json that is damaged or was
    edited, or the folder is a run or no folder."""
    if has_run(folder) or (folder.exists() and not folder.is_dir()):
        what = "run folder" if folder.is_dir() else "file"
        raise MaskensError(f"{folder} is a {what}. Name another folder for the sweep with --out DIR.")
    path = folder / SWEEP
    return read_record(path, Sweep, check=_refuse_paths, folder=folder) if path.exists() else None


def _refuse_paths(sweep: Sweep) -> None:
    if any(Path(name).name != name for name in sweep.recipes):
        raise ValueError("a recipe's name is a path")


@dataclass(frozen=True)
class Swept:
    """The result of a sweep."""

    trained: int  # jobs
    failed: Mapping[str, Failure]  # by run, task and fold: "quick-seed0 mask fold 1"
    comparison: Comparison | None  # None if there is no fold that all recipes have finished
    estimate: Estimate | None = None  # of a dry run, if a job is left to do


def plan_sweep(options: SweepOptions) -> tuple[Sweep, Run, TrainingPlan]:
    """Check all that a sweep needs, and list its jobs; returns also the run whose folds it uses. Nothing is written.

    Jobs are trained fold by fold, so that a sweep that is stopped early has about the same folds of all recipes and
    seeds to compare. Raises MaskensError: everything that would fail later, all at once."""
    before = load_sweep(options.out)
    base = _base(before, options.run)
    data, folds = load_data(base, options.data)
    problems: list[str] = []
    recipes = _recipes(before, options, problems)
    headline = f"the sweep {options.out} can't be trained"
    refuse(problems, headline)
    hardware, trackers = hardware_and_trackers(options)
    asked = parse_seeds(options.seed) if options.seed else ()
    seeds = tuple(dict.fromkeys([*(before.seeds if before else ()), *asked])) or (base.seed,)
    kept = before.folds if before else ()
    wanted = sorted({*kept, *parse_folds(options.fold, base.k)}) if options.fold else [*kept] or [*range(base.k)]
    texts = {name: recipe.text for name, recipe in recipes.items()}
    sweep = Sweep(options.out, base.fingerprint, base.folds_hash, texts, seeds, tuple(wanted))
    jobs: list[JobSpec] = []
    warnings: list[str] = []
    for recipe in recipes.values():
        mine: list[JobSpec] = []
        for seed in seeds:
            with _noted(problems):
                run = _run_of(sweep, base, data, seed, recipe)
                cache = cache_folder(options.cache, run.folder)
                mine += plan(run, recipe, [*recipe.tasks], wanted, hardware, cache, trackers, options.compile_models)
        with _noted(problems):
            warnings += check_jobs(mine, data, folds, options.device, hardware)[1]
        jobs += mine
    refuse(problems, headline)
    order = [(seed, name) for seed in seeds for name in recipes]
    todo = sorted(unfinished(jobs), key=lambda s: (s.fold, order.index((s.run.seed, s.recipe.name))))
    found = TrainingPlan(options, data, folds, tuple(jobs), tuple(todo), hardware, tuple(dict.fromkeys(warnings)))
    return sweep, base, found


@contextlib.contextmanager
def _noted(problems: list[str], where: str = "") -> Iterator[None]:
    """Append an error to the list instead of raising it."""
    try:
        yield
    except MaskensError as error:
        problems.append(where + str(error).replace("\n", "\n    "))


def _base(before: Sweep | None, named: Path | None) -> Run:
    """The run whose folds the sweep uses: the one named, or one of the sweep's own."""
    first: Path = DEFAULT_RUNS[0]
    runs = [find_run(before.run_folder(*pair)) for pair in before.pairs] if before else []
    there = [run for run in runs if run and run.folds_file.exists()]  # one that was being written may lack it
    if before and not (named or there or find_run(first)):
        raise MaskensError(f"{before.folder} has no run yet. Name the run whose folds it uses: --run DIR")
    base = there[0] if there and not named else load_run(named or first)
    if before and (base.fingerprint, base.folds_hash) != (before.fingerprint, before.folds_hash):
        raise MaskensError(
            f"{base.folder} has other data or folds than the sweep {before.folder}. Resume the sweep without --run, or "
            "start another sweep with --out DIR."
        )
    return base


def _recipes(before: Sweep | None, options: SweepOptions, problems: list[str]) -> dict[str, Recipe]:
    """The recipes of the sweep and those named with --recipe, by name."""
    asked, changes, weights = options.recipe or (), options.change or (), options.weights or ()
    kept = {name: parse_recipe(text, name) for name, text in (before.recipes if before else {}).items()}
    if not asked and (changes or weights or options.no_pretrained):
        problems.append("--set, --weights and --no-pretrained need --recipe: they are for the recipes named with them")
    if not asked and before is None:
        problems.append("name what to train, like --recipe quick --recipe mine.toml")
    named: dict[str, str] = {}  # name -> as it was given
    found = dict(kept)
    for given in asked:
        name = given if given in shipped() else Path(given).stem
        if name in named:
            problems.append(f"--recipe {given}: runs are named by their recipe, and so is --recipe {named[name]}")
            continue
        named[name] = given
        with _noted(problems, f"--recipe {given}: "):
            recipe = changed_recipe(kept.get(name), given, changes, weights, not options.no_pretrained)
            recipe = recipe.model_copy(update={"name": name})
            if before and name in kept and not same_jobs(kept[name], recipe):
                runs = [find_run(before.run_folder(name, seed)) for seed in before.seeds]
                refuse(
                    differences(kept[name], recipe)[:8] if any(run and run.jobs_on_disk() for run in runs) else [],
                    "the sweep has models of another recipe of this name",
                    "Resume without it, or give it another name",
                )
            found[name] = recipe
    return found


def _run_of(sweep: Sweep, base: Run, data: TrainData, seed: int, recipe: Recipe) -> Run:
    """The run of a recipe and a seed, as it is or as it will be. Raises MaskensError: what is there does not belong to
    the sweep."""
    folder = sweep.run_folder(recipe.name, seed)
    run = find_run(folder)
    if run is None:
        return dataclasses.replace(run_like(base, folder, data), seed=seed)
    other = differing(run, base, "data", "folds", "extra photos", "skipped photos")
    faults = [f"it has other {other}"] if other else []
    faults += ["it has other label fixes"] if run.fixes_hash != base.fixes_hash else []
    faults += [f"its seed is {run.seed}"] if run.seed != seed else []
    faults += ["it has pseudo-labels"] if run.pseudo_record.exists() else []
    faults += ["it is a student, with soft targets"] if run.soft_record.exists() else []
    if run.recipe_hash and run.jobs_on_disk() and not same_jobs(theirs := run_recipe(run), recipe):
        faults += differences(theirs, recipe)[:8]
    refuse(faults, f"{folder} does not belong to this sweep", "Move it away, or choose another --out DIR")
    return run


def begin_sweep(sweep: Sweep, base: Run, plan: TrainingPlan, observer: Observer) -> TrainingPlan:
    """Write sweep.json and the runs, skip photos that can't be read if that was asked for, and take over jobs that
    another of its runs has finished."""
    write_record(sweep.folder / SWEEP, sweep, without=("folder",))
    runs: dict[Path, Run] = {}
    for run, recipe in {s.run.folder: (s.run, s.recipe) for s in plan.jobs}.values():
        write_run_like(run, base)
        runs[run.folder] = bind_recipe(load_run(run.folder), recipe)
    plan = plan.with_jobs(lambda spec: dataclasses.replace(spec, run=runs[spec.run.folder]))
    plan = skip_bad_photos(plan, observer)
    if taken := reuse_among(plan.todo, plan.jobs):
        observer.say(f"{taken} finished jobs are taken over from another run of the sweep")
    plan = dataclasses.replace(plan, todo=tuple(unfinished(plan.todo)))
    _print_matrix(sweep, plan, observer)
    return plan


def _print_matrix(sweep: Sweep, plan: TrainingPlan, observer: Observer) -> None:
    """Print which runs and jobs there are, with what is left of them."""
    from ensemble.reporting.tables import matrix_table

    counts = {}
    for name in sweep.recipes:
        jobs, train, shared = (sum(s.recipe.name == name for s in jobs) for jobs in (plan.jobs, *once_each(plan.todo)))
        counts[name] = (len(sweep.seeds), jobs, jobs - train - shared, train, shared)
    seeds, folds = (", ".join(map(str, numbers)) for numbers in (sweep.seeds, sweep.folds))
    observer.print(matrix_table(f"{sweep.folder}, seeds {seeds}, folds {folds}", counts))


def _compare(options: SweepOptions) -> Comparison | None:
    """Compare the recipes of a sweep on the folds finished so far, and write comparison.csv and .json into its folder;
    None if there is no fold yet that all recipes have finished with the same seed. Raises MaskensError: no sweep there,
    or files that don't belong together."""
    out, tta, checkpoint = options.out, options.tta, options.checkpoint
    sweep = load_sweep(out)
    if sweep is None:
        raise MaskensError(f"there is no sweep in {out} yet. Begin one: maskens sweep --out {typed(out)} --recipe NAME")
    runs = {pair: run for pair in sweep.pairs if (run := find_run(sweep.run_folder(*pair)))}
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


def _print(swept: Swept, options: SweepOptions, terminal: Terminal) -> None:
    if options.dry_run and not options.compare:
        print_estimate(swept.estimate, terminal)
        return
    if found := swept.comparison:
        from ensemble.reporting.tables import comparison_line, scores_table

        terminal.print(scores_table(found))
        terminal.note(found.notes)
        terminal.say(comparison_line(found, options.checkpoint, options.tta), "dim")
        terminal.say(f"saved: {options.out / 'comparison.csv'}; comparison.json also has the figures of each seed")
    else:
        terminal.say("nothing to compare yet: no fold is finished by all recipes with the same seed", "yellow")
    exit_if_failed(swept.failed, swept.trained)


@step(SweepOptions, show=_print, first="out")
def sweep(options: SweepOptions, observer: Observer) -> Swept:
    """
    Returns:
        How many jobs were trained, which failed and why, and the comparison; of a dry run the estimate.

    Raises:
        MaskensError: the sweep can't be trained (all reasons at once), another process trains one of the jobs, or the
            disk is full.
    """
    if options.compare:
        return Swept(0, {}, _compare(options))
    sweep, base, plan = plan_sweep(options)
    observer.note(plan.warnings, "warning")
    if options.dry_run:
        plan = skip_bad_photos(plan, observer, write=False)
        _print_matrix(sweep, plan, observer)
        return Swept(0, {}, None, plan.estimate(observer))
    title = f"maskens sweep, {sweep.folder}"
    begin = partial(begin_sweep, sweep, base, observer=observer)
    plan, failures = carry_out(plan, title, options.yes, observer, begin)
    failed = {f"{s.run.folder.name} {s.task} fold {s.fold}": failure for s, failure in failures}
    return Swept(len(plan.queue) - len(failed), failed, _compare(options))
