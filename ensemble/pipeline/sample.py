"""A generated data folder to try things on."""

from __future__ import annotations

from pathlib import Path

from ensemble.pipeline.inputs import DEFAULT_SEED, Folder, OnProgress, part_of
from folds.sample import SampleSummary, write_sample


def make_sample(
    folder: Folder,
    people: int = 90,
    size: tuple[int, int] = (384, 512),
    seed: int = DEFAULT_SEED,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> SampleSummary:
    """Draw faces of people into a new or empty folder, in the data's own layout.

    Args:
        people: with labels; a third as many more are to be predicted.
        size: (width, height) of a photo in pixels.
        workers: processes; None takes all cores.

    Raises:
        MaskensError: the folder holds something, or a number is out of range.
    """
    return write_sample(
        Path(folder), people, size=size, seed=seed, jobs=workers or -1, on_progress=part_of(on_progress, "drawing")
    )
