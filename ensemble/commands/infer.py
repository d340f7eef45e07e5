"""maskens infer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ensemble.commands.infer_options import (
    BudgetOption,
    DecisionOption,
    EngineOption,
    PersonColumnOption,
    PrecisionOption,
    SubmissionOption,
    VoteOption,
)
from ensemble.commands.options import (
    DEFAULT_RUNS,
    AddressOption,
    BackendOption,
    CacheOption,
    DataOption,
    DeviceOption,
    DryOption,
    JobsOption,
    MissingOption,
    NoTuningOption,
    QuietOption,
    RetriesOption,
    RunsOption,
    SkipBadOption,
    TtaOption,
    WorkersOption,
)
from ensemble.commands.terminal import make_console, note, progress_bars, run_options, say
from folds.errors import MaskensError


def infer(
    more: Annotated[list[Path] | None, typer.Argument(metavar="CSV", hidden=True)] = None,
    tta: TtaOption = None,
    decision: DecisionOption = None,
    votes: VoteOption = None,
    person_column: PersonColumnOption = None,
    no_tuning: NoTuningOption = False,
    engine: EngineOption = "torch",
    precision: PrecisionOption = "fp32",
    out: SubmissionOption = None,
    compile_models: Annotated[
        bool, typer.Option("--compile", help="Compile the models first (torch.compile): pays for many photos.")
    ] = False,
    no_early_exit: Annotated[
        bool,
        typer.Option("--no-early-exit", "--ask-all", help="Run all age models on every photo."),
    ] = False,
    budget: BudgetOption = "exact",
    allow_missing: MissingOption = False,
    skip_bad_photos: SkipBadOption = False,
    cache: CacheOption = "",
    dry_run: DryOption = False,
    run: RunsOption = DEFAULT_RUNS,
    data: DataOption = None,
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
    jobs: JobsOption = None,
    backend: BackendOption = None,
    address: AddressOption = None,
    retries: RetriesOption = 2,
    quiet: QuietOption = False,
) -> None:
    """Predict the eval photos with every fold's models and write ImageID,ans.

    `--data DIR` may name another data folder that has only eval/.

    Several runs are averaged, equally or with the weights of `maskens tune --blend`. With `--vote a.csv b.csv` each
    file and each run has a vote; ties go to the most probable class.

    Example:  maskens infer --tta flip
    Example:  maskens infer --person-column person
    Example:  maskens infer --budget 0.5
    Example:  maskens infer --engine auto --precision auto
    Example:  maskens infer --jobs 8 --backend dask --address tcp://10.0.0.1:8786
    Example:  maskens infer --skip-bad-photos, which still answers every row of info.csv
    Example:  maskens infer --tta mine.toml, which says: views = ["identity", "hflip scale=1.1"]
    """
    if more and not votes:
        raise MaskensError(f"unexpected argument '{more[0]}'. Other submissions are named with --vote.")

    from ensemble.pipeline.infer import InferOptions, plan_inference, run_inference
    from ensemble.reporting.plan_tables import time_words
    from ensemble.reporting.tables import submission_table

    console = make_console(quiet)
    options = InferOptions(
        tta=tta,
        decision=decision,
        votes=[*(votes or []), *(more or [])],
        person_column=person_column,
        tuned=not no_tuning,
        engine=engine,
        precision=precision,
        compile=compile_models,
        early_exit=not no_early_exit,
        budget=budget,
        allow_missing=allow_missing,
        skip_bad_photos=skip_bad_photos,
        out=out,
        data=data,
        cache=cache,
        device=device,
        workers=workers,
        jobs=jobs,
        backend=backend,
        address=address,
        retries=retries,
    )
    plan = plan_inference(run, options)
    say(console, plan.used)
    if dry_run:
        with progress_bars(console) as on_progress:
            seconds, disk = plan.estimate(on_progress)
        words = f"about {time_words(seconds)}; photo cache {disk / 1e9:.2f} GB more. Nothing was written."
        say(console, words, "bold")
        return
    with progress_bars(console) as on_progress:
        done = run_inference(plan, on_progress)
    for line in done.notes:
        say(console, line)
    console.print(submission_table(done.check))
    note(console, [*filter(None, [done.warning]), *done.check.warnings], "warning")
    if done.earlier:
        say(console, f"the earlier file is kept as {done.earlier}")
    say(console, f"saved: {done.path}")
    say(console, f"next: maskens score{run_options(run)}", "dim")
