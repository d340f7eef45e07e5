"""Sweeps: several recipes with several seeds on the same folds, as one queue, compared at the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ensemble.evaluation.compare import SweepComparison, compare_recipes, records
from ensemble.jobs.oof import Checkpoint
from ensemble.jobs.reuse import reuse_among
from ensemble.jobs.spec import geometry, refuse_jobs_without_photos
from ensemble.jobs.sweep import load_sweep, save_sweep
from ensemble.pipeline.inputs import Folder, OnProgress, part_of
from ensemble.pipeline.sweep_plan import DEFAULT_OPTIONS, DEFAULT_SWEEP, SweepOptions, SweepPlan, plan_sweep
from ensemble.recipes.run_recipe import bind_recipe
from ensemble.recipes.views import Tta
from ensemble.training.preflight import leave_out_unreadable, remember_skipped
from ensemble.training.queue import JobsDisplay, NoDisplay, fill_cache
from ensemble.training.queue import train as train_jobs
from ensemble.training.runner import Failure
from folds.errors import MaskensError, Stopped, typed
from folds.files import json_text, listing_text, write_text
from folds.run import Run, load_run, remembered, start_run


@dataclass(frozen=True)
class Swept:
    """What became of a sweep."""

    plan: SweepPlan
    trained: int  # jobs
    failed: Sequence[tuple[str, Failure]]  # what each is called, and why
    comparison: SweepComparison | None  # None if there is no fold that all recipes have finished


def begin_sweep(planned: SweepPlan, on_progress: OnProgress | None = None) -> tuple[SweepPlan, int]:
    """Write down what the sweep is, make its runs, leave out photos that can't be read if that was asked for, and take
    over jobs that another of its runs has finished.

    Returns:
        (plan, how many jobs were taken over).
    """
    save_sweep(planned.sweep)
    runs = {}
    for (recipe, seed), run in planned.runs.items():
        if not remembered(run.folder):
            made, _ = start_run(run.folder, planned.data, planned.folds, run.k, seed)
            if planned.data.skipped:
                remember_skipped(made, planned.data.skipped)
        runs[recipe, seed] = bind_recipe(load_run(run.folder), planned.recipes[recipe])
    planned = leave_out_bad_photos(_with_runs(planned, runs), on_progress)
    return planned, reuse_among(planned.todo, planned.jobs)


def leave_out_bad_photos(planned: SweepPlan, on_progress: OnProgress | None = None, write: bool = True) -> SweepPlan:
    """The plan without photos that can't be read, if that was asked for and a job is left to do.

    Args:
        write: have the runs remember them; else nothing is written.

    Raises:
        MaskensError: a run has models that were trained on photos that can't be read now, or jobs have nobody left to
            learn from.
    """
    todo = planned.todo
    if not (planned.skip_bad and todo):
        return planned
    geometries = list(dict.fromkeys(geometry(s.recipe.tasks[s.task]) for s in todo))
    opening, threads = part_of(on_progress, "decoding photos"), planned.hardware.decoding_threads
    runs = dict(planned.runs)
    first = next((pair for pair, run in runs.items() if run.jobs_on_disk()), next(iter(runs)))
    runs[first], data = leave_out_unreadable(
        runs[first], planned.data, geometries, todo[0].cache, threads, opening, write
    )
    for pair, run in runs.items():
        if write and run.skipped_hash != runs[first].skipped_hash:
            remember_skipped(run, data.skipped)
        runs[pair] = dataclasses.replace(run, skipped_hash=runs[first].skipped_hash)
    refuse_jobs_without_photos(todo, data, planned.folds)
    return dataclasses.replace(_with_runs(planned, runs), data=data)


def _with_runs(planned: SweepPlan, runs: Mapping[tuple[str, int], Run]) -> SweepPlan:
    jobs = tuple(dataclasses.replace(s, run=runs[s.recipe.name, s.run.seed]) for s in planned.jobs)
    return dataclasses.replace(planned, runs=runs, jobs=jobs)


def decode_photos(planned: SweepPlan, on_progress: OnProgress | None = None) -> list[str]:
    """Decode the photos once for all jobs of a sweep that has begun.

    Returns:
        What to say of faces that were to be found and were not.

    Raises:
        MaskensError: a photo that can't be read, a full disk.
    """
    return fill_cache(planned.queue, planned.data, planned.hardware, part_of(on_progress, "decoding photos"))


def train_sweep(planned: SweepPlan, display: JobsDisplay) -> list[tuple[str, Failure]]:
    """Train the jobs of a sweep that has begun; those that several runs share once. A job that fails stops no other.

    Args:
        display: is shown the states of `planned.shown`.

    Returns:
        What each job that failed is called, and why.

    Raises:
        MaskensError: another process is at one of the jobs.
        Stopped: by Ctrl-C or SIGTERM, once the jobs under way have saved what they have learned.
    """
    queue = planned.queue
    if not queue:
        return []
    try:
        failures = train_jobs(
            queue,
            planned.data,
            planned.folds,
            planned.shown,
            planned.hardware,
            display,
            retries=planned.retries,
        )
    except Stopped:
        reuse_among(planned.todo, planned.jobs)
        raise
    reuse_among(planned.todo, planned.jobs)
    labels = [f"{s.run.folder.name} {s.task} fold {s.fold}" for s in queue]
    return [(labels[place], failure) for place, failure in failures.items()]


def compare_sweep(
    out: Folder = DEFAULT_SWEEP,
    *,
    data: Folder | None = None,
    tta: Tta = "flip",
    checkpoint: Checkpoint = "cross-fitted",
) -> SweepComparison | None:
    """Compare the recipes of a sweep as far as it has come, and write comparison.csv and .json into its folder.

    Args:
        data: where the data are now, if they were moved.
        tta: the views of the out-of-fold logits.
        checkpoint: which epoch of each job.

    Returns:
        None if there is no fold yet that all recipes have finished with the same seed.

    Raises:
        MaskensError: no sweep there, or files that don't belong together.
    """
    sweep = load_sweep(Path(out))
    if sweep is None:
        raise MaskensError(f"there is no sweep in {out} yet. Begin one: maskens sweep --out {typed(out)} --recipe NAME")
    runs = {pair: run for pair in sweep.pairs if (run := remembered(sweep.run_folder(*pair)))}
    found = compare_recipes(runs, Path(data) if data else None, tta, checkpoint)
    if found is None:
        return None
    rows = records(found)
    about = {"seeds": found.seeds, "folds": found.folds, "photos": found.photos, "people": found.people}
    about |= {"checkpoint": checkpoint, "tta": tta, "notes": found.notes, "scores": rows}
    flat = [{k: v for k, v in row.items() if not k.startswith("seeds_")} for row in rows]
    write_text(sweep.folder / "comparison.json", json_text(about))
    write_text(sweep.folder / "comparison.csv", listing_text(list(flat[0]), [[*row.values()] for row in flat]))
    return found


def sweep(
    out: Folder = DEFAULT_SWEEP,
    options: SweepOptions = DEFAULT_OPTIONS,
    *,
    display: JobsDisplay | None = None,
    on_progress: OnProgress | None = None,
) -> Swept:
    """Train a run for each recipe and seed on the same folds and compare the recipes; what is finished is kept.

    Args:
        out: the sweep's folder. Its runs are `RECIPE-seedN` in it.
        display: as of `train_sweep`.
        on_progress: told of the photos that are decoded.

    Raises:
        MaskensError: as `plan_sweep` and `train_sweep`.
    """
    planned, _ = begin_sweep(plan_sweep(out, options), on_progress)
    decode_photos(planned, on_progress)
    queue = planned.queue
    failed = train_sweep(planned, display or NoDisplay())
    return Swept(planned, len(queue) - len(failed), failed, compare_sweep(out, data=options.data))
