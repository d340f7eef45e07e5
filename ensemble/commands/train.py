"""maskens train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ensemble.commands.jobs import confirm_long, print_estimate, print_plan, run_jobs
from ensemble.commands.options import (
    DEFAULT_RUNS,
    AddressOption,
    BackendOption,
    CacheOption,
    DataOption,
    DeviceOption,
    DryOption,
    JobsOption,
    QuietOption,
    RetriesOption,
    RunOption,
    SetOption,
    SkipBadOption,
    WorkersOption,
)
from ensemble.commands.terminal import make_console, note, progress_bars, say
from ensemble.commands.train_options import (
    CompileOption,
    FoldOption,
    NoPretrainedOption,
    RestartOption,
    TaskOption,
    TrackOption,
    WeightsOption,
    YesOption,
    chosen_folds,
)
from folds.errors import typed


def train(
    fold: FoldOption = "all",
    task: TaskOption = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="NAME|FILE",
            envvar="MASKENS_RECIPE",
            help="A shipped recipe (see `maskens recipes`) or a TOML file. The run remembers it; at first original.",
        ),
    ] = None,
    change: SetOption = None,
    weights: WeightsOption = None,
    no_pretrained: NoPretrainedOption = False,
    reuse: Annotated[
        Path | None,
        typer.Option("--reuse", metavar="RUN", help="Copy jobs that this run has finished with the same task recipe."),
    ] = None,
    pseudo: Annotated[
        Path | None,
        typer.Option(
            "--pseudo",
            metavar="RUN",
            help="Also learn from the photos to predict that this run is sure of; docs/pseudo.md.",
        ),
    ] = None,
    pseudo_min_p: Annotated[
        float | None,
        typer.Option("--pseudo-min-p", metavar="P", help="Least probability of such a label, 0.95 by default."),
    ] = None,
    restart: RestartOption = False,
    jobs: JobsOption = None,
    backend: BackendOption = None,
    address: AddressOption = None,
    retries: RetriesOption = 2,
    track: TrackOption = None,
    compile_models: CompileOption = False,
    skip_bad_photos: SkipBadOption = False,
    cache: CacheOption = "",
    dry_run: DryOption = False,
    yes: YesOption = False,
    run: RunOption = DEFAULT_RUNS,
    data: DataOption = None,
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train one model per fold and task; finished jobs are kept, interrupted ones go on.

    Example:  maskens train --fold 0..4 --recipe quick --weights tf_efficientnet_lite0.safetensors
    Example:  maskens train --backend dask --address tcp://10.0.0.1:8786; docs/cluster.md
    Example:  maskens train --skip-bad-photos, after which the run leaves out the same photos whenever it goes on
    """
    chosen = chosen_folds(fold, run[0])

    from ensemble.pipeline.train import TrainOptions, leave_out_bad_photos, plan_training, reuse_finished

    console = make_console(quiet)
    options = TrainOptions(
        folds=chosen,
        tasks=task or (),
        recipe=recipe,
        changes=change or (),
        weights=weights or (),
        pretrained=not no_pretrained,
        reuse=reuse,
        pseudo=pseudo,
        pseudo_min_p=pseudo_min_p,
        restart=restart,
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
    plan = plan_training(run[0], options)
    print_plan(console, plan)
    with progress_bars(console) as on_progress:
        plan = leave_out_bad_photos(plan, on_progress, write=not dry_run)
    if plan.todo:
        note(console, filter(None, [plan.left_out]), "warning")
    if plan.pseudo and plan.todo:
        from ensemble.reporting.plan_tables import pseudo_line, pseudo_table

        console.print(pseudo_table(plan.pseudo))
        say(console, pseudo_line(plan.pseudo))
    if plan.soft and plan.todo:
        say(console, f"soft targets {plan.soft.words}")
    if dry_run:
        print_estimate(console, plan)
        return
    if plan.source and plan.todo:
        plan, copied = reuse_finished(plan)
        say(console, f"{copied} finished jobs are taken from {reuse}")
    if plan.todo:
        if not yes:
            confirm_long(console, plan)
        run_jobs(console, plan)
    say(console, f"next: maskens infer --run {typed(run[0])}", "dim")
