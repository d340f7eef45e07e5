"""maskens explore."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ensemble.commands.options import (
    DEFAULT_RUNS,
    DataOption,
    FixesOption,
    QuietOption,
    RunOption,
    WorkersOption,
    seed_option,
)
from ensemble.commands.terminal import make_console, progress_bars, say
from folds.errors import typed


def explore(
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where the page goes; by default explore beside the run."),
    ] = None,
    per_class: Annotated[
        int, typer.Option("--per-class", metavar="N", min=1, max=200, help="Photos on a class's contact sheet.")
    ] = 24,
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe", metavar="NAME|FILE", envvar="MASKENS_RECIPE", help="Recipe whose augmentation is shown."
        ),
    ] = "original",
    fixes: FixesOption = None,
    run: RunOption = DEFAULT_RUNS,
    data: DataOption = None,
    seed: Annotated[
        int | None, seed_option("Seed of the photos and augmentations shown; by default that of the run, else 42.")
    ] = None,
    workers: WorkersOption = None,
    quiet: QuietOption = False,
) -> None:
    """Look at the data before any training: counts, contact sheets, odd photos and labels, augmentation.

    Example:  maskens explore --per-class 12
    """
    from ensemble.pipeline.explore import explore as explore_data
    from folds.corrections import describe_fixes, merged_people
    from folds.explore.merge_candidates import FILE
    from folds.explore.page import class_table, group_table, summary_lines, warning_lines

    console = make_console(quiet)
    with progress_bars(console) as on_progress:
        done = explore_data(
            data,
            run[0],
            out=out,
            per_class=per_class,
            recipe=recipe,
            fixes=fixes or (),
            seed=seed,
            workers=workers,
            on_progress=on_progress,
        )
    found = done.exploration
    console.print(class_table(found))
    console.print(group_table(found))
    for line in summary_lines(found):
        say(console, line)
    for line in warning_lines(found):
        say(console, line, "yellow")
    if found.candidates:
        merged = f"--merge {typed(run[0] / 'merged.csv')} " if merged_people(found.data) else ""
        say(
            console,
            f"next: look at them, copy the rows of {done.folder / FILE} that show one person to same.csv, then  "
            f"maskens folds --run {typed(run[0])} --data {typed(found.data.root)} {merged}--merge same.csv",
            "dim",
        )
    if found.data.fixes:
        say(console, f"shown with label fixes: {describe_fixes(found.data)}")
    if done.replaced:
        say(console, f"the earlier page in {done.folder} was replaced")
    say(console, f"saved: {done.folder / 'index.html'} and its pictures beside it")
