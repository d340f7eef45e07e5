"""maskens distil."""

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
    RunsOption,
    SetOption,
    SkipBadOption,
    TtaOption,
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


def distil(
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="NAME|FILE",
            help="The student's: a shipped recipe or a TOML file. Default: the ensemble's own; stored in its run.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="The student's run folder; by default RUN-student."),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", metavar="T", help="Divides the ensemble's log probabilities; 1 by default."),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option("--alpha", metavar="A", help="The ensemble's share of a target, the label has the rest; 0.5."),
    ] = None,
    tta: TtaOption = None,
    fold: FoldOption = "all",
    task: TaskOption = None,
    change: SetOption = None,
    weights: WeightsOption = None,
    no_pretrained: NoPretrainedOption = False,
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
    run: RunsOption = DEFAULT_RUNS,
    data: DataOption = None,
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train a student on the predictions of an ensemble: fold k learns from the ensemble's models of fold k.

    The student is a run of its own, on the same data and folds; infer, score, export and all others take it. One fold
    of it is a model that predicts in one pass; all folds give it an out-of-fold score. docs/distil.md.

    Example:  maskens distil --run runs/default --recipe student.toml --fold 0
    Example:  maskens infer --run runs/default-student --allow-missing --tta none
    Example:  maskens distil --run runs/a --run runs/b --recipe best --alpha 0.7 --out runs/student
    """
    chosen = chosen_folds(fold, run[0])

    from ensemble.pipeline.distil import DistilOptions, begin_student, plan_distillation, trained_models
    from ensemble.pipeline.train import TrainOptions, leave_out_bad_photos

    console = make_console(quiet)
    training = TrainOptions(
        folds=chosen,
        tasks=task or (),
        recipe=recipe,
        changes=change or (),
        weights=weights or (),
        pretrained=not no_pretrained,
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
    options = DistilOptions(out, temperature, alpha, tta, training)
    planned = plan_distillation(run, options)
    plan = planned.training
    say(console, f"student {plan.run.folder}, soft targets {planned.soft.words}")
    print_plan(console, plan)
    if dry_run:
        with progress_bars(console) as on_progress:
            plan = leave_out_bad_photos(plan, on_progress, write=False)
        print_estimate(console, plan)
        return
    if plan.todo:
        if not yes:
            confirm_long(console, plan)
        with progress_bars(console) as on_progress:
            plan = begin_student(planned, on_progress)
        note(console, filter(None, [plan.left_out]), "warning")
        run_jobs(console, plan)
    models, complete = trained_models(planned)
    options_then = " --tta none" if complete else " --allow-missing --tta none"
    passes = f"{models} {'pass' if models == 1 else 'passes'} a photo, the ensemble makes {planned.soft.passes}"
    say(console, f"next: maskens infer --run {typed(plan.run.folder)}{options_then}   # {passes}", "dim")
