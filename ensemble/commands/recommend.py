"""maskens recommend."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ensemble.commands.options import (
    DEFAULT_RUNS,
    DataOption,
    DeviceOption,
    QuietOption,
    RunOption,
    WorkersOption,
)
from ensemble.commands.terminal import make_console, progress_bars, say


def recommend(
    hours: Annotated[float, typer.Option("--hours", help="Hours that training all folds may take.")] = 1.0,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The recipe, a TOML file.")] = Path(
        "recommended.toml"
    ),
    run: RunOption = DEFAULT_RUNS,
    data: DataOption = None,
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
    quiet: QuietOption = False,
) -> None:
    """Time a few models on this machine and write a recipe that fits the data and the time there is.

    Example:  maskens recommend --hours 2 --out evening.toml
    """
    from ensemble.pipeline.recommend import recommend as recommend_recipe

    console = make_console(quiet)
    with progress_bars(console) as on_progress:
        found = recommend_recipe(
            data, run[0], hours=hours, out=out, device=device, workers=workers, on_progress=on_progress
        )
    for line in found.why:
        say(console, line)
    say(console, "measured on a few batches, with nothing else running", "dim")
    if found.earlier:
        say(console, f"the earlier file is kept as {found.earlier}")
    say(console, f"saved: {found.path}")
    for command in found.next:
        say(console, f"next: {command}", "dim")
