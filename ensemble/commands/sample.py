"""maskens sample."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensemble.commands.options import QuietOption, WorkersOption, seed_option
from ensemble.commands.step import step
from ensemble.commands.terminal import Observer, Terminal
from folds.errors import MaskensError, typed

if TYPE_CHECKING:
    from folds.sample import SampleSummary


@dataclass(frozen=True)
class Options:
    """What is drawn, and where it goes."""

    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")]
    people: Annotated[int, typer.Option("--people", help="People with labels; a third as many more to predict.")] = 90
    size: Annotated[str, typer.Option("--size", metavar="WxH", help="Photo size in pixels.")] = "384x512"
    seed: Annotated[int, seed_option("Seed of the drawn people.")] = 42
    workers: WorkersOption = None
    quiet: QuietOption = False


def _print(made: SampleSummary, options: Options, terminal: Terminal) -> None:
    terminal.say(
        f"{made.folder}: {made.train_people} people with labels ({made.train_photos} photos), "
        f"{made.eval_people} to predict ({made.eval_photos} photos; the truth is in eval/answers.csv)"
    )
    most = made.train_people // 6  # people of each gender and age band
    few = "" if most >= 5 else f" --k {most}" if most >= 2 else " (too few people for folds: --people 12 at least)"
    terminal.say(f"next: maskens folds --data {typed(made.folder)}{few}", "dim")


@step(Options, show=_print)
def sample(options: Options, observer: Observer) -> SampleSummary:
    """Make a sample set of drawn faces in the data's own layout, quirks and all.

    Example:  maskens sample data --people 90
    \f
    Raises:
        MaskensError: the folder holds something, a size that can't be read, a number that is out of range.
    """
    from folds.sample import write_sample

    width, separator, height = options.size.lower().partition("x")
    if not (separator and width.isdecimal() and height.isdecimal()):
        raise MaskensError(f"--size {options.size}: write width and height in pixels, like 384x512.")
    with observer.progress() as on_progress:
        return write_sample(
            options.folder,
            options.people,
            size=(int(width), int(height)),
            seed=options.seed,
            jobs=options.workers or -1,
            on_progress=partial(on_progress, "drawing"),
        )
