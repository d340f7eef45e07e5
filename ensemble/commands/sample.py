"""maskens sample."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ensemble.commands.options import QuietOption, WorkersOption, seed_option
from ensemble.commands.terminal import make_console, progress_bars, say
from folds.errors import typed


def sample(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    people: Annotated[int, typer.Option("--people", help="People with labels; a third as many more to predict.")] = 90,
    size: Annotated[str, typer.Option("--size", metavar="WxH", help="Photo size in pixels.")] = "384x512",
    seed: Annotated[int | None, seed_option("Seed of the drawn people; 42 by default.")] = None,
    workers: WorkersOption = None,
    quiet: QuietOption = False,
) -> None:
    """Make a sample set of drawn faces in the data's own layout, quirks and all.

    Example:  maskens sample data --people 90
    """
    from ensemble.pipeline.inputs import DEFAULT_SEED
    from ensemble.pipeline.inputs import size as parse_size
    from ensemble.pipeline.sample import make_sample

    console = make_console(quiet)
    with progress_bars(console) as on_progress:
        made = make_sample(
            folder, people, parse_size(size), DEFAULT_SEED if seed is None else seed, workers, on_progress
        )
    say(
        console,
        f"{made.folder}: {made.train_people} people with labels ({made.train_photos} photos), "
        f"{made.eval_people} to predict ({made.eval_photos} photos; the truth is in eval/answers.csv)",
    )
    most = made.train_people // 6  # people of each gender and age band
    few = "" if most >= 5 else f" --k {most}" if most >= 2 else " (too few people for folds: --people 12 at least)"
    say(console, f"next: maskens folds --data {typed(made.folder)}{few}", "dim")
