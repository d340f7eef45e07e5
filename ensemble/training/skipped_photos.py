"""Training photos that can't be read: which they are, and that all jobs of a run leave out the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from ensemble.data.cache import skip_unreadable
from ensemble.recipes.geometry import Geometry
from folds.data.decode import Progress, read_photo
from folds.data.people import TrainData
from folds.data.skipped import skipped_csv, skipped_hash
from folds.errors import MaskensError, refuse
from folds.files import leave
from folds.run import Run, load_run, save_run


def leave_out_unreadable(
    run: Run,
    data: TrainData,
    geometries: Sequence[Geometry],
    cache: Path | None,
    workers: int,
    on_progress: Progress | None = None,
    write: bool = True,
) -> tuple[Run, TrainData]:
    """Find the photos that can't be read, and have the run remember them. Once it has models, they stay the same.

    Args:
        geometries, cache, workers: as of `skip_unreadable`.
        write: fill the cache on the way and write into the run; else nothing is written.

    Returns:
        (run, data), which know what is left out.

    Raises:
        MaskensError: the run has models and others can't be read now than when these were trained; or none can be read.
    """
    fixed = bool(run.jobs_on_disk())
    photos = data.photos if fixed else dataclasses.replace(data.photos, skipped={})
    found = skip_unreadable(photos, geometries, cache, workers, on_progress, write).skipped
    if found.keys() == data.skipped.keys():
        return run, data
    if fixed:
        refuse(
            [f"{file} {why}" for file, why in sorted(found.items()) if file not in data.skipped],
            f"photos can't be read now that {run.folder} does not leave out, and it has models already",
            "Put them back as they were, or start a new run: maskens folds --run NEW_DIR",
        )
    if write:
        remember_skipped(run, found)
    return dataclasses.replace(run, skipped_hash=skipped_hash(found)), dataclasses.replace(data, skipped=found)


def remember_skipped(run: Run, skipped: Mapping[str, str]) -> None:
    """Write into a run which photos it leaves out.

    Args:
        skipped: file -> why it can't be read.
    """
    leave(run.skipped_file, skipped_csv(skipped) if skipped else "")
    kept = load_run(run.folder)  # as others may have written into it
    save_run(dataclasses.replace(kept, skipped_hash=skipped_hash(skipped)))


def readable_again(run: Run, data: TrainData) -> str:
    """What to say of photos that the run's models left out and that can be read by now; "" if there are none."""
    again = (
        [file for file in data.files if file in data.skipped and _readable(data, file)] if run.jobs_on_disk() else []
    )
    if not again:
        return ""
    count = f"{len(again)} of the photos that are left out can be read now, e.g. {again[0]}"
    return f"{count}; as the run's models never saw them, it goes on without. A new run would not"


def _readable(data: TrainData, file: str) -> bool:
    try:
        return len(read_photo(data.photos.path(file))) > 0
    except MaskensError:
        return False
