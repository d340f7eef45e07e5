"""maskens sample."""

from __future__ import annotations

from functools import partial

from ensemble.commands.options import SampleOptions
from ensemble.commands.step import step
from ensemble.commands.terminal import Observer, Terminal
from folds.errors import MaskensError, typed
from folds.sample import SampleSummary, write_sample


def _print(made: SampleSummary, options: SampleOptions, terminal: Terminal) -> None:
    terminal.say(
        f"{made.folder}: {made.train_people} people with labels ({made.train_photos} photos), "
        f"{made.eval_people} to predict ({made.eval_photos} photos; the truth is in eval/answers.csv)"
    )
    most = made.train_people // 6  # people of each gender and age band
    few = "" if most >= 5 else f" --k {most}" if most >= 2 else " (too few people for folds: --people 12 at least)"
    terminal.next(f"maskens run --data {typed(made.folder)} --recipe demo{few}")


@step(SampleOptions, show=_print, first="folder")
def sample(options: SampleOptions, observer: Observer) -> SampleSummary:
    """
    Raises:
        MaskensError: the folder holds something, a size that can't be read, a number that is out of range.
    """
    width, _, height = options.size.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise MaskensError(f"--size {options.size}: write width and height in pixels, like 384x512.")
    size, jobs = (int(width), int(height)), options.workers or -1
    with observer.progress() as on_progress:
        drawing = partial(on_progress, "drawing")
        return write_sample(
            options.folder, options.people, size=size, seed=options.seed, jobs=jobs, on_progress=drawing
        )
