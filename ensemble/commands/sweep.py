"""maskens sweep."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensemble.commands.jobs import confirm_long, fail_jobs, print_estimate
from ensemble.commands.options import (
    AddressOption,
    BackendOption,
    CacheOption,
    CheckpointOption,
    DataOption,
    DeviceOption,
    DryOption,
    JobsOption,
    QuietOption,
    RetriesOption,
    SetOption,
    SkipBadOption,
    ViewsOption,
    WorkersOption,
)
from ensemble.commands.terminal import make_console, note, progress_bars, say
from ensemble.commands.train_options import (
    CompileOption,
    NoPretrainedOption,
    TrackOption,
    WeightsOption,
    YesOption,
)

if TYPE_CHECKING:
    from rich.console import Console

    from ensemble.jobs.oof import Checkpoint
    from ensemble.pipeline.sweep_plan import SweepPlan
    from ensemble.training.runner import Failure


def sweep(
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            "--recipe",
            metavar="NAME|FILE",
            help="Recipe to train, may be repeated; the others are compared with the first. Later ones are added.",
        ),
    ] = None,
    seed: Annotated[
        str | None,
        typer.Option(
            "--seed",
            metavar="SEEDS",
            envvar="MASKENS_SEED",
            help="Seeds of initial weights, order and augmentation: 7, 0..2 or 0,2,4. Later ones are added. At first "
            "that of --run.",
        ),
    ] = None,
    fold: Annotated[
        str | None,
        typer.Option("--fold", metavar="FOLDS", help="3, 0..4, 0,2,4 or all. Later ones are added. At first all."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The sweep's folder. A run in it is RECIPE-seedN.")
    ] = Path("runs/sweep"),
    run: Annotated[
        Path | None,
        typer.Option(
            "--run",
            metavar="DIR",
            envvar="MASKENS_RUN",
            help="Run whose folds all runs of the sweep have, at first runs/default. The sweep remembers them.",
        ),
    ] = None,
    change: SetOption = None,
    weights: WeightsOption = None,
    no_pretrained: NoPretrainedOption = False,
    jobs: JobsOption = None,
    backend: BackendOption = None,
    address: AddressOption = None,
    retries: RetriesOption = 2,
    compare: Annotated[bool, typer.Option("--compare", help="Train nothing: compare what is finished.")] = False,
    tta: ViewsOption = "flip",
    checkpoint: CheckpointOption = "cross-fitted",
    track: TrackOption = None,
    compile_models: CompileOption = False,
    skip_bad_photos: SkipBadOption = False,
    cache: CacheOption = "",
    dry_run: DryOption = False,
    yes: YesOption = False,
    data: DataOption = None,
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train several recipes with several seeds on the same folds, as one queue, and compare them.

    Example:  maskens sweep --recipe quick --recipe mine.toml --seed 0..2 --fold all --jobs 2
    Example:  maskens sweep, which goes on with a sweep that was stopped
    Example:  maskens sweep --seed 3..4, which adds two seeds to it
    """
    from folds.ranges import parse_folds, parse_seeds, written_folds

    written_folds(fold or "all")  # malformed values are refused before slow imports
    seeds = parse_seeds(seed) if seed else ()
    console = make_console(quiet)
    if compare:
        print_comparison(console, out, data, tta, checkpoint)
        return

    from ensemble.pipeline.sweep import begin_sweep, leave_out_bad_photos
    from ensemble.pipeline.sweep_plan import SweepOptions, plan_sweep, sweep_k

    options = SweepOptions(
        run=run,
        recipes=recipe or (),
        changes=change or (),
        weights=weights or (),
        pretrained=not no_pretrained,
        seeds=seeds,
        folds=parse_folds(fold, sweep_k(out, run)) if fold else None,
        jobs=jobs,
        backend=backend,
        address=address,
        retries=retries,
        track=track or (),
        compile=compile_models,
        skip_bad_photos=skip_bad_photos,
        cache=cache,
        data=data,
        device=device,
        workers=workers,
    )
    plan = plan_sweep(out, options)
    note(console, plan.warnings, "warning")
    if dry_run:
        with progress_bars(console) as on_progress:
            plan = leave_out_bad_photos(plan, on_progress, write=False)
        print_matrix(console, plan)
        print_estimate(console, plan)
        return
    if plan.queue and not yes:
        confirm_long(console, plan)
    with progress_bars(console) as on_progress:
        plan, taken = begin_sweep(plan, on_progress)
    if taken:
        say(console, f"{taken} finished jobs are taken over from another run of the sweep")
    print_matrix(console, plan)
    count = len(plan.queue)
    failed = run_queue(console, plan)
    print_comparison(console, out, data, tta, checkpoint)
    fail_jobs(failed, count)


def print_matrix(console: Console, plan: SweepPlan) -> None:
    """Print which runs and jobs there are, with what is left of them."""
    from ensemble.reporting.live_table import matrix_table

    seeds, folds = (", ".join(map(str, numbers)) for numbers in (plan.sweep.seeds, plan.sweep.folds))
    console.print(matrix_table(f"{plan.sweep.folder}, seeds {seeds}, folds {folds}", plan.counts()))


def run_queue(console: Console, plan: SweepPlan) -> list[tuple[str, Failure]]:
    """Train with a live table; returns what failed, by name."""
    from ensemble.jobs.spec import job_labels
    from ensemble.pipeline.sweep import decode_photos, train_sweep
    from ensemble.reporting.live_table import jobs_display, sweep_jobs_table

    if not plan.queue:
        return []
    with progress_bars(console) as on_progress:
        notes = decode_photos(plan, on_progress)
    note(console, notes)
    table = functools.partial(sweep_jobs_table, [s.run.folder.name for s in plan.shown])
    with jobs_display(console, f"maskens sweep, {plan.sweep.folder}", job_labels(plan.shown), table) as display:
        return train_sweep(plan, display)


def print_comparison(console: Console, out: Path, data: Path | None, tta: str, checkpoint: Checkpoint) -> None:
    """Print what the recipes are worth, as far as the sweep has come."""
    from ensemble.pipeline.sweep import compare_sweep
    from ensemble.reporting.live_table import comparison_line, comparison_table

    found = compare_sweep(out, data=data, tta=tta, checkpoint=checkpoint)
    if found is None:
        say(console, "nothing to compare yet: no fold is finished by all recipes with the same seed", "yellow")
        return
    console.print(comparison_table(found))
    note(console, found.notes)
    say(console, f"{comparison_line(found)} {checkpoint.capitalize()} epochs, views: {tta}.", "dim")
    say(console, f"saved: {out / 'comparison.csv'} and comparison.json, which holds the figures of each seed too")
